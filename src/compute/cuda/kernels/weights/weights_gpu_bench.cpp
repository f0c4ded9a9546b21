// Time of filling R1's expert matrices and of splitting its kv_b_proj.
#include <fmt/format.h>

#include "compute/cuda/kernels/weights/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_weights {
namespace {

using testing::DeviceArray;

TEST(WeightsBench, Fill) {
  for (const bool fp8 : {true, false}) {
    for (const int64_t count : {int64_t{2048} * 7168, int64_t{1} << 30}) {
      const DeviceArray<uint16_t> values(count);
      const double us = testing::median_us(8, 5, [&](int, cudaStream_t stream) {
        fill_random({{1, 0.01f}, fp8, count, values.data(), 0, nullptr}, stream);
      });
      fmt::print("fill {:<5} {:>11} elements {:>9.1f} us {:>7.0f} GB/s\n", fp8 ? "e4m3" : "bf16",
                 count, us, static_cast<double>(count * (fp8 ? 1 : 2)) / us * 1e-3);
    }
  }
}

TEST(WeightsBench, SplitKvUp) {
  const int64_t rows = 128 * 256, latent = 512;
  const DeviceArray<uint8_t> values(std::vector<uint8_t>(rows * latent, 0x30));
  const DeviceArray<float> scales(std::vector<float>(rows / 128 * 4, 1.0f));
  const DeviceArray<uint16_t> expand(rows * latent), absorb_k(rows * latent / 2);
  const double us = testing::median_us(8, 5, [&](int, cudaStream_t stream) {
    split_kv_up(
        {128, 128, 128, latent, values.data(), scales.data(), expand.data(), absorb_k.data()},
        stream);
  });
  fmt::print("split kv_b_proj {:>9.1f} us {:>7.0f} GB/s\n", us,
             static_cast<double>(rows * latent * 4) / us * 1e-3);
}

}  // namespace
}  // namespace deepflight::cuda_weights
