// Drafts through the executor, by one module and by a module for each: outputs are those of steps
// without drafts whatever the drafts are worth, and drafts depend on nothing but the tokens before
// them.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "runtime/executor/deferred_backend_testing.h"
#include "runtime/executor/executor.h"
#include "runtime/executor/executor_testing.h"
#include "runtime/executor/plan_testing.h"

namespace deepflight {
namespace {

using Plan = TestPlan;
using Sampling = std::shared_ptr<const SamplingParams>;

ExecutorConfig mtp_config(MtpMode mode, int draft_len, std::vector<int32_t> graphs = {}) {
  ExecutorConfig config;
  config.num_pages = 32;
  config.max_num_slots = 4;
  config.max_batched_tokens = 256;
  config.max_pages_per_slot = 5;
  config.decode_batch_sizes = std::move(graphs);
  config.speculative.draft_len = draft_len;
  config.speculative.mode = mode;
  return config;
}

constexpr int kNumModules = 3;

class ExecutorMtpTest : public ::testing::TestWithParam<MtpMode> {
 protected:
  static void SetUpTestSuite() { model_ = new DraftingModel(kNumModules); }
  static void TearDownTestSuite() { delete model_; }

  static ExecutorConfig mtp_config(int draft_len, std::vector<int32_t> graphs = {}) {
    return deepflight::mtp_config(GetParam(), draft_len, std::move(graphs));
  }

  // An executor and its device, whose memory the test can look into.
  struct Rig {
    Rig(const ExecutorConfig& config)  // NOLINT: as if it were the config
        : draft_len(config.speculative.draft_len),
          device(model_->backend),
          executor(config, model_->config, model_->weights, device) {}

    StepResult run(StepPlan plan) {
      plan.draft_len = plan.next_draft_len = draft_len;
      executor.launch(std::move(plan));
      StepResult result = executor.collect();
      for (const RowResult& row : result.rows) {
        Tokens& output = outputs[row.slot];
        output.insert(output.end(), row.tokens.begin(), row.tokens.end());
        num_drafts += row.num_drafts;
        if (row.num_drafts > 0) num_accepted += static_cast<int>(row.tokens.size()) - 1;
      }
      return result;
    }
    void decode_until(SlotId slot, size_t count) {
      while (outputs[slot].size() < count) run(Plan().decode(slot));
      outputs[slot].resize(count);
    }
    Tokens drafts(SlotId slot) {
      device.synchronize();
      const int32_t* row = device.last_state.draft_tokens.row<int32_t>(slot);
      return {row, row + draft_len};
    }

    // What the modules left in the pages for a slot's first `count` tokens.
    std::vector<float> module_kv(SlotId slot, int count) {
      device.synchronize();
      const KvPool& pool = device.last_pool;
      std::vector<float> kv;
      for (int64_t layer = model_->config.num_layers; layer < pool.num_layers; ++layer) {
        for (int i = 0; i < count; ++i) {
          const int32_t page = device.last_state.page_table.row<int32_t>(slot)[i / kPageTokens];
          const char* base = static_cast<const char*>(pool.base) + page * pool.page_stride_bytes() +
                             layer * pool.layer_stride_bytes();
          const auto* token =
              reinterpret_cast<const float*>(base) + i % kPageTokens * pool.token_dim;
          kv.insert(kv.end(), token, token + pool.token_dim);
        }
      }
      return kv;
    }

    int draft_len;
    DeferredBackend device;
    Executor executor;
    std::map<SlotId, Tokens> outputs;
    int num_drafts = 0;
    int num_accepted = 0;
  };

  // Without drafts, one token a step.
  static Tokens plain(const Tokens& prompt, size_t num_outputs, const Sampling& sampling) {
    Rig rig(mtp_config(0));
    rig.run(Plan()
                .admit(0, prompt, {5, 4, 3, 2, 1}, sampling)
                .prefill(0, 0, static_cast<int>(prompt.size())));
    rig.decode_until(0, num_outputs);
    return rig.outputs[0];
  }

