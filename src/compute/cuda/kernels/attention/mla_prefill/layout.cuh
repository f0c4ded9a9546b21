// What the kernel works on, tile by tile, and where it lies in shared memory.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_prefill/problem.h"

namespace deepflight::cuda_mla_prefill {

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;
constexpr int kStages = 2;
constexpr int kBoxBytes = 128 * 128;  // 128 rows of 64 elements
constexpr int kQueryBytes = 3 * kBoxBytes;
constexpr int kKeyBytes = 3 * kBoxBytes;
constexpr int kValueBytes = 2 * kBoxBytes;
constexpr int kBarrierOffset = kQueryBytes + kStages * (kKeyBytes + kValueBytes);
constexpr int kTileOffset = kBarrierOffset + 128;
constexpr int kTileSlots = 4;   // the one that is stored, the one that is attended, and the next
constexpr int kTileBytes = 64;  // at least a Tile's
constexpr int kStagingOffset = kTileOffset + kTileSlots * kTileBytes;
constexpr int kStagingBytes = 2048;  // of a warp: 16 rows of 64 outputs
constexpr int kSharedBytes =
    kStagingOffset + kConsumerWarps * kStagingBytes + 1024;  // and room to align
constexpr int kValueDim = 128;

struct WgmmaParams {
  CUtensorMap q;         // [token][head][192], boxes of 128 tokens x 64
  CUtensorMap expanded;  // [row][head][256], boxes of 128 rows x 64
  CUtensorMap k_pe;      // [row][1][64], boxes of 128 rows
  __nv_bfloat16* out;
  int64_t out_stride;
  float* lse;
  int64_t num_tokens;
  int32_t* counter;
  int32_t num_heads;
  int32_t single_heads;  // that run one after the other; those behind them, at a time
  int32_t num_tiles;     // of all heads
  int32_t first_key;
  float softmax_scale;
  Chunk chunk;
};

// Which queries, keys and head a tile is of. Heads come one after the other, so that tiles that run
// at a time share keys and values in the L2 and are of all lengths; the last heads together. Of a
// head, or of these, tiles with most keys come first.
struct Tile {
  __device__ Tile(const WgmmaParams& p, int index) {
    const int first_head = min(index / p.chunk.num_tiles, p.single_heads);
    const int num_heads = first_head == p.single_heads ? p.num_heads - first_head : 1;
    const int rest = index - first_head * p.chunk.num_tiles;
    const int tile = p.chunk.num_tiles - 1 - rest / num_heads;
    head = first_head + rest % num_heads;
    int i = p.chunk.num_pieces - 1;
    while (p.chunk.pieces[i].first_tile > tile) --i;
    const Piece& piece = p.chunk.pieces[i];
    const int first_row = (tile - piece.first_tile) * kQueryTile;
    first_query = piece.first_query + first_row;
    num_rows = min(kQueryTile, piece.num_queries - first_row);
    diagonal = piece.diagonal + first_row;
    num_keys = piece.num_keys;
    first_key = piece.first_key;
    has_past = piece.kv_begin > 0;
    first_seen = has_past ? 0 : p.first_key;
    num_blocks = min(diagonal + num_rows - 1, num_keys - 1) / kKeyTile + 1;
  }
  int head, first_query, num_rows, diagonal, num_keys, first_key, num_blocks;
  int first_seen;  // of the keys
  bool has_past;
};
static_assert(sizeof(Tile) <= kTileBytes);

// Shared memory: addresses, and the tiles that the copying thread has handed out.
struct Shared {
  uint32_t base;
  Tile* tiles;  // [kTileSlots]; num_blocks 0: there are no more
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t key(int stage) const { return base + kQueryBytes + stage * kKeyBytes; }
  __device__ uint32_t value(int stage) const {
    return base + kQueryBytes + kStages * kKeyBytes + stage * kValueBytes;
  }
  __device__ uint32_t query_full() const { return base + kBarrierOffset; }
  __device__ uint32_t query_empty() const { return base + kBarrierOffset + 8; }
  __device__ uint32_t key_full(int stage) const { return base + kBarrierOffset + 16 + 8 * stage; }
  __device__ uint32_t key_empty(int stage) const { return base + kBarrierOffset + 32 + 8 * stage; }
  __device__ uint32_t value_full(int stage) const { return base + kBarrierOffset + 48 + 8 * stage; }
  __device__ uint32_t value_empty(int stage) const {
    return base + kBarrierOffset + 64 + 8 * stage;
  }
  __device__ uint32_t staging(int warp) const {
    return base + kStagingOffset + warp * kStagingBytes;
  }
  __device__ Tile& tile(int number) const { return tiles[number % kTileSlots]; }
};

}  // namespace deepflight::cuda_mla_prefill
