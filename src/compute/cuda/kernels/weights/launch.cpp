// Checks and launches.
#include "compute/cuda/kernels/weights/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/weights/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_weights {

void fill_random(const FillProblem& p, cudaStream_t stream) {
  CHECK(p.count >= 0 && p.count < (int64_t{1} << 40), p.count);
  CHECK(p.count == 0 || p.values != nullptr);
  CHECK(p.fp8 || reinterpret_cast<uintptr_t>(p.values) % 2 == 0);
  CHECK(p.num_scales >= 0 && (p.num_scales == 0 || (p.fp8 && p.scales != nullptr)), p.num_scales);
  if (p.count > 0) launch_fill_values(p, stream);
  if (p.num_scales > 0) launch_fill_scales(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

void split_kv_up(const KvUpProblem& p, cudaStream_t stream) {
  CHECK(p.num_heads > 0 && p.num_heads < 65536 && p.nope_dim > 0 && p.v_dim > 0 &&
            p.latent_dim > 0 && p.nope_dim + p.v_dim < (1 << 20),
        p.num_heads, p.nope_dim, p.v_dim, p.latent_dim);
  CHECK(p.values != nullptr && p.expand != nullptr && p.absorb_k != nullptr);
  launch_split_kv_up(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_weights
