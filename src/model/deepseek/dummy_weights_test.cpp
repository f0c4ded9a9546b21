// Dummy weights follow the config's formats, and a Zipf exponent gives the experts their shares.
#include "model/deepseek/dummy_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "compute/cpu/cpu_backend.h"
#include "model/deepseek/memory_plan.h"

namespace deepflight {
namespace {

TEST(DummyWeights, FollowTheConfigsFormats) {
  for (const std::string name : {"v3_fp8", "v2_lite", "v3_groups"}) {
    const DeepseekConfig config = DeepseekConfig::load("tests/golden/" + name).value();
    const auto rows = tensor_table(config);
    const Checkpoint checkpoint = dummy_checkpoint(config, rows, 42);
    const auto match = match_table(checkpoint, config, rows);
    ASSERT_TRUE(match.ok()) << match.error().message;
    EXPECT_EQ(match->num_unexpected, 0) << match->first_unexpected;
    EXPECT_EQ(match->num_mtp_modules, config.num_nextn_predict_layers);
    for (const auto& row : rows) {
      const auto tensor = load_tensor(checkpoint, row);
      ASSERT_TRUE(tensor.ok()) << tensor.error().message;
      const bool is_fp8 = name == "v3_fp8" && row.format == StorageFormat::kFp8;
      EXPECT_EQ(tensor->values.dtype() == DType::kF8E4M3, is_fp8) << row.name;
      EXPECT_EQ(tensor->random.has_value(), row.shape.size() == 2) << row.name;
    }
    const MemoryPlan plan = make_memory_plan(config, rows);
    EXPECT_EQ(plan.total.stored_bytes, checkpoint.num_bytes()) << name;
  }
}

// Share of the tokens that each expert of a layer gets, by popularity, when router logits are
// standard normal.
std::vector<double> routed_shares(const DeepseekConfig& config, int layer, double zipf) {
  const Checkpoint checkpoint = dummy_checkpoint(config, tensor_table(config), 1, zipf);
  const auto bias = checkpoint.tensor(tensor_name(TensorKind::kRouterBias, layer)).value();
  const int64_t num_tokens = 4000;
  const int64_t num_experts = config.num_routed_experts;
  const int64_t topk = config.num_experts_per_token;
  std::mt19937_64 engine(7);
  std::normal_distribution<float> normal;
  std::vector<float> logits(num_tokens * num_experts), weights(num_tokens * topk);
  for (float& logit : logits) logit = normal(engine);
  std::vector<int32_t> ids(num_tokens * topk);
  CpuBackend backend({.num_threads = 1});
  RoutingParams params;
  params.group_score = config.num_expert_groups > 1 ? GroupScore::kTop2Sum : GroupScore::kNone;
  params.num_groups = static_cast<int>(config.num_expert_groups);
  params.topk_groups = static_cast<int>(config.topk_groups);
  params.topk = static_cast<int>(topk);
  backend.route_experts(TensorView::of(logits.data(), {num_tokens, num_experts}), bias.values,
                        params, TensorView::of(ids.data(), {num_tokens, topk}),
                        TensorView::of(weights.data(), {num_tokens, topk}));
  std::vector<double> counts(num_experts), shares;
  for (const int32_t id : ids) counts[id] += 1.0;
  for (int64_t rank = 0; rank < num_experts; ++rank) {
    shares.push_back(counts[zipf_expert(config, layer, rank)] / num_tokens);
  }
  return shares;
}

double sum(const std::vector<double>& values, size_t begin, size_t end) {
  return std::accumulate(values.begin() + begin, values.begin() + end, 0.0);
}

TEST(DummyZipf, ExpertsGetTheirShares) {
  const DeepseekConfig config = DeepseekConfig::load("models/shapes/kimi-k2").value();
  for (const double zipf : {0.5, 1.0}) {
    const auto wanted = zipf_shares(config, zipf);
    EXPECT_NEAR(sum(wanted, 0, wanted.size()), 8.0, 1e-6);
    EXPECT_NEAR(wanted[9] / wanted[99], std::pow(10.0, zipf), 1e-6);
    const auto got = routed_shares(config, 3, zipf);
    for (const auto& [begin, end] :
         std::vector<std::pair<size_t, size_t>>{{0, 1}, {1, 4}, {4, 16}, {16, 64}, {64, 384}}) {
      EXPECT_NEAR(sum(got, begin, end), sum(wanted, begin, end), 0.15 * sum(wanted, begin, end))
          << zipf << " ranks from " << begin;
    }
  }
}

TEST(DummyZipf, GroupsLeaveTheSkewInPlace) {
  const DeepseekConfig config = DeepseekConfig::load("models/shapes/deepseek-r1").value();
  const auto even = routed_shares(config, 5, 0.0);
  EXPECT_LT(*std::max_element(even.begin(), even.end()), 3 * 8.0 / 256);
  const auto wanted = zipf_shares(config, 1.0);
  const auto got = routed_shares(config, 5, 1.0);
  EXPECT_NEAR(sum(got, 0, 32), sum(wanted, 0, 32), 0.2 * sum(wanted, 0, 32));
  EXPECT_GT(sum(got, 0, 8), 1.5 * sum(got, 8, 16));
}

TEST(DummyZipf, EachExpertHasOneRank) {
  const DeepseekConfig config = DeepseekConfig::load("models/shapes/deepseek-r1").value();
  for (const int64_t layer : {0, 3, 60}) {
    std::set<int64_t> experts;
    for (int64_t rank = 0; rank < 256; ++rank) experts.insert(zipf_expert(config, layer, rank));
    EXPECT_EQ(experts.size(), 256u);
    EXPECT_EQ(*experts.rbegin(), 255);
  }
}

TEST(DummyZipf, RefusesByFlag) {
  const auto r1 = DeepseekConfig::load("models/shapes/deepseek-r1").value();
  const auto v2_lite = DeepseekConfig::load("models/shapes/deepseek-v2-lite").value();
  EXPECT_TRUE(check_dummy_zipf(r1, 1.2).ok());
  EXPECT_TRUE(check_dummy_zipf(v2_lite, 0.0).ok());
  EXPECT_EQ(check_dummy_zipf(r1, -1.0).error().message, "--dummy-zipf -1: must be from 0 to 4");
  EXPECT_FALSE(check_dummy_zipf(r1, std::nan("")).ok());
  EXPECT_NE(check_dummy_zipf(v2_lite, 1.0).error().message.find("correction bias"),
            std::string::npos);
}

}  // namespace
}  // namespace deepflight
