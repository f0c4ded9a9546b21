// The engine over a tiny model, without drafts and with them: cancellation, refusals, drain,
// failures, threads.
#include <gmock/gmock.h>

#include <atomic>
#include <future>

#include "runtime/engine/engine.h"
#include "runtime/engine/engine_testing.h"

namespace deepflight {
namespace {

using EngineLifetimeTest = EngineDraftsTest;

INSTANTIATE_TEST_SUITE_P(Drafts, EngineLifetimeTest, ::testing::Values(0, 2));

// --- cancellation

TEST_P(EngineLifetimeTest, CancelWhileRunningAndWhileWaiting) {
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

TEST_P(EngineLifetimeTest, CancelEndsAllChoicesOnce) {
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

TEST_P(EngineLifetimeTest, UnknownAndLateCancelsAreIgnored) {
  EngineRig rig(*model_, small_scheduler());
  rig.engine.cancel("nobody");
  rig.engine.cancel("");
  const Watch watch = rig.submit(greedy_request("r", make_prompt(10, 14), 5));
  EXPECT_EQ(watch.wait_one().finish_reason, FinishReason::kLength);
  rig.engine.cancel("r");
  EXPECT_EQ(rig.run_one(greedy_request("s", make_prompt(10, 14), 5)).tokens.size(), 5u);
}

// A cancellation that meets a request in its last event must not end the id's next request.
TEST_P(EngineLifetimeTest, ALateCancelDoesNotMeetTheNextRequest) {
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

TEST_P(EngineLifetimeTest, DuplicateIdsAreRefusedWhileTheFirstLives) {
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

TEST_P(EngineLifetimeTest, InvalidRequestsAreRefusedByName) {
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

TEST_P(EngineLifetimeTest, DrainRefusesNewAndFinishesOld) {
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

TEST_P(EngineLifetimeTest, DestructionEndsEachChoiceOnce) {
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
TEST_P(EngineLifetimeTest, AFailedStepEndsOnlyItsRequests) {
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

// --- threads

TEST_P(EngineLifetimeTest, ManyThreadsSubmitAndCancel) {
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
