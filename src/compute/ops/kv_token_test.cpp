// Bytes and errors of the KV formats.
#include "compute/ops/kv_token.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tensor/float_formats.h"

namespace deepflight {
namespace {

KvPool group_pool(int64_t latent_dim, int64_t rope_dim) {
  return {.format = KvFormat::kF8Group,
          .num_pages = 1,
          .num_layers = 1,
          .token_dim = latent_dim + rope_dim,
          .rope_dim = rope_dim};
}

// What deepflight's kernels, transfers and peers count on.
TEST(KvToken, GroupLayoutAtPublishedWidths) {
  const KvPool pool = group_pool(512, 64);
  EXPECT_EQ(pool.token_bytes(), 656);
  EXPECT_EQ(pool.scales_offset_bytes(), 512);
  EXPECT_EQ(pool.rope_offset_bytes(), 528);
  std::vector<float> values(576, 0.0f);
  for (int64_t group = 0; group < 4; ++group) {
    values[group * 128 + 5] = std::ldexp(448.0f, static_cast<int>(group) - 2);
    values[group * 128 + 6] = std::ldexp(-1.0f, static_cast<int>(group) - 2);
  }
  values[512] = 3.0f;
  std::vector<uint8_t> bytes(656, 0xa5);
  store_kv_token(pool, 0, values.data(), bytes.data());
  for (int64_t group = 0; group < 4; ++group) {
    float scale;
    std::memcpy(&scale, &bytes[512 + 4 * group], 4);
    EXPECT_EQ(scale, std::ldexp(1.0f, static_cast<int>(group) - 2));
    EXPECT_EQ(bytes[group * 128 + 5], 0x7e);  // 448
    EXPECT_EQ(bytes[group * 128 + 6], 0xb8);  // -1
    EXPECT_EQ(bytes[group * 128 + 7], 0);
  }
  EXPECT_EQ(bytes[528], 0x40);  // BF16 3 = 0x4040
  EXPECT_EQ(bytes[529], 0x40);
}

TEST(KvToken, GroupScaleIsTheLeastPowerOfTwoThatFits) {
  for (const float largest : {0.02f, 0.5f, 447.0f, 448.0f, 449.0f, 896.0f, 897.0f, 57344.0f}) {
    const float scale = kv_group_scale(largest);
    EXPECT_GE(448.0f * scale, largest);
    EXPECT_LT(224.0f * scale, largest);
    int exponent;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5f);
  }
  EXPECT_EQ(kv_group_scale(0.0f), 0x1p-15f);
  EXPECT_EQ(kv_group_scale(1e-30f), 0x1p-15f);
  EXPECT_EQ(kv_group_scale(1e30f), 128.0f);
  EXPECT_EQ(kv_group_scale(INFINITY), 128.0f);
}

// Every stored latent is a number of F16: what the GPU multiplies.
TEST(KvToken, StoredLatentsAreF16) {
  for (int exponent = -15; exponent <= 7; ++exponent) {
    for (int bits = 0; bits < 0x7f; ++bits) {
      const float value = std::ldexp(f8e4m3_to_f32(static_cast<uint8_t>(bits)), exponent);
      EXPECT_EQ(std::fmod(value, 0x1p-24f), 0.0f);
      EXPECT_LE(value, 57344.0f);
    }
  }
}

TEST(KvToken, RoundingIsWithinTheFormats) {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  for (const auto& [latent_dim, rope_dim] :
       {std::pair<int64_t, int64_t>{512, 64}, {64, 16}, {7, 3}, {130, 2}, {256, 0}}) {
    const KvPool pool = group_pool(latent_dim, rope_dim);
    EXPECT_EQ(pool.token_bytes() % 4, 0);
    for (const float size : {1e-3f, 1.0f, 300.0f}) {
      std::vector<float> values(pool.token_dim), loaded(pool.token_dim);
      for (float& value : values) value = normal(engine) * size;
      std::vector<uint8_t> bytes(pool.token_bytes() + 8, 0xa5);
      store_kv_token(pool, 0, values.data(), bytes.data());
      for (int64_t i = pool.token_bytes(); i < std::ssize(bytes); ++i) EXPECT_EQ(bytes[i], 0xa5);
      load_kv_token(pool, 0, bytes.data(), loaded.data());
      for (int64_t i = 0; i < pool.token_dim; ++i) {
        const float magnitude = std::abs(values[i]);
        float bound = magnitude * 0x1p-8f;  // BF16: half of its last bit
        if (i < latent_dim) {
          const int64_t first = i / kKvGroup * kKvGroup;
          float largest = 0;
          for (int64_t k = first; k < std::min(first + kKvGroup, latent_dim); ++k) {
            largest = std::max(largest, std::abs(values[k]));
          }
          bound = std::max(magnitude * 0x1p-4f, kv_group_scale(largest) * 0x1p-10f);
        }
        ASSERT_LE(std::abs(loaded[i] - values[i]), bound) << i << " of " << latent_dim;
      }
    }
  }
}

TEST(KvToken, NumbersThatAreNotStaySo) {
  const KvPool pool = group_pool(256, 2);
  std::vector<float> values(258, 1.0f), loaded(258);
  values[3] = NAN;
  values[200] = INFINITY;
  values[257] = NAN;
  std::vector<uint8_t> bytes(pool.token_bytes());
  store_kv_token(pool, 0, values.data(), bytes.data());
  load_kv_token(pool, 0, bytes.data(), loaded.data());
  EXPECT_TRUE(std::isnan(loaded[3]));
  EXPECT_EQ(loaded[2], 1.0f);
  EXPECT_EQ(loaded[200], 57344.0f);
  EXPECT_TRUE(std::isnan(loaded[257]));
}

TEST(KvToken, OtherFormats) {
  const float values[3] = {1.0f, -0.3f, 1000.0f};
  float loaded[3];
  uint8_t bytes[12];
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kF8E4M3}) {
    KvPool pool{.format = format, .num_pages = 1, .num_layers = 2, .token_dim = 3};
    const float scales[2] = {32.0f, 0.5f};
    pool.scales = scales;
    EXPECT_EQ(pool.token_bytes(), format == KvFormat::kF32    ? 12
                                  : format == KvFormat::kBF16 ? 6
                                                              : 3);
    store_kv_token(pool, 1, values, bytes);
    load_kv_token(pool, 1, bytes, loaded);
    EXPECT_EQ(loaded[0], 1.0f);
    const float bound = format == KvFormat::kF32 ? 0 : format == KvFormat::kBF16 ? 1e-3f : 0.02f;
    EXPECT_NEAR(loaded[1], values[1], bound);
    EXPECT_EQ(loaded[2], format == KvFormat::kF8E4M3 ? 224.0f : 1000.0f);
  }
}

}  // namespace
}  // namespace deepflight
