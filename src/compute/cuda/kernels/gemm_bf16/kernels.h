// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/gemm_bf16/problem.h"

namespace deepflight::gemm_bf16 {

// Any shape, stride and alignment.
void launch_generic(const Bf16GemmProblem& problem, cudaStream_t stream);
void launch_generic_grouped(const Bf16GroupedProblem& problem, cudaStream_t stream);

// On tensor cores; every element is summed over k in one order, whatever the rows beside it. n
// even, k a multiple of 8, x, w and the rows of both aligned to 16 bytes, those of out to two
// elements.
cudaError_t launch_mma(const Bf16GemmProblem& problem, cudaStream_t stream);
cudaError_t launch_grouped_mma(const Bf16GroupedProblem& problem, cudaStream_t stream);

}  // namespace deepflight::gemm_bf16
