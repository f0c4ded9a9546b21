// Problems of random numbers on the device, for tests and benches of the FP8 products.
#pragma once

#include <numeric>
#include <random>
#include <vector>

#include "compute/cuda/kernels/gemm/kernels.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::gemm_fp8 {

using testing::DeviceArray;

// `count` values at `data`: a pattern of random ones, over and over; its length is no multiple of a
// row's.
template <typename T>
void fill_with(T* data, int64_t count, const std::vector<T>& pattern) {
  int64_t done = std::min<int64_t>(count, static_cast<int64_t>(pattern.size()));
  CUDA_CHECK(cudaMemcpy(data, pattern.data(), done * sizeof(T), cudaMemcpyHostToDevice));
  while (done < count) {
    const int64_t part = std::min(done, count - done);
    CUDA_CHECK(cudaMemcpy(data + done, data, part * sizeof(T), cudaMemcpyDeviceToDevice));
    done += part;
  }
}

inline std::vector<uint8_t> random_values(int64_t count, uint64_t seed) {
  return testing::to_f8(testing::random_normal(count, 40.0f, seed));
}
inline std::vector<float> random_scales(int64_t count, uint64_t seed) {
  auto scales = testing::random_normal(count, 0.3f, seed);
  for (float& scale : scales) scale = 0.01f * std::exp(scale);
  return scales;
}

// Rows of each group: offsets [groups + 1].
inline std::vector<int32_t> offsets_of(const std::vector<int32_t>& rows) {
  std::vector<int32_t> offsets(rows.size() + 1, 0);
  std::partial_sum(rows.begin(), rows.end(), offsets.begin() + 1);
  return offsets;
}

// Operands on the device. `copies` of the weights, so that a bench can pass the L2. `gap`: 16 bytes
// between rows of x, which a test wants and which costs the kernel time: the engine's rows lie
// close, and begin at multiples of 128 bytes where k is one.
struct Operands {
  Operands(int64_t m, int64_t n, int64_t k, std::vector<int32_t> group_rows, int64_t copies = 1,
           bool gap = true)
      : m(m),
        n(n),
        k(k),
        groups(std::max<int64_t>(1, static_cast<int64_t>(group_rows.size()))),
        value_stride(Fp8Rows::value_stride_of(k) + (gap ? 16 : 0)),
        scale_stride(Fp8Rows::scale_stride_of(m) + (gap ? 4 : 0)),
        w_scale_count(groups * ((n + 127) / 128) * ((k + 127) / 128)),
        host_offsets(offsets_of(group_rows)),
        x((m + Fp8Rows::kRowsBeyond) * value_stride),
        x_scales((k + 127) / 128 * scale_stride),
        w(copies * groups * n * k),
        w_scales(copies * w_scale_count),
        offsets(host_offsets),
        next_tile(std::vector<int32_t>{0}) {
    // What lies between the rows and behind them stays NaN.
    const auto values = random_values(1 << 18, 1);
    for (int64_t row = 0; row < m; ++row) {
      const int64_t at = row * 7919 % ((1 << 18) - k);
      CUDA_CHECK(cudaMemcpyAsync(x.data() + row * value_stride, values.data() + at, k,
                                 cudaMemcpyHostToDevice));
    }
    const auto scales = random_scales(m, 2);
    for (int64_t block = 0; block < (k + 127) / 128; ++block) {
      const int64_t turn = block * 13 % m;
      float* target = x_scales.data() + block * scale_stride;
      CUDA_CHECK(
          cudaMemcpyAsync(target, scales.data() + turn, (m - turn) * 4, cudaMemcpyHostToDevice));
      CUDA_CHECK(
          cudaMemcpyAsync(target + m - turn, scales.data(), turn * 4, cudaMemcpyHostToDevice));
    }
    fill_with(w.data(), w.size(), random_values(1000003, 3));
    fill_with(w_scales.data(), w_scales.size(), random_scales(10007, 4));
    CUDA_CHECK(cudaDeviceSynchronize());
  }

  Fp8GemmProblem problem(void* out, int64_t out_stride, bool out_f32 = false,
                         int64_t copy = 0) const {
    Fp8GemmProblem p;
    p.x = {x.data(), value_stride, x_scales.data(), scale_stride};
    p.w = w.data() + copy * groups * n * k;
    p.w_scales = w_scales.data() + copy * w_scale_count;
    p.out = out;
    p.out_stride = out_stride;
    p.out_f32 = out_f32;
    p.m = m;
    p.n = n;
    p.k = k;
    p.weights_settled = true;
    if (host_offsets.size() > 1) {
      p.num_groups = static_cast<int>(groups);
      p.offsets = offsets.data();
      p.next_tile = next_tile.data();
    }
    return p;
  }

  int64_t m, n, k, groups, value_stride, scale_stride, w_scale_count;
  std::vector<int32_t> host_offsets;
  DeviceArray<uint8_t> x;
  DeviceArray<float> x_scales;
  DeviceArray<uint8_t> w;
  DeviceArray<float> w_scales;
  DeviceArray<int32_t> offsets;
  DeviceArray<int32_t> next_tile;  // 0 after every launch
};

}  // namespace deepflight::gemm_fp8
