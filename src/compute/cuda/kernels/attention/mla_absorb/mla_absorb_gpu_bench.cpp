// Absorbed queries at DeepSeek-R1's widths, beside the same product in BF16 by cuBLASLt, which
// leaves rope and rounding to others. Weights of several layers in turn, past the L2.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "compute/cuda/kernels/attention/mla_absorb/launch.h"
#include "compute/cuda/kernels/gemm_bf16/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_absorb {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

TEST(MlaAbsorbBench, R1) {
  fmt::print("{}\n", DeviceInfo::current().name);
  constexpr int64_t kDim = kNopeDim + kRopeDim;
  Bf16Gemm bf16;
  const DeviceArray<uint8_t> workspace(Bf16Gemm::kWorkspaceBytes);
  for (const int64_t heads : {128, 16}) {
    const int64_t w_size = heads * kLatentDim * kNopeDim;
    const int64_t copies = copies_past_l2(w_size * 2, 20);
    const auto values = to_bf16(random_normal(w_size, 0.05f, 1));
    const DeviceArray<uint16_t> w(copies * w_size);
    for (int64_t i = 0; i < copies; ++i) {
      CUDA_CHECK(cudaMemcpy(w.data() + i * w_size, values.data(), w_size * 2, cudaMemcpyDefault));
    }
    for (const int64_t tokens : {1, 16, 64, 128, 256, 512}) {
      const DeviceArray<uint16_t> q(to_bf16(random_normal(tokens * heads * kDim, 1.0f, 2)));
      const DeviceArray<uint16_t> out16(tokens * heads * kQueryDim);
      const DeviceArray<uint8_t> out(tokens * heads * kQueryDim);
      const DeviceArray<float> scales(tokens * heads);
      const double us = median_us(20, 9, [&](int i, cudaStream_t stream) {
        MlaAbsorbProblem p;
        p.num_tokens = tokens, p.num_heads = heads;
        p.q = q.data(), p.q_stride = heads * kDim, p.q_head_stride = kDim;
        p.w_uk = w.data() + i % copies * w_size, p.out = out.data(), p.scales = scales.data();
        launch_mla_absorb(p, stream);
      });
      const double bf16_us = median_us(20, 9, [&](int i, cudaStream_t stream) {
        Bf16GemmProblem p;
        p.x = q.data(), p.x_stride = heads * kDim, p.x_batch_stride = kDim;
        p.w = w.data() + i % copies * w_size, p.w_stride = kNopeDim;
        p.w_batch_stride = kLatentDim * kNopeDim;
        p.out = out16.data(), p.out_stride = heads * kQueryDim, p.out_batch_stride = kQueryDim;
        p.m = tokens, p.n = kLatentDim, p.k = kNopeDim, p.batch = heads;
        bf16.launch(p, workspace.data(), stream);
      });
      const double bytes =
          static_cast<double>(w_size * 2 + tokens * heads * (kDim * 2 + kQueryDim + 4));
      fmt::print("mla_absorb {:3} heads {:3} tokens: {:6.1f} us {:5.0f} GB/s, BF16 {:6.1f} us\n",
                 heads, tokens, us, bytes / us * 1e-3, bf16_us);
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_mla_absorb
