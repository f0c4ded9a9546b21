// Filling and splitting against the host, bit for bit, at odd sizes and alignments.
#include "compute/cuda/kernels/weights/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"
#include "compute/ops/random_matrix.h"

namespace deepflight::cuda_weights {
namespace {

using testing::DeviceArray;

constexpr RandomFill kFill{.stream = 0xfedcba9876543210ull, .deviation = 0.0117f};

TEST(FillRandom, Fp8EqualsTheHosts) {
  for (const int64_t count : {1, 15, 16, 17, 4096, 4099, 1'000'003}) {
    for (const int64_t offset : {0, 1, 16}) {
      const DeviceArray<uint8_t> values(offset + count + 1);
      const int64_t num_scales = count / 100;
      const DeviceArray<float> scales(num_scales + 1);
      fill_random({kFill, true, count, values.data() + offset, num_scales, scales.data()}, nullptr);
      std::vector<uint8_t> expected(offset + count + 1, 0xff);
      deepflight::fill_random(kFill, DType::kF8E4M3, 0, count, expected.data() + offset);
      EXPECT_TRUE(values.host() == expected) << count << " at " << offset;
      std::vector<float> expected_scales(num_scales);
      fill_random_scales(kFill, num_scales, expected_scales.data());
      auto got_scales = scales.host();
      EXPECT_TRUE(std::isnan(got_scales.back()));
      got_scales.pop_back();
      EXPECT_TRUE(got_scales == expected_scales) << count;
    }
  }
}

TEST(FillRandom, Bf16EqualsTheHosts) {
  for (const int64_t count : {1, 7, 16, 18, 4096, 1'000'003}) {
    for (const int64_t offset : {0, 1, 8}) {
      const DeviceArray<uint16_t> values(offset + count + 1);
      fill_random({kFill, false, count, values.data() + offset, 0, nullptr}, nullptr);
      std::vector<uint16_t> expected(offset + count + 1, 0xffff);
      deepflight::fill_random(kFill, DType::kBF16, 0, count, expected.data() + offset);
      EXPECT_TRUE(values.host() == expected) << count << " at " << offset;
    }
  }
}

// Past 2^32 elements the counter's upper half counts too.
TEST(FillRandom, LongMatricesDoNotRepeat) {
  const int64_t count = (int64_t{1} << 34) + 4096;
  if (DeviceInfo::current().memory_bytes < count + (int64_t{4} << 30)) GTEST_SKIP();
  const DeviceArray<uint8_t> values(count);
  fill_random({kFill, true, count, values.data(), 0, nullptr}, nullptr);
  std::vector<uint8_t> tail(4096), expected(4096);
  CUDA_CHECK(cudaMemcpy(tail.data(), values.data() + count - 4096, 4096, cudaMemcpyDeviceToHost));
  deepflight::fill_random(kFill, DType::kF8E4M3, count - 4096, 4096, expected.data());
  EXPECT_TRUE(tail == expected);
}

struct KvUpCase {
  int64_t heads, nope, v, latent;
  bool fp8;
};

TEST(SplitKvUp, EqualsTheHosts) {
  for (const KvUpCase& c :
       {KvUpCase{1, 1, 1, 1, false}, KvUpCase{2, 8, 4, 40, false}, KvUpCase{3, 100, 33, 200, true},
        KvUpCase{16, 128, 128, 512, false}, KvUpCase{128, 128, 128, 512, true}}) {
    const int64_t rows = c.heads * (c.nope + c.v);
    Buffer memory;
    const DType dtype = c.fp8 ? DType::kF8E4M3 : DType::kBF16;
    const StoredMatrix matrix =
        materialize({TensorView(nullptr, dtype, {rows, c.latent}), {}, kFill}, &memory);
    std::vector<float> values(rows * c.latent);
    to_f32_matrix(matrix.values, matrix.scale_inv, values.data());
    const auto expand = testing::to_bf16(values);
    std::vector<uint16_t> absorb_k(c.heads * c.latent * c.nope);
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < c.nope; ++i) {
        for (int64_t j = 0; j < c.latent; ++j) {
          absorb_k[(h * c.latent + j) * c.nope + i] =
              expand[(h * (c.nope + c.v) + i) * c.latent + j];
        }
      }
    }
    const auto* bytes = static_cast<const uint8_t*>(matrix.values.raw());
    const DeviceArray<uint8_t> stored(
        std::vector<uint8_t>(bytes, bytes + rows * c.latent * dtype_bytes(dtype)));
    std::vector<float> scales(1);
    if (c.fp8) {
      const auto* data = matrix.scale_inv.data<float>();
      scales.assign(data, data + matrix.scale_inv.num_elements());
    }
    const DeviceArray<float> device_scales(scales);
    const DeviceArray<uint16_t> got_expand(rows * c.latent);
    const DeviceArray<uint16_t> got_absorb_k(c.heads * c.latent * c.nope);
    split_kv_up({c.heads, c.nope, c.v, c.latent, stored.data(),
                 c.fp8 ? device_scales.data() : nullptr, got_expand.data(), got_absorb_k.data()},
                nullptr);
    EXPECT_TRUE(got_expand.host() == expand) << c.heads << " heads";
    EXPECT_TRUE(got_absorb_k.host() == absorb_k) << c.heads << " heads";
  }
}

}  // namespace
}  // namespace deepflight::cuda_weights
