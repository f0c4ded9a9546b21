// Norms, residual sums, rotary embedding and the write of latent rows to the KV pages. One launch
// each, asynchronous, fit for a captured graph.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/norm_rope/problem.h"

namespace deepflight::cuda_norm_rope {

// rms_norm, or add_rms_norm where the problem has a residual.
void rms_norm(const NormProblem& problem, cudaStream_t stream);
// Two norms without residual of the same number of rows; widths may differ.
void rms_norm_pair(const NormProblem& a, const NormProblem& b, cudaStream_t stream);
void add(const AddProblem& problem, cudaStream_t stream);
// rope, write_kv (no table, no heads) and rope_write_kv.
void rope_write_kv(const RopeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_norm_rope
