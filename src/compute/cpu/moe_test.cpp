// Routing against brute force, experts against a float64 loop over tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/op_testing.h"

namespace deepflight {
namespace {

using namespace testing;  // NOLINT: the helpers of op_testing.h

// --- routing

struct Choice {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

// A stable sort by score, so that ties go to the lower index.
std::vector<int> ranked(const std::vector<double>& scores) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  return order;
}

Choice route_reference(const std::vector<double>& logits, const std::vector<double>& bias,
                       const RoutingParams& params) {
  const auto num_experts = static_cast<int>(logits.size());
  std::vector<double> scores(num_experts), choice(num_experts);
  double total = 0;
  for (int i = 0; i < num_experts; ++i) total += std::exp(logits[i]);
  for (int i = 0; i < num_experts; ++i) {
    scores[i] = params.scoring == RouterScoring::kSigmoid ? 1 / (1 + std::exp(-logits[i]))
                                                          : std::exp(logits[i]) / total;
    choice[i] = scores[i] + (bias.empty() ? 0 : bias[i]);
  }
  const int group_size = num_experts / params.num_groups;
  std::vector<bool> allowed(num_experts, params.group_score == GroupScore::kNone);
  if (params.group_score != GroupScore::kNone) {
    std::vector<double> group_scores;
    for (int group = 0; group < params.num_groups; ++group) {
      std::vector<double> members(choice.begin() + group * group_size,
                                  choice.begin() + (group + 1) * group_size);
      std::sort(members.rbegin(), members.rend());
      group_scores.push_back(params.group_score == GroupScore::kMax ? members[0]
                                                                    : members[0] + members[1]);
    }
    const auto order = ranked(group_scores);
    for (int rank = 0; rank < params.topk_groups; ++rank) {
      std::fill_n(allowed.begin() + order[rank] * group_size, group_size, true);
    }
  }
  Choice result;
  double sum = 0;
  for (const int expert : ranked(choice)) {
    if (!allowed[expert] || static_cast<int>(result.ids.size()) == params.topk) continue;
    result.ids.push_back(expert);
    result.weights.push_back(scores[expert]);
    sum += scores[expert];
  }
  for (double& weight : result.weights) {
    weight *= params.scaling_factor / (params.normalize ? sum + 1e-20 : 1.0);
  }
  return result;
}

void check_routing(CpuBackend& backend, const Matrix& logits, const Matrix* bias,
                   const RoutingParams& params) {
  std::vector<int32_t> ids(logits.rows * params.topk, -7);
  Matrix weights(logits.rows, params.topk);
  backend.route_experts(logits.view(), bias ? vector_view(*bias) : TensorView(), params,
                        TensorView::of(ids.data(), {logits.rows, params.topk}), weights.view());
  const auto bias_values = bias ? to_double(bias->row(0), bias->columns) : std::vector<double>{};
  std::vector<double> want_weights;
  for (int64_t t = 0; t < logits.rows; ++t) {
    const Choice want =
        route_reference(to_double(logits.row(t), logits.columns), bias_values, params);
    ASSERT_EQ(
        std::vector<int32_t>(ids.begin() + t * params.topk, ids.begin() + (t + 1) * params.topk),
        want.ids)
        << "token " << t;
    want_weights.insert(want_weights.end(), want.weights.begin(), want.weights.end());
  }
  expect_near(weights, want_weights, 2e-6 * params.scaling_factor);
}

TEST(RouteExperts, EveryMethodAgainstBruteForce) {
  CpuBackend backend({.num_threads = 2});
  uint32_t seed = 1;
  for (const RouterScoring scoring : {RouterScoring::kSigmoid, RouterScoring::kSoftmax}) {
    for (const GroupScore group_score :
         {GroupScore::kNone, GroupScore::kTop2Sum, GroupScore::kMax}) {
      for (const auto& [experts, groups, topk_groups, topk] :
           std::vector<std::array<int, 4>>{{256, 8, 4, 8},
                                           {16, 4, 2, 4},
                                           {64, 1, 1, 6},
                                           {12, 6, 1, 2},
                                           {15, 3, 3, 15},
                                           {2, 1, 1, 1}}) {
        for (const bool normalize : {true, false}) {
          const RoutingParams params{
              scoring, group_score, groups, topk_groups, topk, normalize, normalize ? 2.5f : 1.0f};
          SCOPED_TRACE(fmt::format("scoring {} groups {} of {}: {} experts, top {}",
                                   static_cast<int>(scoring), static_cast<int>(group_score), groups,
                                   experts, topk));
          const Matrix logits = Matrix::random(37, experts, seed++, 2);
          check_routing(backend, logits, nullptr, params);
          const Matrix bias = Matrix::random(1, experts, seed++, 0, 0.3f);
          check_routing(backend, logits, &bias, params);
        }
      }
    }
  }
}

// With every biased score below zero, an expert outside the chosen groups must not slip in.
TEST(RouteExperts, NegativeBiases) {
  CpuBackend backend({.num_threads = 1});
  const Matrix logits = Matrix::random(50, 16, 90);
  Matrix bias = Matrix::random(1, 16, 91);
  for (int i = 0; i < 16; ++i) bias.at(0, i) -= 10.0f;
  for (const GroupScore group_score : {GroupScore::kTop2Sum, GroupScore::kMax}) {
    check_routing(backend, logits, &bias,
                  {RouterScoring::kSigmoid, group_score, 4, 1, 4, true, 1.0f});
  }
}

TEST(RouteExperts, TiesGoToTheLowerExpert) {
  CpuBackend backend({.num_threads = 1});
  Matrix logits(4, 16);
  std::fill(logits.storage.begin(), logits.storage.end(), 0.25f);
  std::mt19937 engine(92);
  for (int64_t t = 1; t < 4; ++t) {
    for (int i = 0; i < 16; ++i) logits.at(t, i) = static_cast<float>(engine() % 2);
  }
  for (const GroupScore group_score : {GroupScore::kNone, GroupScore::kTop2Sum, GroupScore::kMax}) {
    for (const int topk : {1, 4, 8}) {
      check_routing(backend, logits, nullptr,
                    {RouterScoring::kSigmoid, group_score, 4, 2, topk, false, 1.0f});
    }
  }
}

TEST(RouteExperts, ExtremeLogits) {
  CpuBackend backend({.num_threads = 1});
  Matrix logits(1, 4);
  const float values[4] = {-90.0f, 80.0f, 79.0f, -500.0f};  // the outer two both round to zero
  std::copy_n(values, 4, logits.row(0));
  check_routing(backend, logits, nullptr,
                {RouterScoring::kSoftmax, GroupScore::kNone, 1, 1, 4, false, 1.0f});
  check_routing(backend, logits, nullptr,
                {RouterScoring::kSigmoid, GroupScore::kNone, 1, 1, 4, true, 1.0f});
}

// --- experts

struct Experts {
  Experts(CpuBackend& backend, DType dtype, int num_experts, int64_t hidden, int64_t width,
          uint32_t seed) {
    std::vector<std::vector<StoredMatrix>> gate_ups, downs;
    for (int e = 0; e < num_experts; ++e) {
      gate.push_back(random_stored(dtype, width, hidden, seed++));
      up.push_back(random_stored(dtype, width, hidden, seed++));
      down.push_back(random_stored(dtype, hidden, width, seed++));
    }
    for (int e = 0; e < num_experts; ++e) {
      gate_ups.push_back({gate[e].matrix(), up[e].matrix()});
      downs.push_back({down[e].matrix()});
    }
    weights = {backend.pack_grouped_linear(gate_ups), backend.pack_grouped_linear(downs), {}};
    shared_gate_up = random_stored(dtype, 2 * width, hidden, seed++);
    shared_down = random_stored(dtype, hidden, width, seed++);
  }
  // Adds a shared expert.
  void share(CpuBackend& backend) {
    const StoredMatrix gate_up = shared_gate_up.matrix(), down = shared_down.matrix();
    weights.shared =
        MlpWeights{backend.pack_linear({&gate_up, 1}), backend.pack_linear({&down, 1})};
  }
  std::vector<Stored> gate, up, down;
  Stored shared_gate_up, shared_down;
  MoeWeights weights;
};

std::vector<double> product(const std::vector<double>& x, const Stored& matrix) {
  std::vector<double> result(matrix.num_rows);
  for (int64_t i = 0; i < matrix.num_rows; ++i) {
    for (size_t k = 0; k < x.size(); ++k) {
      result[i] += x[k] * matrix.values[i * static_cast<int64_t>(x.size()) + k];
    }
  }
  return result;
}

std::vector<double> moe_reference(const Matrix& x, const Experts& experts, const Ints& ids,
                                  const Matrix& weights, const Matrix& out, bool quantize) {
  std::vector<double> result;
  const int64_t topk = weights.columns;
  for (int64_t t = 0; t < x.rows; ++t) {
    auto total = to_double(out.row(t), out.columns);
    auto input = to_double(x.row(t), x.columns);
    if (quantize) input = quantized_row(input);
    for (int64_t k = 0; k < topk; ++k) {
      const int32_t expert = ids.values[t * topk + k];
      const auto gate = product(input, experts.gate[expert]);
      auto hidden = product(input, experts.up[expert]);
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= silu(gate[i]);
      if (quantize) hidden = quantized_row(hidden);
      const auto down = product(hidden, experts.down[expert]);
      for (size_t i = 0; i < total.size(); ++i) total[i] += weights.at(t, k) * down[i];
    }
    result.insert(result.end(), total.begin(), total.end());
  }
  return result;
}

// Rounding to e4m3 may fall the other way where float32 and float64 straddle a tie; that moves
// whole rows a little. All rows must be close, and nearly all must be exact.
void expect_near_but_for_ties(const Matrix& got, const std::vector<double>& want) {
  int64_t num_off = 0;
  for (int64_t t = 0; t < got.rows; ++t) {
    double largest = 0;
    for (int64_t i = 0; i < got.columns; ++i) {
      largest = std::max(largest, std::fabs(got.at(t, i) - want[t * got.columns + i]));
    }
    ASSERT_LE(largest, 0.05) << "row " << t;
    num_off += largest > 2e-5;
  }
  EXPECT_LE(num_off, 1 + got.rows / 20);
}

struct MoeCase {
  int64_t num_tokens, hidden, width;
  int num_experts, topk;
};
const std::vector<MoeCase> kMoeCases = {
    {32, 128, 128, 16, 4},                       // round
    {1, 64, 32, 8, 2},     {5, 16, 8, 1, 1},     // corners
    {150, 24, 16, 2, 2},   {200, 8, 8, 64, 1},   // more than a task's rows; most experts idle
    {13, 129, 70, 5, 3},   {7, 200, 130, 6, 5},  // odd
};

class MoeTest : public ::testing::TestWithParam<DType> {};

TEST_P(MoeTest, AgainstALoopOverTokens) {
  CpuBackend backend({.num_threads = 2});
  uint32_t seed = 100;
  for (const MoeCase& c : kMoeCases) {
    SCOPED_TRACE(fmt::format("{} tokens, {} x {}, {} of {} experts", c.num_tokens, c.hidden,
                             c.width, c.topk, c.num_experts));
    Experts experts(backend, GetParam(), c.num_experts, c.hidden, c.width, seed++);
    const Matrix x = Matrix::random(c.num_tokens, c.hidden, seed++, 3);
    const Matrix weights = Matrix::random(c.num_tokens, c.topk, seed++);
    std::mt19937 engine(seed++);
    Ints ids;
    for (int64_t t = 0; t < c.num_tokens; ++t) {
      std::vector<int32_t> all(c.num_experts);
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), engine);
      ids.values.insert(ids.values.end(), all.begin(), all.begin() + c.topk);
    }
    // What the routed experts are added to: nothing, or the shared expert.
    Matrix before(c.num_tokens, c.hidden, 2);
    for (int64_t t = 0; t < c.num_tokens; ++t) std::fill_n(before.row(t), c.hidden, 0.0f);
    if (c.num_tokens % 2 == 1) {
      experts.share(backend);
      const Matrix gate_up(c.num_tokens, 2 * c.width), activated(c.num_tokens, c.width);
      backend.linear_swiglu(x.view(), experts.weights.shared->gate_up, gate_up.view(),
                            activated.view());
      backend.linear(activated.view(), experts.weights.shared->down, before.view());
    }
    Matrix out = Matrix::random(c.num_tokens, c.hidden, seed++, 2);
    backend.moe(x.view(), experts.weights, ids.view(c.num_tokens, c.topk), weights.view(),
                out.view());
    const bool quantizes = GetParam() == DType::kF8E4M3;
    const auto want = moe_reference(x, experts, ids, weights, before, quantizes);
    if (quantizes) {
      expect_near_but_for_ties(out, want);
    } else {
      expect_near(out, want, 3e-5);
    }

