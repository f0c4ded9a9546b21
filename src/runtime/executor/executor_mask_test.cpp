// Token masks on their way to the device: in force for their rows and their steps, with captured
// steps on a device that runs late, in rounds, and refused where they do not fit.
#include <gtest/gtest.h>

#include "runtime/executor/executor_fixture_testing.h"
#include "runtime/executor/plan_testing.h"

namespace deepflight {
namespace {

constexpr int32_t kVocab = 96;

ExecutorConfig small_config() {
  ExecutorConfig config = small_executor_config();
  config.decode_batch_sizes = {1, 2, 4};
  return config;
}

SharedTokenMask mask_of(std::initializer_list<int32_t> tokens) {
  auto mask = std::make_shared<std::vector<uint32_t>>(kVocab / 32);
  for (const int32_t token : tokens) (*mask)[token / 32] |= 1u << (token % 32);
  return mask;
}

struct MaskedPlan : TestPlan {
  MaskedPlan(TestPlan plan) : TestPlan(std::move(plan)) {}  // NOLINT: to go on from one
  MaskedPlan&& mask(SlotId slot, std::initializer_list<int32_t> tokens, MaskStart start) && {
    for (auto& admission : admissions) {
      if (admission.slot == slot) admission.mask_start = start;
    }
    mask_updates.push_back({slot, start, mask_of(tokens)});
    return std::move(*this);
  }
};

constexpr MaskStart kNow{.kind = MaskStart::Kind::kNow};

class ExecutorMaskTest : public DeferredExecutorTest {
 protected:
  static TestPlan two_sequences() {
    return TestPlan()
        .admit(0, numbered_prompt(10, 1), {3})
        .admit(1, numbered_prompt(12, 2), {4})
        .prefill(0, 0, 10)
        .prefill(1, 0, 12);
  }
  // Ten tokens of each without masks.
  std::vector<Tokens> free_outputs() {
    const auto executor = make(small_config());
    std::vector<Tokens> outputs(2);
    StepResult result = run(*executor, two_sequences());
    for (int i = 0; i < 10; ++i) {
      for (const auto& row : result.rows) outputs[row.slot].push_back(row.tokens.at(0));
      result = run(*executor, TestPlan().decode(0).decode(1).padded(2));
    }
    return outputs;
  }
};

TEST_F(ExecutorMaskTest, HoldTheirRowsAndNoOthers) {
  const auto free = free_outputs();
  for (const int64_t block_bytes : {int64_t{1}, int64_t{1} << 20}) {
    ExecutorConfig config = small_config();
    config.delta_block_bytes = block_bytes;
    const auto executor = make(config);
    auto result = run(*executor, MaskedPlan(two_sequences()).mask(0, {70}, kNow));
    EXPECT_EQ(result.rows[0].tokens.at(0), 70);
    EXPECT_EQ(result.rows[1].tokens.at(0), free[1][0]);
    for (int i = 1; i < 10; ++i) {
      MaskedPlan plan(TestPlan().decode(0).decode(1).padded(4));
      // Every other step keeps the mask of the step before.
      if (i % 2 == 0) std::move(plan).mask(0, {30 + i, 95}, kNow);
      result = run(*executor, std::move(plan));
      const int32_t token = result.rows[0].tokens.at(0);
      const bool fits = i == 1 ? token == 70 : token == 30 + i - i % 2 || token == 95;
      EXPECT_TRUE(fits) << i << " " << token;
      EXPECT_EQ(result.rows[1].tokens.at(0), free[1][i]) << i;
    }
    EXPECT_EQ(executor->stats().num_graph_steps, 9);
    // Whoever has the slot next is free of it.
    result = run(*executor, two_sequences().retire(0).retire(1));
    EXPECT_EQ(result.rows[0].tokens.at(0), free[0][0]);
  }
}

// In force in the step after the token, which was launched before anyone had read it.
TEST_F(ExecutorMaskTest, BeginBehindATokenThatTheHostHasNotSeen) {
  const auto free = free_outputs();
  const int32_t trigger = free[0][3];
  ASSERT_EQ(std::ranges::count(std::span(free[0]).first(3), trigger), 0);
  const auto executor = make(small_config());
  const MaskStart start{.kind = MaskStart::Kind::kAfterToken, .token = trigger};
  executor->launch(MaskedPlan(two_sequences()).mask(0, {77}, start));
  Tokens output;
  for (int i = 1; i < 5; ++i) {
    executor->launch(TestPlan().decode(0).decode(1).padded(2));
    output.push_back(executor->collect().rows[0].tokens.at(0));
  }
  output.push_back(executor->collect().rows[0].tokens.at(0));
  EXPECT_EQ(output, (Tokens{free[0][0], free[0][1], free[0][2], trigger, 77}));
}

// What the last owner of a slot sampled does not start the next one's mask.
TEST_F(ExecutorMaskTest, TheLastOwnersTokenSaysNothing) {
  const auto free = free_outputs();
  const auto executor = make(small_config());
  run(*executor, two_sequences());
  const MaskStart start{.kind = MaskStart::Kind::kAfterToken, .token = free[0][0]};
  const auto result =
      run(*executor, MaskedPlan(two_sequences().retire(0).retire(1)).mask(0, {77}, start));
  EXPECT_EQ(result.rows[0].tokens.at(0), free[0][0]);
}

TEST_F(ExecutorMaskTest, EndsAreBannedBeforeIt) {
  const auto free = free_outputs();
  auto sampling = std::make_shared<SamplingParams>(*greedy());
  sampling->stop_token_ids = {free[0][0]};
  const auto executor = make(small_config());
  const MaskStart start{.kind = MaskStart::Kind::kAfterToken, .token = 95, .bans_ends = true};
  auto plan =
      MaskedPlan(TestPlan().admit(0, numbered_prompt(10, 1), {3}, sampling).prefill(0, 0, 10))
          .mask(0, {77}, start);
  EXPECT_NE(run(*executor, std::move(plan)).rows[0].tokens.at(0), free[0][0]);
}

TEST_F(ExecutorMaskTest, MasksThatDoNotFitAreRefused) {
  const auto executor = make(small_config());
  const auto bad = [&](SharedTokenMask mask, SlotId slot) {
    StepPlan plan = two_sequences();
    plan.mask_updates.push_back({slot, kNow, std::move(mask)});
    executor->launch(std::move(plan));
    EXPECT_THROW((void)executor->collect(), CheckFailure);
  };
  bad(mask_of({}), 0);
  bad(nullptr, 0);
  bad(std::make_shared<std::vector<uint32_t>>(2, 1), 0);
  bad(mask_of({5}), 3);
}

}  // namespace
}  // namespace deepflight
