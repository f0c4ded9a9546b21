#include "compute/cuda/kernels/attention/mla_absorb/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/attention/mla_absorb/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_mla_absorb {

bool mla_absorb_fits(const MlaAbsorbProblem& p, int64_t nope_dim, int64_t latent_dim,
                     int64_t rope_dim) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return nope_dim == kNopeDim && latent_dim == kLatentDim && rope_dim == kRopeDim &&
         p.q_stride % 8 == 0 && p.q_head_stride % 8 == 0 && aligned(p.q) && aligned(p.w_uk) &&
         aligned(p.out);
}

void launch_mla_absorb(const MlaAbsorbProblem& p, cudaStream_t stream) {
  if (p.num_tokens == 0) return;
  CHECK(p.num_heads > 0 && p.num_tokens * p.num_heads < (int64_t{1} << 31), p.num_tokens,
        p.num_heads);
  CHECK(mla_absorb_fits(p, kNopeDim, kLatentDim, kRopeDim), p.q_stride, p.q_head_stride);
  CUDA_CHECK(launch_absorb_fp8(p, DeviceInfo::current().num_sms, stream));
}

}  // namespace deepflight::cuda_mla_absorb
