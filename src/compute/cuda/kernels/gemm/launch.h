// FP8 block-scaled products for every shape.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/gemm/problem.h"

namespace deepflight {

// Depends on the shape alone.
int64_t fp8_gemm_scratch_bytes(const Fp8GemmProblem& problem);

void launch_fp8_gemm(const Fp8GemmProblem& problem, cudaStream_t stream);

}  // namespace deepflight
