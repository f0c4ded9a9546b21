// The engine over a tiny model, without drafts and with them: ends of every kind, cancellation,
// drain, refusals, failures.
#include "runtime/engine/engine.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <future>
#include <set>

#include "runtime/engine/engine_testing.h"

namespace deepflight {
namespace {

// The parameter: drafts per sequence and step.
class EngineTest : public ::testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() { model_ = new DraftingModel; }
  static void TearDownTestSuite() { delete model_; }

  static SchedulerConfig small_scheduler() {
    SchedulerConfig config = deepflight::small_scheduler();
    config.draft_len = GetParam();
    return config;
  }

  static Tokens greedy_tokens(const Tokens& prompt, int count) {
    EngineRig rig(*model_, small_scheduler());
    return rig.run_one(greedy_request("r", prompt, count)).tokens;
  }

  static DraftingModel* model_;
};
DraftingModel* EngineTest::model_ = nullptr;

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

// --- cancellation

TEST_P(EngineTest, CancelWhileRunningAndWhileWaiting) {
  SchedulerConfig config = small_scheduler();
  config.max_num_slots = 1;
  config.max_batched_tokens = 128;
  EngineRig rig(*model_, config);
  const Watch running = rig.submit(greedy_request("running", make_prompt(10, 10), 240));
  const Watch waiting = rig.submit(greedy_request("waiting", make_prompt(10, 11), 240));
  const Watch last = rig.submit(greedy_request("last", make_prompt(10, 12), 5));
  running.wait_for_tokens(1);
  rig.engine.cancel("waiting");
  EXPECT_EQ(waiting.wait_one().finish_reason, FinishReason::kAbort);
  EXPECT_TRUE(waiting.wait_one().tokens.empty());
  rig.engine.cancel("running");
  const Output stopped = running.wait_one();
  EXPECT_EQ(stopped.finish_reason, FinishReason::kAbort);
  EXPECT_LT(stopped.tokens.size(), 240u);
  EXPECT_EQ(last.wait_one().finish_reason, FinishReason::kLength);
  EXPECT_EQ(last.wait_one().tokens, greedy_tokens(make_prompt(10, 12), 5));
  rig.expect_all_returned();
}

TEST_P(EngineTest, CancelEndsAllChoicesOnce) {
  EngineRig rig(*model_, small_scheduler());
  GenerationRequest request = greedy_request("r", make_prompt(10, 13), 240);
  request.sampling.num_choices = 12;
  const Watch watch = rig.submit(request);
  watch.wait_for_tokens(2);
  for (int i = 0; i < 5; ++i) rig.engine.cancel("r");
  for (const Output& output : watch.wait()) {
    EXPECT_EQ(output.finish_reason, FinishReason::kAbort);
    EXPECT_EQ(output.num_last_events, 1);
  }
  rig.expect_all_returned();
}

TEST_P(EngineTest, UnknownAndLateCancelsAreIgnored) {
  EngineRig rig(*model_, small_scheduler());
  rig.engine.cancel("nobody");
  rig.engine.cancel("");
  const Watch watch = rig.submit(greedy_request("r", make_prompt(10, 14), 5));
  EXPECT_EQ(watch.wait_one().finish_reason, FinishReason::kLength);
  rig.engine.cancel("r");
  EXPECT_EQ(rig.run_one(greedy_request("s", make_prompt(10, 14), 5)).tokens.size(), 5u);
}

// A cancellation that meets a request in its last event must not end the id's next request.
TEST_P(EngineTest, ALateCancelDoesNotMeetTheNextRequest) {
  EngineRig rig(*model_, small_scheduler());
  std::promise<void> gate_reached, gate_open;
  std::future<void> open = gate_open.get_future();
  ASSERT_TRUE(rig.engine
                  .submit(greedy_request("gate", make_prompt(3, 15), 1),
                          [&](GenerationEvent) {
                            gate_reached.set_value();
                            open.wait();
                          })
                  .ok());
  gate_reached.get_future().wait();  // the loop stands still: both start in one step
  const Watch again;
  std::promise<void> done;
  ASSERT_TRUE(rig.engine
                  .submit(greedy_request("r", make_prompt(3, 16), 4),
                          [&](GenerationEvent event) {
                            if (event.finish_reason) rig.engine.cancel("r");
                          })
                  .ok());
  ASSERT_TRUE(rig.engine
                  .submit(greedy_request("s", make_prompt(3, 17), 4),
                          [&](GenerationEvent event) {
                            if (!event.finish_reason) return;
                            const Status status = rig.engine.submit(
                                greedy_request("r", make_prompt(3, 18), 6), again.callback());
                            EXPECT_TRUE(status.ok());
                            done.set_value();
                          })
                  .ok());
  gate_open.set_value();
  done.get_future().wait();
  EXPECT_EQ(again.wait_one().finish_reason, FinishReason::kLength);
  EXPECT_EQ(again.wait_one().tokens.size(), 6u);
  rig.expect_all_returned();
}

// --- refusals

TEST_P(EngineTest, DuplicateIdsAreRefusedWhileTheFirstLives) {
  EngineRig rig(*model_, small_scheduler());
  const Watch first = rig.submit(greedy_request("same", make_prompt(10, 19), 200));
  const Watch second;
  const Status status =
      rig.engine.submit(greedy_request("same", make_prompt(10, 20), 5), second.callback());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("'same'"));
  rig.engine.cancel("same");
  first.wait();
  ASSERT_TRUE(rig.engine.wait_until_idle(10'000'000));
  EXPECT_EQ(rig.run_one(greedy_request("same", make_prompt(10, 20), 5)).tokens.size(), 5u);
  EXPECT_FALSE(second.finished()) << "a refused request gets no event";
}

