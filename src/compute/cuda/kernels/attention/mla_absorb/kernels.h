// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_absorb/problem.h"

namespace deepflight::cuda_mla_absorb {

cudaError_t launch_absorb_fp8(const MlaAbsorbProblem& problem, int num_sms, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_absorb
