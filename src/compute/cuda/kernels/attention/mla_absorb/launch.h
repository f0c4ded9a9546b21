#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_absorb/problem.h"

namespace deepflight::cuda_mla_absorb {

// Whether the kernel takes these widths, strides and addresses.
bool mla_absorb_fits(const MlaAbsorbProblem& problem, int64_t nope_dim, int64_t latent_dim,
                     int64_t rope_dim);

// Capturable: the grid depends on the sizes alone. A row has the same bits in any company.
void launch_mla_absorb(const MlaAbsorbProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_absorb
