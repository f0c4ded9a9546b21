// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_decode/problem.h"

namespace deepflight::cuda_mla_decode {

int64_t generic_shared_bytes(const MlaDecodeProblem& problem);
// Any widths; a block for each (token, head).
void launch_attend_generic(const MlaDecodeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_decode
