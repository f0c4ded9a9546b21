// The grouped product at the shapes of V2-Lite's experts: decode, where it streams weights, and
// prefill. Weights of several layers in turn, past the L2.
#include <gtest/gtest.h>

#include <cstdio>

#include "compute/cuda/kernels/gemm_bf16/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

TEST(GroupedBf16Bench, V2Lite) {
  constexpr int kGroups = 64, kCopies = 3;
  std::printf("%s\n", DeviceInfo::current().name.c_str());
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{2816, 2048}, {2048, 1408}}) {
    const auto block = to_bf16(random_normal(n * k, 0.02f, 1));
    const DeviceArray<uint16_t> w(kCopies * kGroups * n * k);
    for (int64_t i = 0; i < kCopies * kGroups; ++i) {
      CUDA_CHECK(cudaMemcpy(w.data() + i * n * k, block.data(), n * k * 2, cudaMemcpyDefault));
    }
    for (const int rows : {1, 6, 24, 768}) {
      std::vector<int32_t> offsets{0};
      for (int g = 0; g < kGroups; ++g) offsets.push_back(offsets.back() + rows);
      const int64_t m = offsets.back();
      const DeviceArray<uint16_t> x(to_bf16(random_normal(m * k, 1.0f, 2))), out(m * n);
      const DeviceArray<int32_t> d_offsets(offsets);
      Bf16GroupedProblem p;
      p.x = x.data(), p.x_stride = k, p.out = out.data(), p.out_stride = n;
      p.m = m, p.n = n, p.k = k, p.num_groups = kGroups, p.offsets = d_offsets.data();
      const double us = median_us(6, 7, [&](int i, cudaStream_t stream) {
        p.w = w.data() + i % kCopies * kGroups * n * k;
        launch_grouped_bf16(p, stream);
      });
      const double bytes = 2.0 * static_cast<double>(kGroups * n * k + m * (n + k));
      const double flops = 2.0 * static_cast<double>(m * n * k);
      std::printf("grouped bf16 64 x %4d rows, %4lld x %4lld: %8.1f us %7.1f TFLOPS %6.0f GB/s\n",
                  rows, static_cast<long long>(n), static_cast<long long>(k), us, flops / us * 1e-6,
                  bytes / us * 1e-3);
    }
  }
}

}  // namespace
}  // namespace deepflight
