// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_decode/problem.h"
#include "compute/cuda/kernels/attention/mla_decode/schedule.h"

namespace deepflight::cuda_mla_decode {

int64_t generic_shared_bytes(const MlaDecodeProblem& problem);
// Any widths; a block for each (token, head).
void launch_attend_generic(const MlaDecodeProblem& problem, cudaStream_t stream);

// Widths 512 + 64, a pool of BF16 or of e4m3 groups. A block writes a split group's outputs to slot
// 2 block + (1 if its part did not begin with the group) of `partials` [2 num_sms][64][512] and
// `lse` [2 num_sms][64] (base 2).
cudaError_t launch_attend_wgmma(const MlaDecodeProblem& problem, int num_sms, __half* partials,
                                float* lse, cudaStream_t stream);
// The same of an e4m3 pool.
cudaError_t launch_attend_fp8(const MlaDecodeProblem& problem, int num_sms, __half* partials,
                              float* lse, cudaStream_t stream);
// Joins the split groups' partial results.
cudaError_t launch_combine(const MlaDecodeProblem& problem, int num_sms, const __half* partials,
                           const float* lse, cudaStream_t stream);

// Fills the metadata.
void launch_schedule(const MlaDecodeProblem& problem, int num_sms, void* metadata,
                     cudaStream_t stream);

inline constexpr int kLatentDim = 512;
inline constexpr int kTokenDim = 576;

}  // namespace deepflight::cuda_mla_decode
