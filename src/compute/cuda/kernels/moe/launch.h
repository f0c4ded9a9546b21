// Mixture of experts around the products: who goes to which expert, and the rows there and back.
// All launches are asynchronous and fit for a captured graph; shapes are CHECKed.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/moe/problem.h"

namespace deepflight::cuda_moe {

// Ids best first, ties to the lower expert; weights normalised and scaled as asked.
void route_experts(const RouteProblem& problem, cudaStream_t stream);

// Stable by expert, so that an expert's rows are in token order whatever the grid. An id outside
// [0, num_experts) counts as the last expert: a kernel cannot CHECK, and must not write elsewhere.
int64_t sort_scratch_bytes(int64_t num_rows, int num_experts);
void sort_by_expert(const SortProblem& problem, cudaStream_t stream);

void expand_rows(const ExpandProblem& problem, cudaStream_t stream);
void expand_rows(const ExpandFp8Problem& problem, cudaStream_t stream);

void combine_experts(const CombineProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_moe