  static DraftingModel* model_;
};
DraftingModel* ExecutorMtpTest::model_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Modes, ExecutorMtpTest,
                         ::testing::Values(MtpMode::kEagle, MtpMode::kVanilla));

Sampling drawn() {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->temperature = 0.7f;
  return sampling;
}

Sampling fancy() {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->temperature = 0.8f;
  sampling->top_p = 0.95f;
  sampling->frequency_penalty = 0.4f;
  sampling->presence_penalty = 0.2f;
  sampling->repetition_penalty = 1.15f;
  sampling->logit_bias = {{50, 1.5f}, {51, -100.0f}};
  sampling->max_tokens = 200;
  sampling->min_tokens = 30;
  sampling->stop_token_ids = {60, 61};
  return sampling;
}

TEST_P(ExecutorMtpTest, OutputsAreThoseWithoutDrafts) {
  for (const Sampling& sampling : {Sampling(greedy()), drawn(), fancy()}) {
    for (const int length : {1, 63, 64, 130}) {
      const Tokens prompt = numbered_prompt(length, 3 + length);
      const Tokens want = plain(prompt, 60, sampling);
      for (const int draft_len : {1, 2, 3}) {
        Rig rig(mtp_config(draft_len));
        rig.run(Plan().admit(1, prompt, {9, 7, 12, 3, 0}, sampling).prefill(1, 0, length));
        rig.decode_until(1, want.size());
        EXPECT_EQ(rig.outputs[1], want) << length << " tokens, " << draft_len << " drafts";
        if (sampling->greedy()) {
          EXPECT_GT(rig.num_accepted, 0) << "the test needs drafts that are right";
          EXPECT_LT(rig.num_accepted, rig.num_drafts) << "and drafts that are wrong";
        }
      }
    }
  }
}

// Log-probabilities of every token, each from its own row of logits.
TEST_P(ExecutorMtpTest, LogprobsOfAcceptedTokens) {
  auto sampling = greedy();
  sampling->num_logprobs = 3;
  const Tokens prompt = numbered_prompt(40, 1);
  const auto collect = [&](int draft_len) {
    Rig rig(mtp_config(draft_len));
    std::vector<TokenLogprobs> logprobs;
    StepPlan plan = Plan().admit(0, prompt, {1, 2, 3}, sampling).prefill(0, 0, 40);
    while (logprobs.size() < 30) {
      for (auto& row : rig.run(std::move(plan)).rows) {
        EXPECT_EQ(row.logprobs.size(), row.tokens.size());
        for (auto& entry : row.logprobs) logprobs.push_back(entry);
      }
      plan = Plan().decode(0);
    }
    logprobs.resize(30);
    return logprobs;
  };
  const auto want = collect(0), got = collect(3);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].logprob, want[i].logprob) << i;
    EXPECT_EQ(got[i].top, want[i].top) << i;
  }
}

// Chunks that end anywhere, a cached prefix, company: the same drafts, made from the same bits.
TEST_P(ExecutorMtpTest, DraftsDependOnTheTokensAlone) {
  constexpr int kDrafts = 3;
  const Tokens prompt = numbered_prompt(150, 8);
  using Made = std::pair<Tokens, std::vector<float>>;
  const auto prefill = [&](std::vector<int> ends) -> Made {
    Rig rig(mtp_config(kDrafts));
    Plan plan = Plan().admit(2, prompt, {4, 6, 1, 9});
    int start = 0;
    for (const int end : ends) {
      rig.run(std::move(plan).prefill(2, start, end - start, end == 150));
      plan = Plan();
      start = end;
    }
    return {rig.drafts(2), rig.module_kv(2, 151)};
  };
  const Made want = prefill({150});
  for (const int32_t token : want.first) EXPECT_GE(token, 0);
  EXPECT_EQ(prefill({1, 150}), want);
  EXPECT_EQ(prefill({64, 150}), want);
  EXPECT_EQ(prefill({63, 65, 128, 129, 150}), want);
  EXPECT_EQ(prefill({100, 149, 150}), want);

  // Pages of another sequence, that went another way behind them.
  Tokens other = prompt;
  other[128] = prompt[128] == 5 ? 6 : 5;
  other.resize(140);
  Rig rig(mtp_config(kDrafts));
  rig.run(Plan().admit(0, other, {2, 3, 4}).prefill(0, 0, 140));
  rig.run(Plan().decode(0));
  Plan plan;
  rig.run(std::move(plan)
              .admit(1, prompt, {2, 3, 17}, greedy(), 150, 128)
              .decode(0)
              .prefill(1, 128, 22));
  EXPECT_EQ(rig.drafts(1), want.first);
  EXPECT_EQ(rig.module_kv(1, 151), want.second);
}

// As after a preemption: outputs computed again give the drafts that were made when they were new.
TEST_P(ExecutorMtpTest, ReplayGivesTheSameDrafts) {
  constexpr int kDrafts = 2;
  const Tokens prompt = numbered_prompt(50, 9);
  Rig first(mtp_config(kDrafts));
  first.run(Plan().admit(0, prompt, {1, 2}).prefill(0, 0, 50));
  while (first.outputs[0].size() < 30) first.run(Plan().decode(0));
  Tokens known = prompt;
  const auto end = static_cast<int>(50 + first.outputs[0].size()) - 1;
  known.insert(known.end(), first.outputs[0].begin(), first.outputs[0].end() - 1);
  for (const int chunk : {1, 7, 64}) {
    Rig again(mtp_config(kDrafts));
    again.run(Plan().admit(3, known, {7, 8}, greedy(), 50).prefill(3, 0, 50, false));
    for (int start = 50; start < end; start += chunk) {
      const int length = std::min(chunk, end - start);
      again.run(Plan().replay(3, start, length, start + length == end));
    }
    EXPECT_EQ(again.outputs[3].back(), first.outputs[0].back());
    EXPECT_EQ(again.drafts(3), first.drafts(0)) << "chunks of " << chunk;
    // Nothing of what was drafted wrongly on the way is left.
    EXPECT_EQ(again.module_kv(3, end + 1), first.module_kv(0, end + 1)) << "chunks of " << chunk;
  }
}

