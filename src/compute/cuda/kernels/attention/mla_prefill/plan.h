// Cuts the KV of all sequences into chunks of bounded size. Pure host arithmetic. A sequence is cut
// at multiples of kv_chunk_tokens alone: where a row's partial results are joined must not depend
// on the sequences beside it, or on where its prompt was cut into chunks.
#pragma once

#include "compute/cuda/kernels/attention/mla_prefill/problem.h"

namespace deepflight::cuda_mla_prefill {

class ChunkPlanner {
 public:
  // `tile_rows`: query rows of a tile.
  ChunkPlanner(const MlaPrefillProblem& problem, int tile_rows)
      : problem_(problem), tile_rows_(tile_rows) {}

  // The next chunk; false after the last.
  bool next(Chunk& chunk);

 private:
  const MlaPrefillProblem& problem_;
  int tile_rows_;
  int64_t sequence_ = 0;
  int64_t position_ = 0;
};

// True if the widths and strides are what the tensor-core kernel takes.
bool fast_kernel_fits(const MlaPrefillProblem& problem);

}  // namespace deepflight::cuda_mla_prefill
