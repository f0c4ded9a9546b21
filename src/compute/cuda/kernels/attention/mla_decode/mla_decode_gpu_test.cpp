// Absorbed attention against float64, with NaN in everything that must not be read.
#include <gtest/gtest.h>

#include <numeric>

#include "compute/cuda/kernels/attention/mla_decode/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_decode {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Sequence {
  int64_t kv_len;
  int64_t queries;
  bool padding = false;
};

struct World {
  int64_t heads, latent, rope;
  bool e4m3;
  std::vector<Sequence> sequences;
};

constexpr int64_t kLayers = 3, kLayer = 1, kPad = 8;
constexpr float kKvScale = 0.75f, kScale = 0.05f;

void check(const World& w) {
  SCOPED_TRACE(::testing::Message()
               << "heads " << w.heads << " latent " << w.latent << " e4m3 " << w.e4m3);
  const int64_t dim = w.latent + w.rope;
  const int64_t num_slots = static_cast<int64_t>(w.sequences.size());
  int64_t max_pages = 2, num_pages = 3;
  std::vector<int32_t> offsets{0}, lens, slots;
  for (int64_t s = 0; s < num_slots; ++s) {
    const Sequence& sequence = w.sequences[s];
    offsets.push_back(offsets.back() + static_cast<int32_t>(sequence.queries));
    lens.push_back(static_cast<int32_t>(sequence.padding ? 1 << 30 : sequence.kv_len));
    slots.push_back(sequence.padding ? -1 : static_cast<int32_t>(num_slots - 1 - s));
    const int64_t pages = (sequence.kv_len + 63) / 64;
    num_pages += pages;
    max_pages = std::max(max_pages, pages + 2);
  }
  std::vector<int32_t> ids(num_pages), table(num_slots * max_pages, 0x7f000000);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
  const int64_t pool_size = num_pages * kLayers * 64 * dim;
  std::vector<float> values(pool_size, NAN);  // as the kernel sees them
  std::vector<uint16_t> pool16(w.e4m3 ? 0 : pool_size, 0x7fc1);
  std::vector<uint8_t> pool8(w.e4m3 ? pool_size : 0, 0x7f);
  const auto row_of = [&](int64_t s, int64_t j) {
    return ((table[slots[s] * max_pages + j / 64] * kLayers + kLayer) * 64 + j % 64) * dim;
  };
  for (int64_t s = 0; s < num_slots; ++s) {
    if (slots[s] < 0) continue;
    const auto random = random_normal(w.sequences[s].kv_len * dim, 1.0f, 100 + s);
    for (int64_t j = 0; j < w.sequences[s].kv_len; ++j) {
      if (j % 64 == 0) {
        table[slots[s] * max_pages + j / 64] = ids.back();
        ids.pop_back();
      }
      for (int64_t i = 0; i < dim; ++i) {
        const int64_t at = row_of(s, j) + i;
        if (w.e4m3) {
          pool8[at] = f32_to_f8e4m3(random[j * dim + i]);
          values[at] = f8e4m3_to_f32(pool8[at]) * kKvScale;
        } else {
          pool16[at] = f32_to_bf16(random[j * dim + i]);
          values[at] = bf16_to_f32(pool16[at]);
        }
      }
    }
  }
  const int64_t tokens = offsets.back(), q_stride = w.heads * dim + kPad;
  const int64_t out_stride = w.heads * w.latent + kPad;
  const auto q16 = to_bf16(random_normal(tokens * q_stride, 1.0f, 7));
  const auto q = from_bf16(q16);
  const DeviceArray<int32_t> d_offsets(offsets), d_lens(lens), d_slots(slots), d_table(table);
  const DeviceArray<uint16_t> d_q(q16), d_pool16(pool16), d_out(tokens * out_stride);
  const DeviceArray<uint8_t> d_pool8(pool8);
  MlaDecodeProblem p;
  p.num_heads = w.heads, p.latent_dim = w.latent, p.rope_dim = w.rope, p.softmax_scale = kScale;
  p.num_sequences = num_slots, p.num_tokens = tokens, p.query_offsets = d_offsets.data();
  p.kv_lens = d_lens.data(), p.slots = d_slots.data();
  p.q = d_q.data(), p.q_stride = q_stride, p.q_head_stride = dim;
  p.out = d_out.data(), p.out_stride = out_stride, p.out_head_stride = w.latent;
  const int64_t element = w.e4m3 ? 1 : 2;
  p.pool = w.e4m3 ? static_cast<const void*>(d_pool8.data()) : d_pool16.data();
  p.page_stride_bytes = kLayers * 64 * dim * element;
  p.layer_offset_bytes = kLayer * 64 * dim * element;
  p.kv_is_e4m3 = w.e4m3, p.kv_scale = kKvScale;
  p.page_table = d_table.data(), p.page_table_stride = max_pages;
  launch_mla_decode(p, nullptr);
  const auto bits = d_out.host();
  launch_mla_decode(p, nullptr);
  EXPECT_EQ(bits, d_out.host());
  const auto out = from_bf16(bits);
  std::vector<float> got;
  std::vector<double> want;
  for (int64_t s = 0; s < num_slots; ++s) {
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      for (int64_t i = w.heads * w.latent; i < out_stride; ++i) {
        ASSERT_EQ(bits[t * out_stride + i], 0xffff) << "written past row " << t;
      }
      for (int64_t h = 0; h < w.heads; ++h) {
        const float* row = out.data() + t * out_stride + h * w.latent;
        if (slots[s] < 0) {
          for (int64_t i = 0; i < w.latent; ++i) ASSERT_EQ(row[i], 0.0f) << t << " " << h;
          continue;
        }
        double total = 0;
        std::vector<double> mixed(w.latent);
        for (int64_t j = 0; j < lens[s] - (offsets[s + 1] - 1 - t); ++j) {
          const float* key = values.data() + row_of(s, j);
          double score = 0;
          for (int64_t i = 0; i < dim; ++i) score += double{q[t * q_stride + h * dim + i]} * key[i];
          const double weight = std::exp(score * kScale);
          total += weight;
          for (int64_t i = 0; i < w.latent; ++i) mixed[i] += weight * key[i];
        }
        got.insert(got.end(), row, row + w.latent);
        for (const double value : mixed) want.push_back(value / total);
      }
    }
  }
  EXPECT_LE(relative_error(got, want), 4e-3);  // BF16 output: 2^-9 a value at most
}

TEST(MlaDecode, Generic) {
  const std::vector<Sequence> ragged = {{1, 1},  {64, 1},  {7, 2, true},
                                        {65, 6}, {700, 2}, {129, 65}};
  for (const bool e4m3 : {false, true}) {
    check({1, 512, 64, e4m3, ragged});
    check({4, 512, 64, e4m3, ragged});
    check({2, 16, 8, e4m3, ragged});
    check({3, 32, 8, e4m3, {{3000, 1}, {5, 0}, {300, 300}}});
    check({128, 512, 64, e4m3, {{200, 1}, {1, 1, true}, {130, 2}}});
  }
}

}  // namespace
}  // namespace deepflight::cuda_mla_decode