TEST_P(EngineTest, InvalidRequestsAreRefusedByName) {
  SchedulerConfig config = small_scheduler();
  config.num_pages = 3;
  EngineRig rig(*model_, config);
  const auto expect_refused = [&](const char* what, const auto& change) {
    GenerationRequest request = greedy_request("r", make_prompt(10, 21), 5);
    change(request);
    const Status status = rig.engine.submit(
        request, [](GenerationEvent) { ADD_FAILURE() << "an event of a refused request"; });
    ASSERT_FALSE(status.ok()) << what;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(status.error().message, ::testing::HasSubstr(what));
  };
  using R = GenerationRequest;
  expect_refused("temperature", [](R& r) { r.sampling.temperature = NAN; });
  expect_refused("top_p", [](R& r) { r.sampling.top_p = 0; });
  expect_refused("n is", [](R& r) { r.sampling.num_choices = 0; });
  expect_refused("max_tokens", [](R& r) { r.sampling.max_tokens = 0; });
  expect_refused("min_tokens", [](R& r) { r.sampling.min_tokens = 6; });
  expect_refused("logit_bias", [](R& r) { r.sampling.logit_bias = {{96, 1.0f}}; });
  expect_refused("stop_token_ids", [](R& r) { r.sampling.stop_token_ids = {96}; });
  expect_refused("stop: this model has no tokenizer", [](R& r) { r.sampling.stop = {"x"}; });
  expect_refused("prompt", [](R& r) { r.prompt_token_ids.clear(); });
  expect_refused("prompt: token id 96", [](R& r) { r.prompt_token_ids[3] = 96; });
  expect_refused("prompt: token id -1", [](R& r) { r.prompt_token_ids[9] = -1; });
  expect_refused("the prompt has 256 tokens",
                 [](R& r) { r.prompt_token_ids = make_prompt(256, 1); });
  expect_refused("4 KV pages", [](R& r) {
    r.prompt_token_ids = make_prompt(190, 1);
    r.sampling.max_tokens = 3;
  });
  EXPECT_TRUE(rig.engine.wait_until_idle(0));
  const Tokens longest = make_prompt(189 - config.max_overshoot(), 1);
  EXPECT_EQ(rig.run_one(greedy_request("r", longest, 3)).tokens.size(), 3u);
}

// --- drain and the engine's end

TEST_P(EngineTest, DrainRefusesNewAndFinishesOld) {
  EngineRig rig(*model_, small_scheduler());
  EXPECT_TRUE(rig.engine.wait_until_idle(0));
  std::vector<Watch> watches;
  for (int i = 0; i < 12; ++i) {
    watches.push_back(rig.submit(greedy_request(std::to_string(i), make_prompt(20, i), 60)));
  }
  EXPECT_FALSE(rig.engine.wait_until_idle(0));
  rig.engine.begin_drain();
  const Status status = rig.engine.submit(greedy_request("late", make_prompt(5, 1), 5), {});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(rig.engine.wait_until_idle(60'000'000));
  for (const Watch& watch : watches) {
    EXPECT_EQ(watch.wait_one().finish_reason, FinishReason::kLength);
    EXPECT_EQ(watch.wait_one().tokens.size(), 60u);
  }
}

