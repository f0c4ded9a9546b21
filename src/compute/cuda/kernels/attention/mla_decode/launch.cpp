#include "compute/cuda/kernels/attention/mla_decode/launch.h"

#include <algorithm>

#include "base/check.h"
#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_mla_decode {
namespace {

int num_sms() { return std::min(DeviceInfo::current().num_sms, kMaxParts); }

int64_t partial_rows() { return int64_t{2} * num_sms() * kTileRows; }

bool aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

void launch_fast(const MlaDecodeProblem& p, cudaStream_t stream) {
  CHECK(aligned(p.metadata, 16) && aligned(p.scratch, 16));
  auto* partials = static_cast<__half*>(p.scratch);
  auto* lse = reinterpret_cast<float*>(partials + partial_rows() * kLatentDim);
  const auto launch = p.format == PageFormat::kF8E4M3 ? launch_attend_fp8 : launch_attend_wgmma;
  CUDA_CHECK(launch(p, num_sms(), partials, lse, stream));
  CUDA_CHECK(launch_combine(p, num_sms(), partials, lse, stream));
}

}  // namespace

bool mla_decode_is_fast(const MlaDecodeProblem& p) {
  const bool is_fp8 = p.query_scales != nullptr;
  const bool strides_fit = p.q_stride == p.num_heads * p.q_head_stride &&
                           p.q_head_stride % (is_fp8 ? 16 : 8) == 0 && p.out_stride % 8 == 0 &&
                           p.out_head_stride % 8 == 0;
  const bool pool_fits = p.num_pages > 0 && p.page_stride_bytes % 16 == 0 &&
                         p.layer_offset_bytes % 16 == 0 && aligned(p.pool, 16);
  return is_fp8 == (p.format == PageFormat::kF8E4M3) && p.latent_dim == kLatentDim &&
         p.latent_dim + p.rope_dim == kTokenDim && strides_fit && aligned(p.q, 16) &&
         aligned(p.out, 16) && pool_fits;
}

int64_t mla_decode_metadata_bytes(int64_t max_sequences, int64_t max_tokens, int64_t num_heads) {
  return static_cast<int64_t>(sizeof(Schedule)) +
         max_groups(max_sequences, max_tokens, num_heads) * static_cast<int64_t>(sizeof(Group));
}

int64_t mla_decode_scratch_bytes() {
  return partial_rows() *
         static_cast<int64_t>(kLatentDim * sizeof(__half) + sizeof(float));  // and lse
}

void prepare_mla_decode(const MlaDecodeProblem& p, void* metadata, cudaStream_t stream) {
  if (p.num_tokens == 0) return;
  CHECK(p.num_heads > 0 && p.num_sequences > 0, p.num_heads, p.num_sequences);
  CHECK(p.num_tokens * p.num_heads < (int64_t{1} << 31), p.num_tokens, p.num_heads);
  launch_schedule(p, num_sms(), metadata, stream);
  CUDA_CHECK(cudaGetLastError());
}

void launch_mla_decode(const MlaDecodeProblem& problem, cudaStream_t stream) {
  const MlaDecodeProblem& p = problem;
  if (p.num_tokens == 0) return;
  CHECK(p.num_heads > 0 && p.latent_dim > 0 && p.rope_dim >= 0 && p.num_sequences > 0, p.num_heads,
        p.latent_dim, p.rope_dim, p.num_sequences);
  CHECK(p.num_tokens * p.num_heads < (int64_t{1} << 31), p.num_tokens, p.num_heads);
  CHECK(p.first_key >= 0 && p.first_key <= kPageTokens, p.first_key);
  CHECK(p.q_head_stride >= p.latent_dim + p.rope_dim && p.out_head_stride >= p.latent_dim,
        p.q_head_stride, p.out_head_stride);
  if (mla_decode_is_fast(p) && p.metadata != nullptr && p.scratch != nullptr) {
    launch_fast(p, stream);
    return;
  }
  CHECK(p.query_scales == nullptr, "e4m3 queries are for the tensor core kernel");
  CHECK(generic_shared_bytes(p) <= 48 * 1024, p.latent_dim, p.rope_dim);
  launch_attend_generic(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_mla_decode
