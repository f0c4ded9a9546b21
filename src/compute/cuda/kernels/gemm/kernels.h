// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/gemm/problem.h"

namespace deepflight::gemm_fp8 {

// Any shape and alignment.
void launch_generic(const Fp8GemmProblem& problem, cudaStream_t stream);

}  // namespace deepflight::gemm_fp8
