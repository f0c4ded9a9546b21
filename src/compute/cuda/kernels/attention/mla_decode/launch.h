// Absorbed latent attention out of the pages, for decode steps. Capturable: grids depend on host
// known sizes only, and the lengths are read on the device.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_decode/problem.h"

namespace deepflight::cuda_mla_decode {

void launch_mla_decode(const MlaDecodeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_decode
