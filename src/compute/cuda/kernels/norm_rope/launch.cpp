#include "compute/cuda/kernels/norm_rope/launch.h"

#include <algorithm>

#include "base/check.h"
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_norm_rope {
namespace {

bool is_aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

void check_norm(const NormProblem& p) {
  CHECK(p.num_rows >= 0 && p.width > 0 && p.x_stride >= p.width, p.num_rows, p.width, p.x_stride);
  CHECK(p.num_rows < (int64_t{1} << 31), p.num_rows);
  CHECK(p.out != nullptr || p.fp8.values != nullptr);
  CHECK(p.out == nullptr || p.out_stride >= p.width, p.out_stride, p.width);
  CHECK(p.residual == nullptr || p.residual_stride >= p.width, p.residual_stride, p.width);
  CHECK(p.fp8.values == nullptr || (p.fp8.scales != nullptr && p.fp8.value_stride >= p.width &&
                                    p.fp8.scale_stride >= p.num_rows),
        p.fp8.value_stride, p.fp8.scale_stride, p.num_rows, p.width);
}

bool fits_vectors(const NormProblem& p) {
  return p.width % 8 == 0 && p.width <= kMaxVectorWidth && is_aligned(p.x, 16) &&
         p.x_stride % 8 == 0 && is_aligned(p.residual, 16) && p.residual_stride % 8 == 0 &&
         is_aligned(p.weight, 16) && is_aligned(p.out, 16) && p.out_stride % 8 == 0 &&
         is_aligned(p.fp8.values, 8) && p.fp8.value_stride % 8 == 0;
}

void run(const NormParts& parts, cudaStream_t stream) {
  bool vector = true;
  int64_t width = 0;
  for (int i = 0; i < parts.num_parts; ++i) {
    check_norm(parts.part[i]);
    vector = vector && fits_vectors(parts.part[i]);
    width = std::max(width, parts.part[i].width);
  }
  const int64_t num_rows = parts.part[0].num_rows;
  if (num_rows == 0) return;
  if (vector) {
    // One vector a thread is the faster at every number of rows (README.md), where it suffices.
    launch_norm_vector(parts, width <= kMaxVectorWidth / 2 ? 1 : 2, stream);
  } else {
    launch_norm_generic(parts, stream);
  }
  CUDA_CHECK(cudaGetLastError());
}

bool fits_vectors(const RopeProblem& p) {
  const PoolTarget& pool = p.pool;
  const bool table =
      p.rope_dim % 16 == 0 && p.rope_dim <= kMaxVectorRopeDim && is_aligned(p.cos_sin, 16);
  const bool q = is_aligned(p.q_pe, 16) && p.q_token_stride % 8 == 0 && p.q_head_stride % 8 == 0;
  const bool copy =
      is_aligned(p.q_copy, 16) && p.copy_token_stride % 8 == 0 && p.copy_head_stride % 8 == 0;
  const bool latent = is_aligned(p.latent, 16) && p.latent_stride % 8 == 0 &&
                      pool.token_dim % 8 == 0 && pool.page_stride_bytes % 16 == 0 &&
                      is_aligned(pool.base, 16) &&
                      (pool.format != PageFormat::kF8Group ||
                       page_tokens_fit_vectors(pool.format, pool.latent_dim(), pool.rope_dim));
  return table && q && copy && latent;
}

}  // namespace

void rms_norm(const NormProblem& problem, cudaStream_t stream) { run({1, {problem, {}}}, stream); }

void rms_norm_pair(const NormProblem& a, const NormProblem& b, cudaStream_t stream) {
  CHECK(a.num_rows == b.num_rows && a.residual == nullptr && b.residual == nullptr, a.num_rows,
        b.num_rows);
  run({2, {a, b}}, stream);
}

void add(const AddProblem& problem, cudaStream_t stream) {
  const AddProblem& p = problem;
  CHECK(p.num_rows >= 0 && p.width >= 0 && p.delta_stride >= p.width && p.sum_stride >= p.width,
        p.num_rows, p.width, p.delta_stride, p.sum_stride);
  if (p.num_rows == 0 || p.width == 0) return;
  const bool vector = p.width % 8 == 0 && is_aligned(p.delta, 16) && is_aligned(p.sum, 16) &&
                      p.delta_stride % 8 == 0 && p.sum_stride % 8 == 0;
  launch_add(p, vector, stream);
  CUDA_CHECK(cudaGetLastError());
}

void rope_write_kv(const RopeProblem& problem, cudaStream_t stream) {
  const RopeProblem& p = problem;
  CHECK(p.num_tokens >= 0 && p.num_tokens < (int64_t{1} << 31), p.num_tokens);
  CHECK(p.rope_dim >= 0 && p.rope_dim % 2 == 0, p.rope_dim);
  CHECK(p.num_heads == 0 || (p.q_pe != nullptr && p.q_head_stride >= p.rope_dim), p.num_heads,
        p.q_head_stride, p.rope_dim);
  CHECK(p.cos_sin != nullptr ? p.rope_dim > 0 : p.num_heads == 0, p.num_heads, p.rope_dim);
  CHECK(p.num_copied >= 0 && p.num_copied <= p.num_tokens &&
            (p.num_copied == 0 || p.q_copy != nullptr),
        p.num_copied, p.num_tokens);
  if (p.latent != nullptr) {
    CHECK(p.pool.token_dim >= p.rope_dim && p.latent_stride >= p.pool.token_dim, p.pool.token_dim,
          p.rope_dim, p.latent_stride);
    CHECK(p.pool.rope_dim >= 0 && p.pool.rope_dim <= p.pool.token_dim, p.pool.rope_dim);
    CHECK(p.pool.layer >= 0 &&
              p.pool.page_stride_bytes >= (p.pool.layer + 1) * 64 * p.pool.token_bytes(),
          p.pool.layer, p.pool.page_stride_bytes);
    CHECK(p.pool.base != nullptr && p.pool.token_slots != nullptr && p.pool.page_table != nullptr);
    CHECK(p.pool.scale > 0.0f, p.pool.scale);
  }
  if (p.num_tokens == 0 || (p.num_heads == 0 && p.latent == nullptr)) return;
  if (fits_vectors(p)) {
    // Several heads a thread once there are blocks enough to fill the device without.
    const int64_t blocks = p.num_tokens * ((p.num_heads * p.rope_dim / 8 + 127) / 128);
    const int64_t wave = int64_t{DeviceInfo::current().num_sms} * 12;
    launch_rope_vector(p, blocks >= 4 * wave ? 4 : blocks >= 2 * wave ? 2 : 1, stream);
  } else {
    launch_rope_generic(p, stream);
  }
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_norm_rope
