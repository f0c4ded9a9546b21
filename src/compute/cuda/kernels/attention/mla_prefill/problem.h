// Expanded latent attention over prefill chunks: what the op works on, and the pieces that the host
// cuts it into. Plain data; strides are in elements.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/page_format.h"

namespace deepflight::cuda_mla_prefill {

// K[h] = [W_UK[h] c | k_pe], V[h] = W_UV[h] c of the pages; out[t, h] = softmax(scale q K) V,
// causal, over keys of position first_key and later. The queries of a sequence are the last of its
// kv_len tokens; one that sees no key gets zeros.
struct MlaPrefillProblem {
  int64_t num_heads = 0;
  int64_t latent_dim = 0;
  int64_t rope_dim = 0;
  int64_t nope_dim = 0;
  int64_t v_dim = 0;
  float softmax_scale = 0.0f;
  int64_t first_key = 0;  // at most 64

  int64_t num_sequences = 0;
  const int32_t* host_query_offsets = nullptr;  // host memory [num_sequences + 1]: rows of q
  const int32_t* host_kv_lens = nullptr;        // host memory [num_sequences]
  const int32_t* slots = nullptr;               // [num_sequences]: rows of page_table

  const void* q = nullptr;  // BF16 [num_tokens, num_heads, nope_dim + rope_dim]
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  void* out = nullptr;  // BF16 [num_tokens, num_heads * v_dim]
  int64_t out_stride = 0;

  const void* pool = nullptr;  // [page][layer][64][token], of `format`
  int64_t page_stride_bytes = 0;
  int64_t layer_offset_bytes = 0;  // of this layer inside a page
  PageFormat format = PageFormat::kBF16;
  float kv_scale = 1.0f;                // of kF8E4M3: value = stored * kv_scale
  const int32_t* page_table = nullptr;  // [slot, page_table_stride]
  int64_t page_table_stride = 0;

  // KV tokens expanded at a time, a multiple of kKeyTile, and mla_prefill_scratch_bytes() bytes.
  int64_t kv_chunk_tokens = 0;
  void* scratch = nullptr;
};

inline constexpr int kPageTokens = 64;
inline constexpr int kKeyTile = 128;    // pieces start at multiples of it in the expanded rows
inline constexpr int kQueryTile = 128;  // rows of a block of the fast kernel
inline constexpr int kMaxPieces = 64;

// Some KV tokens of one sequence and the queries that see any of them. Query row i of the piece
// sees the piece's tokens 0 .. min(diagonal + i, num_keys - 1).
struct Piece {
  int32_t sequence;
  int32_t first_query;  // row of q and out
  int32_t num_queries;
  int32_t diagonal;
  int32_t kv_begin;  // position of the piece's first token; 0: queries come without a past
  int32_t num_keys;
  int32_t first_key;   // row of the chunk; rows up to the next multiple of kKeyTile are zeros
  int32_t first_tile;  // of the chunk's query tiles
};

// The pieces that are expanded together.
struct Chunk {
  int32_t num_pieces;
  int32_t num_rows;  // of the expanded KV
  int32_t num_tiles;
  Piece pieces[kMaxPieces];
};

// What the attention kernels take: a chunk, its expanded rows, and the state between chunks: `out`
// holds the normalised outputs so far and `lse` the logarithms of their softmax's denominators.
struct AttendProblem {
  const void* q;  // as in MlaPrefillProblem
  int64_t q_stride;
  int64_t q_head_stride;
  const void* expanded;  // BF16 [num_rows, num_heads, nope_dim + v_dim]: K without rope, then V
  const void* k_pe;      // BF16 [num_rows, rope_dim]
  void* out;
  int64_t out_stride;
  float* lse;        // [num_heads, num_tokens]
  int32_t* counter;  // 0 at the start; hands out tiles
  int64_t num_tokens;
  int32_t num_heads;
  int32_t nope_dim;
  int32_t rope_dim;
  int32_t v_dim;
  float softmax_scale;
  int32_t first_key;  // of pieces that begin at position 0
};

}  // namespace deepflight::cuda_mla_prefill
