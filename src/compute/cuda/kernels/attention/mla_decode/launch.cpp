#include "compute/cuda/kernels/attention/mla_decode/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_mla_decode {

void launch_mla_decode(const MlaDecodeProblem& problem, cudaStream_t stream) {
  const MlaDecodeProblem& p = problem;
  if (p.num_tokens == 0) return;
  CHECK(p.num_heads > 0 && p.latent_dim > 0 && p.rope_dim >= 0 && p.num_sequences > 0, p.num_heads,
        p.latent_dim, p.rope_dim, p.num_sequences);
  CHECK(p.num_tokens * p.num_heads < (int64_t{1} << 31), p.num_tokens, p.num_heads);
  CHECK(p.q_head_stride >= p.latent_dim + p.rope_dim && p.out_head_stride >= p.latent_dim,
        p.q_head_stride, p.out_head_stride);
  CHECK(generic_shared_bytes(p) <= 48 * 1024, p.latent_dim, p.rope_dim);
  launch_attend_generic(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_mla_decode
