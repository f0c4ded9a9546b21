#include "compute/cuda/kernels/attention/mla_prefill/plan.h"

#include <algorithm>

namespace deepflight::cuda_mla_prefill {

bool ChunkPlanner::next(Chunk& chunk) {
  chunk.num_pieces = chunk.num_rows = chunk.num_tiles = 0;
  while (sequence_ < problem_.num_sequences && chunk.num_pieces < kMaxPieces) {
    const int64_t free_rows = problem_.kv_chunk_tokens - chunk.num_rows;
    const int64_t first_query = problem_.host_query_offsets[sequence_];
    const int64_t query_len = problem_.host_query_offsets[sequence_ + 1] - first_query;
    const int64_t kv_len = query_len > 0 ? problem_.host_kv_lens[sequence_] : 0;
    const int64_t num_keys = std::min(kv_len - position_, problem_.kv_chunk_tokens);
    if (num_keys > free_rows / kKeyTile * kKeyTile) break;
    if (num_keys > 0) {
      // Queries before the piece's first token see nothing of it.
      const int64_t first_position = kv_len - query_len;
      const int64_t skipped = std::max<int64_t>(0, position_ - first_position);
      Piece& piece = chunk.pieces[chunk.num_pieces++];
      piece.sequence = static_cast<int32_t>(sequence_);
      piece.first_query = static_cast<int32_t>(first_query + skipped);
      piece.num_queries = static_cast<int32_t>(query_len - skipped);
      piece.diagonal = static_cast<int32_t>(first_position + skipped - position_);
      piece.kv_begin = static_cast<int32_t>(position_);
      piece.num_keys = static_cast<int32_t>(num_keys);
      piece.first_key = chunk.num_rows;
      piece.first_tile = chunk.num_tiles;
      chunk.num_rows += static_cast<int32_t>((num_keys + kKeyTile - 1) / kKeyTile * kKeyTile);
      chunk.num_tiles += (piece.num_queries + tile_rows_ - 1) / tile_rows_;
      position_ += num_keys;
    }
    if (position_ >= kv_len) {
      ++sequence_;
      position_ = 0;
    }
  }
  return chunk.num_pieces > 0;
}

bool fast_kernel_fits(const MlaPrefillProblem& p) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return p.nope_dim == 128 && p.v_dim == 128 && p.rope_dim == 64 && p.softmax_scale > 0 &&
         p.q_stride % 8 == 0 && p.q_head_stride % 8 == 0 && p.out_stride % 8 == 0 && aligned(p.q) &&
         aligned(p.out);
}

}  // namespace deepflight::cuda_mla_prefill
