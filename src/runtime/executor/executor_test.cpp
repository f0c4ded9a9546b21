// Plans made by hand on a tiny model: deltas, decode rows ahead of their results, mixed steps,
// replay, reuse of slots, and plans that break an invariant.
#include "runtime/executor/executor.h"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/executor/executor_testing.h"
#include "runtime/executor/plan_testing.h"

namespace deepflight {
namespace {

class ExecutorTest : public ::testing::Test {
 protected:
  static constexpr int kNumSlots = 4;
  static constexpr int kNumPages = 24;

  static void SetUpTestSuite() { model_ = new TinyModel; }
  static void TearDownTestSuite() { delete model_; }

  static ExecutorConfig config() {
    ExecutorConfig config;
    config.num_pages = kNumPages;
    config.max_num_slots = kNumSlots;
    config.max_batched_tokens = 256;
    config.max_pages_per_slot = 5;
    return config;
  }

  using Plan = TestPlan;

  StepResult run(StepPlan plan) {
    executor_.launch(std::move(plan));
    return executor_.collect();
  }

  static PageId page(int i) { return static_cast<PageId>(i); }

  // A sequence alone in a fresh executor, one step at a time: what every other way must give.
  static Tokens alone(const Tokens& prompt, int num_outputs,
                      std::shared_ptr<const SamplingParams> sampling = greedy()) {
    Executor executor(config(), model_->config, model_->weights, model_->backend);
    executor.launch(Plan()
                        .admit(0, prompt, {5, 4, 3, 2, 1}, std::move(sampling))
                        .prefill(0, 0, static_cast<int>(prompt.size())));
    Tokens outputs = executor.collect().rows.at(0).tokens;
    while (static_cast<int>(outputs.size()) < num_outputs) {
      executor.launch(Plan().decode(0));
      outputs.push_back(executor.collect().rows.at(0).tokens.at(0));
    }
    return outputs;
  }

