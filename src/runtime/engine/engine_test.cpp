// The engine over a tiny model, without drafts and with them: ends of every kind, choices, seeds,
// logprobs.
#include "runtime/engine/engine.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "runtime/engine/engine_testing.h"

namespace deepflight {
namespace {

using EngineTest = EngineDraftsTest;

INSTANTIATE_TEST_SUITE_P(Drafts, EngineTest, ::testing::Values(0, 2));

// --- ends

TEST_P(EngineTest, MaxTokensEndsARequest) {
  EngineRig rig(*model_, small_scheduler());
  EXPECT_EQ(rig.engine.model_info().name, "tiny");
  for (const int count : {1, 2, 30}) {
    const Output output =
        rig.run_one(greedy_request("r" + std::to_string(count), make_prompt(20, 1), count));
    EXPECT_EQ(static_cast<int>(output.tokens.size()), count);
    EXPECT_EQ(output.finish_reason, FinishReason::kLength);
    EXPECT_LE(output.num_events, count);
    if (GetParam() == 0) {
      EXPECT_EQ(output.num_events, count);
    }
    EXPECT_EQ(output.text, "");
    EXPECT_TRUE(output.logprobs.empty());
  }
  rig.expect_all_returned();
}

TEST_P(EngineTest, MaxModelLenEndsARequest) {
  EngineRig rig(*model_, small_scheduler());
  const Output output = rig.run_one(greedy_request("r", make_prompt(250, 2), 100));
  EXPECT_EQ(output.tokens.size(), 6u);  // 256 in all
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
  EXPECT_EQ(rig.run_one(greedy_request("s", make_prompt(255, 2), 100)).tokens.size(), 1u);
  rig.expect_all_returned();
}

TEST_P(EngineTest, StopTokensEndARequest) {
  const Tokens prompt = make_prompt(20, 3);
  const Tokens all = greedy_tokens(prompt, 20);
  EngineRig rig(*model_, small_scheduler());
  for (const int at : {0, 5, 19}) {
    GenerationRequest request = greedy_request("r" + std::to_string(at), prompt, 20);
    request.sampling.stop_token_ids = {95, all[at]};
    const Output output = rig.run_one(request);
    const auto first = std::find(all.begin(), all.end(), all[at]) - all.begin();
    EXPECT_EQ(output.tokens, Tokens(all.begin(), all.begin() + first + 1));
    EXPECT_EQ(output.finish_reason, FinishReason::kStop);
    EXPECT_EQ(output.matched_stop, "");
  }
  rig.expect_all_returned();
}

TEST_P(EngineTest, EndOfSequenceAndIgnoreEos) {
  EngineRig rig(*model_, small_scheduler());
  GenerationRequest request = greedy_request("r", make_prompt(5, 4), 8);
  request.sampling.logit_bias = {{kTinyEos, 100.0f}};
  request.sampling.ignore_eos = false;
  Output output = rig.run_one(request);
  EXPECT_EQ(output.tokens, (Tokens{kTinyEos}));
  EXPECT_EQ(output.finish_reason, FinishReason::kStop);
  request.sampling.ignore_eos = true;
  output = rig.run_one(request);
  EXPECT_EQ(output.tokens, Tokens(8, kTinyEos));
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
}

TEST_P(EngineTest, MinTokensHoldsBackEveryStop) {
  EngineRig rig(*model_, small_scheduler());
  GenerationRequest request = greedy_request("r", make_prompt(5, 5), 20);
  request.sampling.logit_bias = {{kTinyEos, 100.0f}, {40, 90.0f}};
  request.sampling.ignore_eos = false;
  request.sampling.stop_token_ids = {40};
  request.sampling.min_tokens = 7;
  const Output output = rig.run_one(request);
  ASSERT_EQ(output.tokens.size(), 8u);
  for (int i = 0; i < 7; ++i) {
    EXPECT_NE(output.tokens[i], kTinyEos);
    EXPECT_NE(output.tokens[i], 40);
  }
  EXPECT_EQ(output.tokens[7], kTinyEos);
  EXPECT_EQ(output.finish_reason, FinishReason::kStop);
}

// --- choices, seeds, log-probabilities, cache

TEST_P(EngineTest, ChoicesOfOneRequest) {
  EngineRig rig(*model_, small_scheduler());
  GenerationRequest request = greedy_request("r", make_prompt(100, 6), 12);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 5;
  const Tokens single = rig.run_one(request).tokens;
  request.sampling.num_choices = 10;  // more than there are slots
  std::set<Tokens> distinct;
  const auto outputs = rig.run(request);
  for (const Output& output : outputs) {
    EXPECT_EQ(output.num_last_events, 1);
    EXPECT_EQ(output.tokens.size(), 12u);
    EXPECT_EQ(output.finish_reason, FinishReason::kLength);
    distinct.insert(output.tokens);
  }
  EXPECT_EQ(distinct.size(), 10u);
  EXPECT_EQ(outputs[0].tokens, single);
  rig.expect_all_returned();
}

TEST_P(EngineTest, SeedsAreReproducibleWhateverElseRuns) {
  const auto seeded = [](const std::string& id, uint64_t seed) {
    GenerationRequest request = greedy_request(id, make_prompt(30, 7), 25);
    request.sampling.temperature = 1.5f;
    request.sampling.top_p = 0.95f;
    request.sampling.num_choices = 3;
    request.sampling.seed = seed;
    return request;
  };
  const auto tokens_of = [](const std::vector<Output>& outputs) {
    std::vector<Tokens> tokens;
    for (const Output& output : outputs) tokens.push_back(output.tokens);
    return tokens;
  };
  EngineRig rig(*model_, small_scheduler());
  const auto alone = tokens_of(rig.run(seeded("alone", 42)));
  std::vector<Watch> company;
  for (int i = 0; i < 6; ++i) {
    company.push_back(rig.submit(seeded("other" + std::to_string(i), 100 + i)));
  }
  const Watch busy = rig.submit(seeded("busy", 42));
  EXPECT_EQ(tokens_of(busy.wait()), alone);
  for (const Watch& watch : company) EXPECT_NE(tokens_of(watch.wait()), alone);

  GenerationRequest unseeded = seeded("u1", 0);
  unseeded.sampling.seed.reset();
  const auto first = tokens_of(rig.run(unseeded));
  EXPECT_NE(tokens_of(rig.run(unseeded)), first);
}

TEST_P(EngineTest, LogprobsComeWithTheirTokens) {
  EngineRig rig(*model_, small_scheduler());
  GenerationRequest request = greedy_request("r", make_prompt(10, 8), 6);
  request.sampling.num_logprobs = 2;
  const Output output = rig.run_one(request);
  ASSERT_EQ(output.logprobs.size(), 6u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(output.logprobs[i].token_id, output.tokens[i]);
    ASSERT_EQ(output.logprobs[i].top.size(), 2u);
    EXPECT_EQ(output.logprobs[i].top[0].first, output.tokens[i]);
    EXPECT_EQ(output.logprobs[i].top[0].second, output.logprobs[i].logprob);
  }
}

TEST_P(EngineTest, PrefixCacheIsReportedAndSaltsKeepTenantsApart) {
  EngineRig rig(*model_, small_scheduler());
  const auto run = [&](const std::string& salt) {
    GenerationRequest request = greedy_request("r", make_prompt(150, 9), 4);
    request.cache_salt = salt;
    return rig.run_one(request);
  };
  const Output cold = run("");
  EXPECT_EQ(cold.num_cached_tokens, 0);
  const Output warm = run("");
  EXPECT_EQ(warm.num_cached_tokens, 128);
  EXPECT_EQ(warm.tokens, cold.tokens);
  const Output salted = run("another tenant");
  EXPECT_EQ(salted.num_cached_tokens, 0);
  EXPECT_EQ(salted.tokens, cold.tokens);
  EXPECT_EQ(rig.engine.stats().prefix_hit_tokens, 128);
}

// --- drafts

// 20,000 sequences with drafts against 20,000 others without: the third token is distributed alike.
TEST_P(EngineTest, DraftsKeepTheDistribution) {
  if (GetParam() == 0) GTEST_SKIP() << "needs drafts";
  constexpr int kRequests = 200, kChoices = 100;
  const auto count_tokens = [](const SchedulerConfig& config, uint64_t first_seed) {
    EngineRig rig(*model_, config);
    std::vector<int> counts(model_->config.vocab_size);
    for (int i = 0; i < kRequests; ++i) {
      GenerationRequest request = greedy_request(std::to_string(i), make_prompt(20, 50), 3);
      request.sampling.temperature = 0.8f;
      request.sampling.seed = first_seed + i;
      request.sampling.num_choices = kChoices;
      for (const Output& output : rig.run(request)) ++counts[output.tokens.at(2)];
    }
    if (config.draft_len > 0) {
      EXPECT_GT(rig.engine.stats().drafts.num_accepted, 1000);
    }
    return counts;
  };
  SchedulerConfig without = small_scheduler();
  without.draft_len = 0;
  const auto a = count_tokens(small_scheduler(), 1), b = count_tokens(without, 1'000'000);
  // Two samples of one size; rare tokens together.
  double chi_square = 0.0;
  int freedom = -1, rare_a = 0, rare_b = 0;
  const auto add = [&](int x, int y) {
    chi_square += static_cast<double>(x - y) * (x - y) / (x + y);
    ++freedom;
  };
  for (size_t token = 0; token < a.size(); ++token) {
    if (a[token] + b[token] >= 10) {
      add(a[token], b[token]);
    } else {
      rare_a += a[token];
      rare_b += b[token];
    }
  }
  if (rare_a + rare_b > 0) add(rare_a, rare_b);
  // Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal; p = 0.01.
  const double spread = 2.0 / (9.0 * freedom);
  const double z = (std::cbrt(chi_square / freedom) - (1.0 - spread)) / std::sqrt(spread);
  EXPECT_GT(freedom, 5);
  EXPECT_LT(z, 2.326) << chi_square << " at " << freedom << " degrees of freedom";
}

}  // namespace
}  // namespace deepflight
