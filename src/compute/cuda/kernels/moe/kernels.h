// The launches of the .cu files; launch.cpp checks, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/moe/problem.h"

namespace deepflight::cuda_moe {

void launch_route(const RouteProblem& problem, cudaStream_t stream);

// Rows up to this number are sorted by one block, larger problems by `num_blocks` in three
// launches.
inline constexpr int64_t kOneBlockRows = 8192;
inline constexpr int kSortTileRows = 4096;  // rows of a block of the larger problems
void launch_sort_one_block(const SortProblem& problem, cudaStream_t stream);
void launch_sort_blocks(const SortProblem& problem, cudaStream_t stream);

void launch_expand(const ExpandProblem& problem, cudaStream_t stream);
void launch_expand_fp8(const ExpandFp8Problem& problem, cudaStream_t stream);
void launch_combine(const CombineProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_moe
