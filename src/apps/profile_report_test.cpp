// The profile's sums.
#include "apps/profile_report.h"

#include <gmock/gmock.h>

namespace deepflight {
namespace {

using ::testing::HasSubstr;

const std::vector<ProfiledKernel> kKernels = {
    {"attention/linear 8x4", "gemm", 0, 10, 1},
    {"moe/sort", "sort", 10, 12, 1},
    {"", "memcpy", 14, 15, 1},
    {"attention/linear 8x4", "gemm", 15, 25, 1},
    {"shared/swiglu", "silu", 16, 24, 2},  // beside the one before it
    {"moe/sort", "sort", 25, 27, 1},
};

TEST(ProfileReport, SumsByOpAndStep) {
  const std::vector<OpCost> costs = {{"attention/linear 8x4", 1, 2e6, 4e6, CostUnit::kFp8},
                                     {"not/there", 1, 1, 1, CostUnit::kMemory}};
  const auto rows = profile_rows(kKernels, 2, costs, {1e12, 1e12, 1e12});
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].label, "attention/linear 8x4");
  EXPECT_DOUBLE_EQ(rows[0].us, 10);
  EXPECT_DOUBLE_EQ(rows[0].num_kernels, 1);
  EXPECT_DOUBLE_EQ(rows[0].floor_us, 4);
  EXPECT_DOUBLE_EQ(rows[0].floor_share, 0.4);
  EXPECT_NEAR(rows[0].share, 10 / 16.5, 1e-12);
  EXPECT_EQ(rows[1].label, "shared/swiglu");
  EXPECT_EQ(rows[2].label, "moe/sort");
  EXPECT_DOUBLE_EQ(rows[2].floor_us, 0);
  EXPECT_EQ(rows[3].label, "other");
  EXPECT_DOUBLE_EQ(rows[3].us, 0.5);
}

TEST(ProfileReport, BusyCountsOverlapOnceAndGapsNot) {
  EXPECT_DOUBLE_EQ(busy_time(kKernels).busy_us, 25);
  EXPECT_DOUBLE_EQ(busy_time(kKernels).span_us, 27);
  EXPECT_DOUBLE_EQ(busy_time({}).span_us, 0);
}

TEST(ProfileReport, KernelsThatWaitForTheOneInFrontCountFromItsEnd) {
  const std::vector<ProfiledKernel> kernels = {
      {"a", "a", 0, 10, 1},
      {"b", "b", 2, 13, 1},   // launched early: 3 of its own
      {"c", "c", 5, 9, 2},    // another stream
      {"d", "d", 11, 12, 1},  // done before the one in front: nothing is left of it
  };
  const auto rows = profile_rows(kernels, 1, {}, {1e12, 1e12, 1e12});
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].label, "a");
  EXPECT_EQ(rows[1].label, "c");
  EXPECT_DOUBLE_EQ(rows[1].us, 4);
  EXPECT_EQ(rows[2].label, "b");
  EXPECT_DOUBLE_EQ(rows[2].us, 3);
  EXPECT_DOUBLE_EQ(rows[3].us, 0);
}

TEST(ProfileReport, TableJsonAndTraceSayTheSame) {
  StepProfile profile;
  profile.title = "decode B=2 context=7";
  profile.shape = {.decode_rows = 2, .decode_context = 7};
  profile.step_us = 30;
  profile.busy = 0.9;
  profile.busy_traced = 0.8;
  profile.graph_launches = 1;
  profile.host_us = 3;
  profile.floor_us = 15;
  profile.rows = profile_rows(kKernels, 1, {}, {1e12, 1e12, 1e12});
  const std::string table = profile_table(profile);
  EXPECT_THAT(table, HasSubstr("GPU busy 90.0 % (traced 80.0 %)"));
  EXPECT_THAT(table, HasSubstr("(2.00x)"));
  EXPECT_THAT(table, HasSubstr("attention/linear 8x4"));
  const auto json = profile_json(profile);
  EXPECT_EQ(json["ops"].size(), 4u);
  EXPECT_EQ(json["gpu_busy"], 0.9);
  EXPECT_EQ(json["graph_launches"], 1);
  const auto trace = perfetto_trace(kKernels);
  ASSERT_EQ(trace["traceEvents"].size(), kKernels.size());
  EXPECT_EQ(trace["traceEvents"][2]["name"], "memcpy");
  EXPECT_EQ(trace["traceEvents"][4]["tid"], 2);
  EXPECT_EQ(trace["traceEvents"][4]["dur"], 8);
}

}  // namespace
}  // namespace deepflight