  static TinyModel* model_;
  Executor executor_{config(), model_->config, model_->weights, model_->backend};
};
TinyModel* ExecutorTest::model_ = nullptr;

TEST_F(ExecutorTest, ResultsNameStepAndSlotsInPlanOrder) {
  StepPlan plan = Plan()
                      .admit(2, numbered_prompt(10, 1), {0})
                      .admit(0, numbered_prompt(70, 2), {7, 3})
                      .admit(3, numbered_prompt(5, 3), {1})
                      .prefill(2, 0, 10)
                      .prefill(0, 0, 40, false)
                      .prefill(3, 0, 5);
  const uint64_t id = plan.step_id;
  StepResult result = run(std::move(plan));
  EXPECT_EQ(result.step_id, id);
  EXPECT_GE(result.duration_us, 0);
  ASSERT_EQ(result.rows.size(), 2u);
  EXPECT_EQ(result.rows[0].slot, 2);
  EXPECT_EQ(result.rows[1].slot, 3);
  EXPECT_EQ(result.rows[0].tokens, alone(numbered_prompt(10, 1), 1));
  EXPECT_EQ(result.rows[1].tokens, alone(numbered_prompt(5, 3), 1));
  EXPECT_TRUE(result.rows[0].logprobs.empty());

  // Decode rows come before sampling chunks, whatever their slots.
  result = run(Plan().decode(3).decode(2).prefill(0, 40, 30));
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_EQ(result.rows[0].slot, 3);
  EXPECT_EQ(result.rows[1].slot, 2);
  EXPECT_EQ(result.rows[2].slot, 0);
  EXPECT_EQ(result.rows[0].tokens[0], alone(numbered_prompt(5, 3), 2)[1]);
  EXPECT_EQ(result.rows[1].tokens[0], alone(numbered_prompt(10, 1), 2)[1]);
  EXPECT_EQ(result.rows[2].tokens, alone(numbered_prompt(70, 2), 1));
}

// Step n+1 decodes what step n samples, launched before n is read; pages come as they are needed.
TEST_F(ExecutorTest, StepsRunAhead) {
  const Tokens prompt = numbered_prompt(62, 4);
  const Tokens want = alone(prompt, 8);
  executor_.launch(Plan().admit(1, prompt, {9}).prefill(1, 0, 62));
  executor_.launch(Plan().decode(1));
  executor_.launch(Plan().decode(1));
  executor_.launch(Plan().grant(1, 1, {20}).decode(1));
  Tokens outputs;
  for (int i = 0; i < 4; ++i) outputs.push_back(executor_.collect().rows.at(0).tokens.at(0));
  for (int i = 4; i < 8; ++i) executor_.launch(Plan().decode(1));
  for (int i = 4; i < 8; ++i) outputs.push_back(executor_.collect().rows.at(0).tokens.at(0));
  EXPECT_EQ(outputs, want);
}

TEST_F(ExecutorTest, ChunksAndCompanyChangeNothing) {
  const Tokens a = numbered_prompt(150, 5), b = numbered_prompt(90, 6), c = numbered_prompt(3, 7);
  std::map<SlotId, Tokens> outputs;
  const auto run_and_keep = [&](StepPlan plan) {
    for (auto& row : run(std::move(plan)).rows) {
      outputs[row.slot].insert(outputs[row.slot].end(), row.tokens.begin(), row.tokens.end());
    }
  };
  run_and_keep(Plan().admit(0, a, {8, 6, 4}).prefill(0, 0, 17, false));
  run_and_keep(Plan().admit(1, b, {1, 0}).prefill(0, 17, 64, false).prefill(1, 0, 1, false));
  run_and_keep(
      Plan().admit(2, c, {11}).prefill(1, 1, 88, false).prefill(2, 0, 3).prefill(0, 81, 69));
  run_and_keep(Plan().decode(2).decode(0).prefill(1, 89, 1));
  for (int i = 0; i < 6; ++i) run_and_keep(Plan().decode(1).decode(0).decode(2));
  EXPECT_EQ(outputs[0], alone(a, 8));
  EXPECT_EQ(outputs[1], alone(b, 7));
  EXPECT_EQ(outputs[2], alone(c, 8));
}

// A prompt's leading pages are in the pool already, computed by another slot.
TEST_F(ExecutorTest, CachedPagesAreNotComputedAgain) {
  const Tokens prompt = numbered_prompt(130, 8);
  run(Plan().admit(0, prompt, {2, 3, 4}).prefill(0, 0, 130));
  Plan plan;
  const auto result =
      run(std::move(plan).admit(1, prompt, {2, 3, 17}, greedy(), 130, 128).prefill(1, 128, 2));
  EXPECT_EQ(result.rows.at(0).tokens, alone(prompt, 1));
  EXPECT_EQ(run(Plan().decode(1)).rows.at(0).tokens.at(0), alone(prompt, 2)[1]);
}

// After a preemption, prompt and output are computed again and sampling goes on where it was:
// greedy, and with draws and penalties that depend on the output so far.
TEST_F(ExecutorTest, ReplayContinuesTheSequence) {
  auto drawn = std::make_shared<SamplingParams>();
  drawn->temperature = 1.3f;
  drawn->frequency_penalty = 0.5f;
  drawn->repetition_penalty = 1.2f;
  const Tokens prompt = numbered_prompt(60, 9);
  for (const auto& sampling : {greedy(), drawn}) {
    const Tokens want = alone(prompt, 20, sampling);
    for (const int num_known : {1, 4, 5, 15}) {
      for (const int chunk : {1, 3, 64}) {
        Tokens known = prompt;
        known.insert(known.end(), want.begin(), want.begin() + num_known);
        const auto end = static_cast<int>(known.size());
        run(Plan().retire(3).admit(3, known, {13, 12}, sampling, 60).prefill(3, 0, 60, false));
        Tokens outputs;
        for (int start = 60; start < end; start += chunk) {
          const int length = std::min(chunk, end - start);
          for (auto& row : run(Plan().replay(3, start, length, start + length == end)).rows) {
            outputs.push_back(row.tokens.at(0));
          }
        }
        while (static_cast<int>(outputs.size()) < 20 - num_known) {
          outputs.push_back(run(Plan().decode(3)).rows.at(0).tokens.at(0));
        }
        EXPECT_EQ(outputs, Tokens(want.begin() + num_known, want.end()))
            << num_known << " known, chunks of " << chunk;
      }
    }
  }
}

// A replay, a prompt chunk and a decode row in one step.
TEST_F(ExecutorTest, AllKindsInOneStep) {
  const Tokens a = numbered_prompt(20, 10), b = numbered_prompt(30, 11),
               c = numbered_prompt(40, 12);
  const Tokens want_a = alone(a, 6), want_b = alone(b, 2), want_c = alone(c, 1);
  Tokens known = a;
  known.insert(known.end(), want_a.begin(), want_a.begin() + 5);
  run(Plan()
          .admit(0, known, {0}, greedy(), 20)
          .admit(1, b, {1})
          .prefill(0, 0, 20, false)
          .prefill(1, 0, 30));
  const StepResult result =
      run(Plan().admit(2, c, {2}).decode(1).prefill(2, 0, 40).replay(0, 20, 5));
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_EQ(result.rows[0].tokens[0], want_b[1]);
  EXPECT_EQ(result.rows[1].tokens[0], want_c[0]);  // chunks in plan order, not by kind
  EXPECT_EQ(result.rows[2].tokens[0], want_a[5]);
}

// Nothing of a slot's past shows: counts, prompt tokens, biases, bans, log-probabilities, pages.
TEST_F(ExecutorTest, SlotsStartAfresh) {
  auto fancy = std::make_shared<SamplingParams>();
  fancy->temperature = 0.0f;
  fancy->repetition_penalty = 2.0f;
  fancy->presence_penalty = 2.0f;
  fancy->logit_bias = {{50, 100.0f}, {51, -100.0f}};
  fancy->min_tokens = 10;
  fancy->max_tokens = 16;
  fancy->stop_token_ids = {50, 60, 61};
  fancy->num_logprobs = 4;
  const Tokens prompt = numbered_prompt(80, 13);
  const Tokens want = alone(prompt, 5);
  for (int round = 0; round < 3; ++round) {
    StepResult result =
        run(Plan().admit(1, numbered_prompt(120, round), {5, 6}, fancy).prefill(1, 0, 120));
    ASSERT_EQ(result.rows.at(0).logprobs.size(), 1u);
    EXPECT_EQ(result.rows[0].logprobs[0].top.size(), 4u);
    for (int i = 0; i < 4; ++i) run(Plan().decode(1));
    result = run(Plan().retire(1).admit(1, prompt, {6, 5}).prefill(1, 0, 80));
    Tokens outputs = result.rows.at(0).tokens;
    EXPECT_TRUE(result.rows[0].logprobs.empty());
    for (int i = 1; i < 5; ++i) outputs.push_back(run(Plan().decode(1)).rows.at(0).tokens.at(0));
    EXPECT_EQ(outputs, want);
  }
}

TEST_F(ExecutorTest, MinTokensBansStopTokensAndEndOfSequence) {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->temperature = 0.0f;
  sampling->max_tokens = 8;
  sampling->min_tokens = 3;
  sampling->logit_bias = {{kTinyEos, 100.0f}, {40, 90.0f}};
  sampling->stop_token_ids = {40};
  Tokens outputs = alone(numbered_prompt(5, 14), 4, sampling);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(outputs[i], kTinyEos);
    EXPECT_NE(outputs[i], 40);
  }
  EXPECT_EQ(outputs[3], kTinyEos);
  sampling->ignore_eos = true;  // then the end of sequence is a token like any other
  EXPECT_EQ(alone(numbered_prompt(5, 14), 1, sampling)[0], kTinyEos);
}

TEST_F(ExecutorTest, LogprobsOfTheRowsThatAsk) {
  auto asks = greedy();
  asks->num_logprobs = 3;
  const auto result = run(Plan()
                              .admit(0, numbered_prompt(9, 15), {0}, asks)
                              .admit(1, numbered_prompt(9, 15), {1})
                              .prefill(0, 0, 9)
                              .prefill(1, 0, 9));
  const auto& logprobs = result.rows.at(0).logprobs;
  ASSERT_EQ(logprobs.size(), 1u);
  ASSERT_EQ(logprobs[0].top.size(), 3u);
  EXPECT_EQ(logprobs[0].top[0].first, result.rows[0].tokens[0]);
  EXPECT_EQ(logprobs[0].top[0].second, logprobs[0].logprob);
  EXPECT_GE(logprobs[0].top[1].second, logprobs[0].top[2].second);
  EXPECT_LT(logprobs[0].logprob, 0.0f);
  EXPECT_TRUE(result.rows[1].logprobs.empty());
}

// Each of these throws out of collect(); a sequence that runs beside them is not touched.
TEST_F(ExecutorTest, BrokenPlansThrowAndLaterStepsWork) {
  const Tokens prompt = numbered_prompt(70, 16);
  const Tokens want = alone(prompt, 30);
  Tokens outputs = run(Plan().admit(0, prompt, {0, 1}).prefill(0, 0, 70)).rows.at(0).tokens;

  const Tokens good = numbered_prompt(10, 17);
  Tokens bad_token = good, negative_token = good;
  bad_token[3] = 96;
  negative_token[9] = -1;
  std::vector<std::pair<const char*, StepPlan>> broken;
  const auto add = [&](const char* what, StepPlan plan) {
    broken.emplace_back(what, std::move(plan));
  };
  add("no work", Plan());
  add("drafts", [] {
    Plan plan;
    plan.draft_len = 1;
    return std::move(plan).decode(0);
  }());
  add("token too large", Plan().admit(1, bad_token, {2}).prefill(1, 0, 10));
  add("token negative", Plan().admit(1, negative_token, {2}).prefill(1, 0, 10));
  add("admission past the slots", Plan().admit(kNumSlots, good, {2}).prefill(kNumSlots, 0, 10));
  add("admission of slot -1", Plan().admit(-1, good, {2}).prefill(-1, 0, 10));
  add("retires slot -1", Plan().retire(-1).decode(0));
  add("retires past the slots", Plan().retire(1000).decode(0));
  add("grant past the slots", Plan().grant(1000, 0, {3}).decode(0));
  add("grant past the row", Plan().admit(1, good, {2, 3, 4, 5, 6, 7}).prefill(1, 0, 10));
  add("grant before the row", Plan().admit(1, good, {2}).grant(1, -1, {3}).prefill(1, 0, 10));
  add("chunk of an empty slot", Plan().prefill(2, 0, 1));
  add("chunk of no slot", Plan().prefill(-1, 0, 1));
  add("chunk past the slots", Plan().prefill(1000, 0, 1));
  add("chunk past the tokens", Plan().admit(1, good, {2}).prefill(1, 5, 6));
  add("chunk before the tokens", Plan().admit(1, good, {2}).prefill(1, -1, 4));
  add("chunk of nothing", Plan().admit(1, good, {2}).prefill(1, 3, 0));
  add("page past the pool", Plan().admit(1, good, {kNumPages}).prefill(1, 0, 10));
  add("page -1", Plan().admit(1, good, {-1}).prefill(1, 0, 10));
  add("decode of an empty slot", Plan().decode(2));
  add("decode of slot -1", Plan().decode(-1));
  add("decode past the slots", Plan().decode(1000));
  add("more rows than slots", [] {
    Plan plan;
    for (int i = 0; i < 300; ++i) plan.decode_rows.push_back({0});
    return plan;
  }());
  add("more tokens than a step holds", [&] {
    return Plan()
        .admit(1, numbered_prompt(200, 1), {2, 3, 4, 5})
        .admit(2, numbered_prompt(200, 2), {6, 7, 8, 9})
        .prefill(1, 0, 200, false)
        .prefill(2, 0, 200, false);
  }());
  for (auto& [what, plan] : broken) {
    executor_.launch(std::move(plan));
    executor_.launch(Plan().retire(1).retire(2).decode(0));  // launched before the failure is read
    EXPECT_THROW(executor_.collect(), CheckFailure) << what;
    outputs.push_back(executor_.collect().rows.at(0).tokens.at(0));
  }
  while (outputs.size() < want.size()) outputs.push_back(run(Plan().decode(0)).rows[0].tokens[0]);
  EXPECT_EQ(outputs, want);
}

// When a plan's deltas fail, the next plan, launched already, must not run its slots on what they
// held before: old page table rows name pages that are somebody else's by now.
TEST_F(ExecutorTest, SlotsOfFailedDeltasDoNotRun) {
  const Tokens prompt = numbered_prompt(60, 18);
  const Tokens want = alone(prompt, 12);
  run(Plan().admit(1, numbered_prompt(60, 19), {3}).prefill(1, 0, 60));
  Tokens outputs = run(Plan().retire(1).admit(0, prompt, {3}).prefill(0, 0, 60)).rows.at(0).tokens;

  Tokens bad = prompt;
  bad[0] = -5;
  executor_.launch(Plan().admit(2, bad, {4}).admit(1, prompt, {5}).prefill(1, 0, 60));
  executor_.launch(Plan().decode(1));  // its page table still says 3, which is slot 0's
  EXPECT_THROW(executor_.collect(), CheckFailure);
  EXPECT_THROW(executor_.collect(), CheckFailure);

  // The same for a grant that is lost: slot 3 runs on page 7 and is to go on in a page of its own.
  run(Plan().admit(3, numbered_prompt(64, 20), {7}).prefill(3, 0, 64));
  executor_.launch(Plan().admit(2, bad, {4}).grant(3, 1, {8}).decode(3));
  executor_.launch(Plan().decode(3));
  EXPECT_THROW(executor_.collect(), CheckFailure);
  EXPECT_THROW(executor_.collect(), CheckFailure);

  while (outputs.size() < want.size()) outputs.push_back(run(Plan().decode(0)).rows[0].tokens[0]);
  EXPECT_EQ(outputs, want);
}

// More steps than staging blocks: those that were not issued never run.
TEST_F(ExecutorTest, DestructionWithStepsLaunched) {
  Executor executor(config(), model_->config, model_->weights, model_->backend);
  executor.launch(Plan().admit(0, numbered_prompt(10, 1), {0}).prefill(0, 0, 10));
  for (int i = 0; i < 5; ++i) executor.launch(Plan().decode(0));
  (void)executor.collect();
}

TEST_F(ExecutorTest, PoolBytes) {
  // 24 pages x 2 layers x 64 tokens x (16 + 8) elements.
  ExecutorConfig config = this->config();
  EXPECT_EQ(Executor::kv_pool_bytes(config, model_->config, DType::kF32), 24 * 2 * 64 * 24 * 4);
  config.kv_format = KvFormat::kBF16;
  EXPECT_EQ(Executor::kv_pool_bytes(config, model_->config, DType::kF32), 24 * 2 * 64 * 24 * 2);
}

TEST_F(ExecutorTest, Bf16PoolRuns) {
  ExecutorConfig bf16 = config();
  bf16.kv_format = KvFormat::kBF16;
  Executor executor(bf16, model_->config, model_->weights, model_->backend);
  const Tokens prompt = numbered_prompt(100, 21);
  Tokens outputs;
  for (const int chunk : {100, 30}) {
    for (int start = 0; start < 100; start += chunk) {
      const int length = std::min(chunk, 100 - start);
      Plan plan;
      if (start == 0) plan = Plan().retire(0).admit(0, prompt, {chunk % 7, 9});
      executor.launch(std::move(plan).prefill(0, start, length, start + length == 100));
      for (auto& row : executor.collect().rows) outputs.push_back(row.tokens[0]);
    }
  }
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0], outputs[1]);
}

}  // namespace
}  // namespace deepflight
