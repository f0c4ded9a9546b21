// Expanded latent attention of prefill chunks, from the pages: gather, expand by the caller's
// product, attend, chunk by chunk over the KV so that scratch memory is bounded.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "compute/cuda/kernels/attention/mla_prefill/problem.h"

namespace deepflight::cuda_mla_prefill {

// out[num_rows, num_heads * (nope_dim + v_dim)] = x[num_rows, latent_dim] * W_UKV^T, BF16, on the
// stream of the launch. Rows of zeros must give zeros. Strides in elements.
using ExpandFn = std::function<void(const void* x, int64_t x_stride, void* out, int64_t out_stride,
                                    int64_t num_rows)>;

// Depends on the widths, kv_chunk_tokens and num_tokens, the rows of q.
int64_t mla_prefill_scratch_bytes(const MlaPrefillProblem& shape, int64_t num_tokens);

// kDefault picks by shape; the others are for tests.
enum class Kernel { kDefault, kGeneric };

void launch_mla_prefill(const MlaPrefillProblem& problem, const ExpandFn& expand,
                        cudaStream_t stream, Kernel kernel = Kernel::kDefault);

}  // namespace deepflight::cuda_mla_prefill