    // The chain of unfused ops is the same function, bit for bit.
    Matrix unfused = Matrix::random(c.num_tokens, c.hidden, seed++, 2);
    backend.Backend::moe(x.view(), experts.weights, ids.view(c.num_tokens, c.topk), weights.view(),
                         unfused.view());
    EXPECT_EQ(
        std::memcmp(unfused.storage.data(), out.storage.data(), out.storage.size() * sizeof(float)),
        0);

    // Every token alone, and with another number of threads, has the same bits.
    CpuBackend three({.num_threads = 3});
    for (const int64_t t : {int64_t{0}, c.num_tokens / 2, c.num_tokens - 1}) {
      Matrix one(1, c.hidden);
      const Ints one_ids(std::vector<int32_t>(ids.values.begin() + t * c.topk,
                                              ids.values.begin() + (t + 1) * c.topk));
      three.moe(x.view().slice(0, t, 1), experts.weights, one_ids.view(1, c.topk),
                weights.view().slice(0, t, 1), one.view());
      EXPECT_TRUE(same_bits(one.row(0), out.row(t), c.hidden)) << t;
    }
  }
}

TEST_P(MoeTest, AllTokensOnOneExpert) {
  CpuBackend backend({.num_threads = 2});
  const Experts experts(backend, GetParam(), 4, 32, 16, 300);
  const Matrix x = Matrix::random(140, 32, 301);
  const Matrix weights = Matrix::random(140, 1, 302);
  const Ints ids(std::vector<int32_t>(140, 2));
  Matrix out(140, 32);
  std::fill(out.storage.begin(), out.storage.end(), 0.0f);
  const Matrix before = out;
  backend.moe(x.view(), experts.weights, ids.view(140, 1), weights.view(), out.view());
  expect_near_but_for_ties(
      out, moe_reference(x, experts, ids, weights, before, GetParam() == DType::kF8E4M3));
}

INSTANTIATE_TEST_SUITE_P(Formats, MoeTest,
                         ::testing::Values(DType::kF32, DType::kBF16, DType::kF8E4M3),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(Moe, RefusesExpertsThatAreNotThere) {
  CpuBackend backend({.num_threads = 1});
  const Experts experts(backend, DType::kF32, 4, 8, 8, 400);
  const Matrix x = Matrix::random(1, 8, 401), weights = Matrix::random(1, 2, 402);
  Matrix out = Matrix::random(1, 8, 403);
  for (const int32_t bad : {-1, 4}) {
    const Ints ids{0, bad};
    EXPECT_THROW(backend.moe(x.view(), experts.weights, ids.view(1, 2), weights.view(), out.view()),
                 CheckFailure);
  }
}

}  // namespace
}  // namespace deepflight
