// Absorbed latent attention over the paged pool: what the op works on. Plain data; strides are in
// elements.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/page_format.h"

namespace deepflight::cuda_mla_decode {

// out[t, h] = sum_j softmax_j(softmax_scale * q[t, h] . K_j) K_j[0:latent_dim], causal. K_j: row j
// of the sequence's pages, j >= first_key. The queries of a sequence are the last of its kv_lens
// tokens; one that sees no key gets zeros.
struct MlaDecodeProblem {
  int64_t num_heads = 0;
  int64_t latent_dim = 0;
  int64_t rope_dim = 0;
  float softmax_scale = 0.0f;

  int64_t first_key = 0;  // at most 64

  int64_t num_sequences = 0;
  int64_t num_tokens = 0;  // rows of q: the last of query_offsets
  // A row's result depends on the row alone, not on the step: no sequence's pages are split over
  // blocks, whose number would follow from the other sequences. Slow for few long sequences; but
  // cuts at fixed pages would need room for the partial results of all sequences at their longest.
  bool batch_invariant = false;
  // Device memory. A slot < 0 is padding: its rows of `out` become zeros and no page is read.
  const int32_t* query_offsets = nullptr;  // [num_sequences + 1]
  const int32_t* kv_lens = nullptr;        // [num_sequences]
  const int32_t* slots = nullptr;          // [num_sequences]: rows of page_table

  // BF16 [num_tokens, num_heads, latent_dim + rope_dim]; the tensor core kernel wants a token's
  // heads one after the other. Of an e4m3 pool that one wants e4m3, with a scale a row: value =
  // stored * query_scales [num_tokens, num_heads]. Null: BF16.
  const void* q = nullptr;
  const float* query_scales = nullptr;
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  void* out = nullptr;  // BF16 [num_tokens, num_heads, latent_dim]
  int64_t out_stride = 0;
  int64_t out_head_stride = 0;

  const void* pool = nullptr;  // [page][layer][64][token], of `format`
  int64_t num_pages = 0;       // of the pool; the tensor core kernel must know
  int64_t page_stride_bytes = 0;
  int64_t layer_offset_bytes = 0;  // of this layer inside a page
  PageFormat format = PageFormat::kBF16;
  float kv_scale = 1.0f;                // of kF8E4M3: value = stored * kv_scale
  const int32_t* page_table = nullptr;  // [slot, page_table_stride]
  int64_t page_table_stride = 0;

  // Of the tensor core kernel; without them the generic one runs. `metadata` is what
  // prepare_mla_decode() made of this step's lengths; all layers of the step share it.
  // NOTE: reading may begin while kernels ahead in the stream still run. So between
  // prepare_mla_decode() and a launch nothing may write the page table or the pool but the tokens
  // of the queries, the last ones of each sequence.
  const void* metadata = nullptr;
  void* scratch = nullptr;  // mla_decode_scratch_bytes()
};

inline constexpr int kPageTokens = 64;

}  // namespace deepflight::cuda_mla_decode
