// The choice of kernels at the shapes of R1 and at odd ones, on numbers alone.
#include "compute/cuda/kernels/gemm/choose.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace deepflight::gemm_fp8 {
namespace {

struct Product {
  int64_t n, k;
  int num_groups;
};

const Product kProducts[] = {
    {2112, 7168, 0},  {24576, 1536, 0}, {32768, 512, 0},  {7168, 16384, 0},  {4096, 7168, 0},
    {7168, 2048, 0},  {36864, 7168, 0}, {7168, 18432, 0}, {4096, 7168, 256}, {7168, 2048, 256},
    {4096, 7168, 32}, {7168, 2048, 32}, {576, 2048, 0},   {100, 128, 0},     {24, 16, 3}};

TEST(Choose, KernelsFitTheMachine) {
  for (const Product& product : kProducts) {
    for (const int64_t m : {1, 7, 8, 33, 64, 127, 256, 1000, 4096, 65536}) {
      for (const int num_sms : {132, 114, 78}) {
        const Shape shape = {m, product.n, product.k, product.num_groups, false};
        const Config config = choose(shape, {num_sms});
        EXPECT_LE(config.shared_bytes() * config.blocks_per_sm, kSharedLimit) << to_string(config);
        EXPECT_EQ(config.left() % (64 * config.warpgroups), 0) << to_string(config);
        EXPECT_EQ(config.right() % 8, 0) << to_string(config);
        EXPECT_LE(config.right(), 256) << to_string(config);
        EXPECT_GE(config.stages, 3) << to_string(config);
        EXPECT_EQ(config.grouped, product.num_groups > 0);
        const int blocks = num_blocks(config, shape, {num_sms});
        EXPECT_GT(blocks, 0);
        EXPECT_EQ(blocks % config.cluster(), 0) << to_string(config);
      }
    }
  }
}

TEST(Choose, IsTheSameBetweenTheStepsOfRows) {
  EXPECT_EQ(rounded_rows(1), 8);
  EXPECT_EQ(rounded_rows(64), 64);
  EXPECT_EQ(rounded_rows(65), 80);
  const auto steps = row_steps(9000);
  EXPECT_EQ(steps.back(), 9216);
  for (int64_t m = 1; m <= 9000; ++m) {
    ASSERT_NE(std::find(steps.begin(), steps.end(), rounded_rows(m)), steps.end()) << m;
  }
}

TEST(Choose, FewRowsTakeSmallTiles) {
  for (const Product& product : kProducts) {
    if (product.num_groups > 0) continue;
    EXPECT_LE(choose({8, product.n, product.k}, {}).rows, 64);
  }
  EXPECT_TRUE(choose({512, 4096, 7168, 256}, {}).swapped);
  EXPECT_FALSE(choose({8192, 4096, 7168}, {}).swapped);
  EXPECT_FALSE(choose({65536, 4096, 7168, 32}, {}).swapped);
}

TEST(Choose, ActivatesWithTheProductWhereTilesAreMany) {
  EXPECT_TRUE(swiglu_pays({65536, 4096, 7168, 256, false, true}, {}));
  EXPECT_TRUE(swiglu_pays({8192, 36864, 7168, 0, false, true}, {}));
  EXPECT_FALSE(swiglu_pays({64, 4096, 7168, 0, false, true}, {}));  // 16 tiles for 132 SMs
  for (const int64_t m : {1, 100, 8192}) {
    const Config config = choose({m, 4096, 7168, 0, false, true}, {});
    EXPECT_TRUE(config.swiglu);
    EXPECT_EQ(config.columns, 256);
    EXPECT_EQ(config.right(), 128);
    EXPECT_LE(config.shared_bytes(), kSharedLimit);
  }
}

TEST(Choose, BatchInvariantShapesKeepToOneFamily) {
  for (const Product& product : kProducts) {
    for (const int64_t m : row_steps(20000)) {
      const Shape shape = {m, product.n, product.k, product.num_groups, false, false, true};
      for (const Config& config : candidates(shape)) ASSERT_TRUE(is_batch_invariant(config));
      EXPECT_TRUE(is_batch_invariant(choose(shape, {}))) << m;
    }
  }
  EXPECT_TRUE(is_batch_invariant(choose({8192, 4096, 7168, 0, false, true}, {})));  // activated
  EXPECT_FALSE(is_batch_invariant(choose({8, 2112, 7168}, {})));                    // a split sum
  EXPECT_FALSE(is_batch_invariant(choose({512, 4096, 7168, 256}, {})));  // the other side
}

TEST(Choose, WhatWasMeasuredStandsAboveTheModel) {
  EXPECT_EQ(to_string(choose({128, 2112, 7168}, {})), "normal_r64_c32_w1_s16");
  EXPECT_EQ(to_string(choose({97, 2112, 7168}, {})), "normal_r64_c32_w1_s16");
  EXPECT_EQ(to_string(choose({128, 24576, 1536}, {})), "normal_r128_c96_w2_s7");
  const std::string grouped = "normal_r128_c192_w2_s4_grouped_m2_staged";
  EXPECT_EQ(to_string(choose({65536, 7168, 2048, 256}, {})), grouped);
  EXPECT_NE(to_string(choose({65536, 7168, 2048, 128}, {})), grouped);
  // A family of its own, another product or another GPU is not what was measured.
  EXPECT_FALSE(choose({8, 7168, 2048, 0, false, false, true}, {}).swapped);
  EXPECT_NE(to_string(choose({128, 2176, 7168}, {})), "normal_r64_c32_w1_s16");
  EXPECT_NE(to_string(choose({128, 2112, 7168}, {114})), "normal_r64_c32_w1_s16");
}

TEST(Choose, GroupsOfSomeHundredRowsTakeThreeWarpgroups) {
  const Config config = choose({8192, 4096, 7168, 64}, {});
  EXPECT_EQ(config.warpgroups, 3);
  EXPECT_EQ(config.rows, 192);
}

TEST(Choose, FewColumnsAreSplitAlongK) {
  EXPECT_GT(choose({8, 2112, 7168}, {}).split_k, 1);
  EXPECT_EQ(choose({64, 36864, 7168}, {}).split_k, 1);
}

}  // namespace
}  // namespace deepflight::gemm_fp8
