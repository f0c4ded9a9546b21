// Launches without checks; called by launch.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_prefill/problem.h"

namespace deepflight::cuda_mla_prefill {

// The chunk's tokens out of the pages to BF16 [num_rows, latent_dim] and [num_rows, rope_dim]; rows
// that pad a piece become zeros. Sets *counter to 0.
void launch_gather(const MlaPrefillProblem& problem, const Chunk& chunk, void* latent, void* k_pe,
                   int32_t* counter, cudaStream_t stream);

// Any widths; tiles of one query row.
void launch_attend_generic(const AttendProblem& problem, const Chunk& chunk, cudaStream_t stream);

// Widths 128 + 64 and 128; tiles of kQueryTile rows.
cudaError_t launch_attend_wgmma(const AttendProblem& problem, const Chunk& chunk, int num_sms,
                                int64_t l2_bytes, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_prefill
