// The launches of the .cu files and what goes from the first to the second.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/sample_verify/problem.h"

namespace deepflight::cuda_sample_verify {

inline constexpr int kMaxSplits = 64;
inline constexpr int kScanBlocksPerSm = 4;  // of the first launch, of 256 threads

// What a part of a row says.
struct RowPart {
  uint64_t best;     // packed (packed.cuh) arg max of the adjusted logits
  double raw_sum;    // sum of exp(logit - raw_max), where the slot wants log-probabilities
  float raw_max;     // largest logit as given
  uint32_t num_bad;  // logits that are not finite (as a flag)
};

// Parts of each row: `num_splits` of `part_size` logits (a multiple of 4), the last one shorter.
struct RowSplit {
  int num_splits;
  int part_size;
};

void launch_row_scan(const SampleProblem& problem, const RowSplit& split, cudaStream_t stream);
void launch_choose_token(const SampleProblem& problem, const RowSplit& split, bool small_blocks,
                         cudaStream_t stream);

}  // namespace deepflight::cuda_sample_verify