TEST_P(EngineTest, DestructionEndsEachChoiceOnce) {
  for (int round = 0; round < 10; ++round) {
    std::vector<Watch> watches;
    {
      EngineRig rig(*model_, small_scheduler());
      for (int i = 0; i < 14; ++i) {
        GenerationRequest request =
            greedy_request(std::to_string(i), make_prompt(1 + i * 12, i), 5 + i * 5);
        request.sampling.num_choices = 1 + i % 3;
        watches.push_back(rig.submit(request));
      }
      if (round % 2 == 1) watches[round].wait_for_tokens(round);
    }
    for (const Watch& watch : watches) {
      ASSERT_TRUE(watch.finished());
      for (const Output& output : watch.wait()) {
        EXPECT_EQ(output.num_last_events, 1);
        EXPECT_TRUE(output.finish_reason == FinishReason::kAbort ||
                    output.finish_reason == FinishReason::kLength);
      }
    }
  }
}

// --- failures

// A model in which token 7 breaks the logits of whoever has it in the prompt. What it left in the
// pages is read by nobody who gets them next.
TEST_P(EngineTest, AFailedStepEndsOnlyItsRequests) {
  DraftingModel broken;
  broken.weights.embedding.row<float>(7)[3] = NAN;
  SchedulerConfig config = small_scheduler();
  config.max_num_slots = 2;
  for (const int steps_in_flight : {1, 2}) {
    config.max_steps_in_flight = steps_in_flight;
    EngineRig rig(broken, config);
    const auto good = [](int index) {
      Tokens tokens = make_prompt(70, 30 + index);
      std::replace(tokens.begin(), tokens.end(), 7, 8);
      GenerationRequest request = greedy_request(std::to_string(index), tokens, 40);
      request.sampling.logit_bias = {{7, -100.0f}};
      return request;
    };
    // Both slots at once, so that those behind are in none of its steps.
    GenerationRequest bad = greedy_request("bad", make_prompt(40, 22), 5);
    bad.prompt_token_ids[30] = 7;
    bad.sampling.num_choices = 2;
    const Watch failing = rig.submit(bad);
    std::vector<Watch> watches;
    for (int i = 0; i < 4; ++i) watches.push_back(rig.submit(good(i)));
    for (const Output& output : failing.wait()) {
      EXPECT_EQ(output.finish_reason, FinishReason::kError);
      EXPECT_EQ(output.num_last_events, 1);
      ASSERT_TRUE(output.error.has_value());
      EXPECT_EQ(output.error->code, ErrorCode::kInternal);
      // No internals: neither file nor condition.
      EXPECT_THAT(output.error->message, ::testing::Not(::testing::HasSubstr("CHECK")));
      EXPECT_TRUE(output.tokens.empty());
    }
    EngineRig healthy(*model_, small_scheduler());  // the same weights, a backend of its own
    for (int i = 0; i < 4; ++i) {
      const Output output = watches[i].wait_one();
      EXPECT_EQ(output.finish_reason, FinishReason::kLength);
      EXPECT_EQ(output.tokens, healthy.run_one(good(i)).tokens) << i;
    }
    rig.expect_all_returned();
  }
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

// --- threads

TEST_P(EngineTest, ManyThreadsSubmitAndCancel) {
  EngineRig rig(*model_, small_scheduler());
  std::vector<std::thread> threads;
  std::atomic<int> num_aborted{0}, num_done{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 25; ++i) {
        const std::string id = fmt::format("{}-{}", t, i);
        const Watch watch =
            rig.submit(greedy_request(id, make_prompt(1 + random() % 100, i), 1 + random() % 30));
        if (random() % 2) rig.engine.cancel(id);
        (void)rig.engine.stats();
        if (random() % 3) {
          (watch.wait_one().finish_reason == FinishReason::kAbort ? num_aborted : num_done)++;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  rig.expect_all_returned();
  EXPECT_GT(num_done, 0);
}

}  // namespace
}  // namespace deepflight
