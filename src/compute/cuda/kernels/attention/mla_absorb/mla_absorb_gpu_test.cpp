// Absorbed queries as e4m3 against double sums on the host.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "compute/cuda/kernels/attention/mla_absorb/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_absorb {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

constexpr int64_t kDim = kNopeDim + kRopeDim;

struct Case {
  int64_t tokens, heads;
};

struct Result {
  std::vector<uint8_t> out;
  std::vector<float> scales;
};

// Rows are `pad` elements apart beyond the heads'.
Result run(int64_t tokens, int64_t heads, int64_t pad, const std::vector<uint16_t>& q,
           const DeviceArray<uint16_t>& w) {
  const DeviceArray<uint16_t> d_q(q);
  const DeviceArray<uint8_t> out(tokens * heads * kQueryDim + 64);
  const DeviceArray<float> scales(tokens * heads + 16);
  MlaAbsorbProblem p;
  p.num_tokens = tokens, p.num_heads = heads;
  p.q = d_q.data(), p.q_stride = heads * kDim + pad, p.q_head_stride = kDim;
  p.w_uk = w.data(), p.out = out.data(), p.scales = scales.data();
  EXPECT_TRUE(mla_absorb_fits(p, kNopeDim, kLatentDim, kRopeDim));
  launch_mla_absorb(p, nullptr);
  return {out.host(), scales.host()};
}

TEST(MlaAbsorb, RowsAreProductsAndRope) {
  for (const auto& [tokens, heads] : {Case{1, 1}, Case{5, 3}, Case{64, 128}, Case{65, 16},
                                      Case{130, 128}, Case{300, 4}, Case{1030, 2}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << heads << " heads");
    constexpr int64_t kPad = 8;
    const auto values = random_normal(tokens * (heads * kDim + kPad), 1.0f, 1);
    const auto q = to_bf16(values);
    const auto weights = to_bf16(random_normal(heads * kLatentDim * kNopeDim, 0.05f, 2));
    const DeviceArray<uint16_t> w(weights);
    const auto host_q = from_bf16(q), host_w = from_bf16(weights);
    const auto [out, scales] = run(tokens, heads, kPad, q, w);
    const auto codes = from_f8(out);
    for (int64_t t = 0; t<tokens; t += tokens> 70 ? 13 : 1) {
      for (int64_t h = 0; h<heads; h += heads> 20 ? 9 : 1) {
        const float* x = host_q.data() + t * (heads * kDim + kPad) + h * kDim;
        std::vector<double> want(kQueryDim);
        double largest = 0;
        for (int64_t c = 0; c < kQueryDim; ++c) {
          if (c < kLatentDim) {
            for (int64_t i = 0; i < kNopeDim; ++i) {
              want[c] += double{x[i]} * host_w[(h * kLatentDim + c) * kNopeDim + i];
            }
          } else {
            want[c] = x[kNopeDim + c - kLatentDim];
          }
          largest = std::max(largest, std::abs(want[c]));
        }
        const double scale = scales[t * heads + h];
        int exponent;
        ASSERT_EQ(std::frexp(scale, &exponent), 0.5) << "a power of two";
        ASSERT_GE(largest / scale, 223.9);
        ASSERT_LE(largest / scale, 448.1);
        for (int64_t c = 0; c < kQueryDim; ++c) {
          // Half a step of e4m3, of its smallest numbers too, and float sums.
          const double allowed = std::max(std::abs(want[c]) * 0x1p-4, scale * 0x1p-10) + 1e-6;
          ASSERT_LE(std::abs(codes[(t * heads + h) * kQueryDim + c] * scale - want[c]), allowed)
              << "token " << t << " head " << h << " column " << c;
        }
      }
    }
    for (int64_t i = tokens * heads * kQueryDim; i < std::ssize(out); ++i) ASSERT_EQ(out[i], 0xff);
    for (int64_t i = tokens * heads; i < std::ssize(scales); ++i)
      ASSERT_TRUE(std::isnan(scales[i]));
  }
}

// Zeros, and values that are not numbers, infinite or very large, in their rows alone; the other
// rows have the same bits in any company.
TEST(MlaAbsorb, RowsDoNotDependOnOthers) {
  constexpr int64_t kTokens = 70, kHeads = 4;
  const DeviceArray<uint16_t> w(to_bf16(random_normal(kHeads * kLatentDim * kNopeDim, 0.05f, 2)));
  auto q = to_bf16(random_normal(kTokens * kHeads * kDim, 1.0f, 1));
  const auto want = run(kTokens, kHeads, 0, q, w);
  const std::vector<uint16_t> first(q.begin(), q.begin() + 3 * kHeads * kDim);
  const auto alone = run(3, kHeads, 0, first, w);
  for (int64_t i = 0; i < 3 * kHeads * kQueryDim; ++i) ASSERT_EQ(alone.out[i], want.out[i]) << i;
  for (int64_t i = 0; i < 3 * kHeads; ++i) ASSERT_EQ(alone.scales[i], want.scales[i]) << i;

  const auto row = [&](int64_t i) { return q.begin() + i * kDim; };
  std::fill(row(9), row(10), 0);
  *(row(17) + 5) = 0x7fc0;              // not a number
  *(row(18) + 130) = 0xff80;            // infinite, rope
  std::fill(row(33), row(34), 0x7f00);  // 1.7e38: sums are infinite
  const auto got = run(kTokens, kHeads, 0, q, w);
  for (int64_t i = 0; i < kTokens * kHeads; ++i) {
    if (i == 9 || i == 17 || i == 18 || i == 33) continue;
    ASSERT_EQ(got.scales[i], want.scales[i]) << i;
    for (int64_t c = i * kQueryDim; c < (i + 1) * kQueryDim; ++c)
      ASSERT_EQ(got.out[c], want.out[c]);
  }
  EXPECT_EQ(got.scales[9], 0x1p-108f);
  for (int64_t c = 9 * kQueryDim; c < 10 * kQueryDim; ++c) EXPECT_EQ(got.out[c] & 0x7f, 0);
  EXPECT_TRUE(std::isnan(f8e4m3_to_f32(got.out[17 * kQueryDim])));
  EXPECT_TRUE(std::isfinite(got.scales[18]) && std::isfinite(got.scales[33]));
}

}  // namespace
}  // namespace deepflight::cuda_mla_absorb