// Steps launched ahead of their results, captured and padded, with chunks in between.
TEST_P(ExecutorMtpTest, CapturedStepsRunAhead) {
  const Tokens a = numbered_prompt(20, 1), b = numbered_prompt(90, 2), c = numbered_prompt(33, 3);
  const Tokens want_a = plain(a, 38, greedy()), want_b = plain(b, 38, drawn()),
               want_c = plain(c, 38, fancy());
  for (const int draft_len : {1, 3}) {
    Rig rig(mtp_config(draft_len, {1, 2, 4}));
    const auto launch = [&](StepPlan plan) {
      plan.draft_len = plan.next_draft_len = draft_len;
      rig.executor.launch(std::move(plan));
    };
    const auto keep = [&] {
      for (const auto& row : rig.executor.collect().rows) {
        auto& output = rig.outputs[row.slot];
        output.insert(output.end(), row.tokens.begin(), row.tokens.end());
      }
    };
    launch(Plan()
               .admit(0, a, {0, 1, 2, 3, 4})
               .admit(1, b, {5, 6, 7, 8, 9}, drawn())
               .prefill(0, 0, 20)
               .prefill(1, 0, 70, false));
    launch(Plan().decode(0).prefill(1, 70, 20));
    keep();
    launch(Plan().admit(2, c, {10, 11, 12, 13, 14}, fancy()).decode(1).decode(0).prefill(2, 0, 33));
    for (int i = 0; i < 38; ++i) {
      keep();
      launch(Plan().decode(2).decode(0).decode(1).padded(4));
    }
    keep();
    keep();
    EXPECT_GT(rig.executor.stats().num_graph_steps, 30);
    for (const auto& [slot, want] : {std::pair(0, want_a), {1, want_b}, {2, want_c}}) {
      ASSERT_GE(rig.outputs[slot].size(), want.size());
      rig.outputs[slot].resize(want.size());
      EXPECT_EQ(rig.outputs[slot], want) << slot << ", " << draft_len << " drafts";
    }
  }
}

// A request that wants no drafts gets a token a step, beside one that does.
TEST_P(ExecutorMtpTest, SwitchedOffByRequest) {
  auto off = greedy();
  off->use_drafts = false;
  const Tokens prompt = numbered_prompt(30, 5);
  Rig rig(mtp_config(2));
  rig.run(Plan()
              .admit(0, prompt, {1, 2}, off)
              .admit(1, prompt, {3, 4})
              .prefill(0, 0, 30)
              .prefill(1, 0, 30));
  for (int i = 0; i < 20; ++i) {
    const StepResult result = rig.run(Plan().decode(0).decode(1));
    EXPECT_EQ(result.rows[0].tokens.size(), 1u);
    EXPECT_EQ(result.rows[0].num_drafts, 0);
    EXPECT_EQ(result.rows[1].num_drafts, 2);
  }
  EXPECT_GT(rig.outputs[1].size(), 21u);
  EXPECT_TRUE(std::equal(rig.outputs[0].begin(), rig.outputs[0].end(), rig.outputs[1].begin()));
}

// Steps may verify and make different numbers of drafts: what was not made is not accepted.
TEST_P(ExecutorMtpTest, DraftLengthChangesFromStepToStep) {
  const Tokens prompt = numbered_prompt(25, 6);
  const Tokens want = plain(prompt, 80, greedy());
  std::mt19937 random(7);
  Rig rig(mtp_config(3));
  StepPlan plan = Plan().admit(0, prompt, {1, 2, 3, 4}).prefill(0, 0, 25);
  Tokens output;
  while (output.size() < want.size()) {
    plan.draft_len = static_cast<int32_t>(random() % 4);
    plan.next_draft_len = static_cast<int32_t>(random() % 4);
    rig.executor.launch(std::move(plan));
    const StepResult result = rig.executor.collect();
    for (const int32_t token : result.rows.at(0).tokens) output.push_back(token);
    plan = Plan().decode(0);
  }
  output.resize(want.size());
  EXPECT_EQ(output, want);
}

}  // namespace
}  // namespace deepflight
