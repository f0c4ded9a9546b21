// The sums against published ones of DeepSeek-R1.
#include "model/deepseek/step_costs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "model/deepseek/tensor_table.h"

namespace deepflight {
namespace {

DeepseekConfig r1() {
  std::ifstream file("src/model/deepseek/testdata/deepseek_v3.json");
  return DeepseekConfig::parse(nlohmann::json::parse(file)).value();
}

double total(const std::vector<OpCost>& costs, double OpCost::*field, std::string_view part = "") {
  double sum = 0;
  for (const auto& cost : costs) {
    if (cost.label.find(part) != std::string::npos) sum += cost.*field;
  }
  return sum;
}

// 36.6 G active parameters with the head: 73.2 GFLOP a token, of which kv_b is not a linear here.
TEST(StepCosts, ALinearFlopOfR1IsTwoPerActiveParameter) {
  const DeepseekConfig config = r1();
  const auto costs =
      step_costs(config, {.decode_rows = 1, .decode_context = 1}, 2 * config.kv_token_dim());
  const double linears = total(costs, &OpCost::flops, "linear") +
                         total(costs, &OpCost::flops, "experts") +
                         total(costs, &OpCost::flops, "absorb");
  EXPECT_NEAR(linears / 73.2e9, 1.0, 0.01);
}

TEST(StepCosts, WeightsAreReadOnce) {
  DeepseekConfig config = r1();
  const auto costs =
      step_costs(config, {.decode_rows = 1, .decode_context = 1}, 2 * config.kv_token_dim());
  // 187.1 M parameters a layer in FP8; kv_b (16.8 M of them) runs in BF16.
  const double attention = total(costs, &OpCost::bytes, "attention/linear") +
                           total(costs, &OpCost::bytes, "attention/absorb");
  EXPECT_NEAR(attention / (61 * (187.1e6 + 16.8e6)), 1.0, 0.01);
  // One token meets 8 experts of 44 M parameters in each of 58 layers.
  EXPECT_NEAR(total(costs, &OpCost::bytes, "moe/experts") / (58 * 8 * 44.04e6), 1.0, 0.01);
  // Many tokens meet them all.
  const auto many =
      step_costs(config, {.decode_rows = 4096, .decode_context = 1}, 2 * config.kv_token_dim());
  const double rows = 4096.0 * 8 * (7168 * 1.03 + 4096 * 2 + 2048 * 1.03 + 7168 * 2);
  EXPECT_NEAR(total(many, &OpCost::bytes, "moe/experts") / (58 * (256 * 44.04e6 + rows)), 1.0,
              0.01);
}

TEST(StepCosts, AttentionGrowsWithTheContext) {
  const DeepseekConfig config = r1();
  const auto decode =
      step_costs(config, {.decode_rows = 64, .decode_context = 4096}, 2 * config.kv_token_dim());
  EXPECT_NEAR(total(decode, &OpCost::flops, "mla_decode") / (61.0 * 64 * 278528 * 4096), 1.0, 1e-6);
  EXPECT_NEAR(total(decode, &OpCost::bytes, "mla_decode") / (61.0 * 64 * 4096 * 1152), 1.0, 0.07);
  const auto prefill = step_costs(config, {.prefill_tokens = 8192}, 2 * config.kv_token_dim());
  const double expand = 61.0 * 2 * 8192 * 32768.0 * 512;
  EXPECT_NEAR((total(prefill, &OpCost::flops, "mla_prefill") - expand) / (61 * 2.75e12), 1.0, 0.01);
  const auto later = step_costs(config, {.prefill_tokens = 8192, .prefill_prefix = 24576},
                                2 * config.kv_token_dim());
  EXPECT_GT(total(later, &OpCost::flops, "mla_prefill"),
            6 * (total(prefill, &OpCost::flops, "mla_prefill") - expand));
}

TEST(StepCosts, AnE4m3CacheIsAttendedByFp8Products) {
  const DeepseekConfig config = r1();
  for (const int64_t element_bytes : {1, 2}) {
    const auto costs = step_costs(config, {.decode_rows = 64, .decode_context = 4096},
                                  element_bytes * config.kv_token_dim());
    const auto decode = std::ranges::find(costs, "attention/mla_decode", &OpCost::label);
    ASSERT_NE(decode, costs.end());
    EXPECT_EQ(decode->unit, element_bytes == 1 ? CostUnit::kFp8 : CostUnit::kBf16);
  }
}

// A step that verifies a draft is one of twice the tokens that reads the KV once, and what the
// module adds: its weights are read for each draft.
TEST(StepCosts, DraftsAddAModuleAndItsHead) {
  const DeepseekConfig config = r1();
  const auto bytes_of = [&](const StepShape& shape, const std::string& label) {
    for (const OpCost& cost : step_costs(config, shape, 2 * config.kv_token_dim())) {
      if (cost.label == label) return cost;
    }
    return OpCost{};
  };
  const StepShape plain{.decode_rows = 32, .decode_context = 4096};
  StepShape drafts = plain;
  drafts.draft_len = 1;
  const OpCost one = bytes_of(plain, "attention/mla_decode");
  const OpCost two = bytes_of(drafts, "attention/mla_decode");
  EXPECT_EQ(two.calls, one.calls + 1);
  EXPECT_NEAR(two.flops / one.flops, 2 + 1.0 / 61, 1e-9);
  EXPECT_LT(two.bytes / one.bytes, 1.1);
  const OpCost projection = bytes_of(drafts, "mtp/linear 7168x14336");
  EXPECT_EQ(projection.calls, 2) << "all verified rows, then the draft";
  EXPECT_EQ(projection.flops, 2.0 * (64 + 32) * 7168 * 14336);
  EXPECT_EQ(bytes_of(drafts, "mtp/linear 129280x7168").calls, 1);
  drafts.draft_len = 3;
  EXPECT_EQ(bytes_of(drafts, "mtp/linear 129280x7168").calls, 3);
}

TEST(StepCosts, TheFloorIsTheLargerTime) {
  const MachineRates rates{4e12, 8e14, 1.6e15};
  EXPECT_DOUBLE_EQ(floor_us({"a", 1, 8e8, 4e6, CostUnit::kBf16}, rates), 1.0);
  EXPECT_DOUBLE_EQ(floor_us({"a", 1, 16e8, 4e6, CostUnit::kBf16}, rates), 2.0);
  EXPECT_DOUBLE_EQ(floor_us({"a", 1, 16e8, 2e6, CostUnit::kFp8}, rates), 1.0);
}

}  // namespace
}  // namespace deepflight
