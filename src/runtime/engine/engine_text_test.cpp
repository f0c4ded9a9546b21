// Text out of the engine: decoded tokens, stop strings across token borders, nothing lost.
#include <gtest/gtest.h>

#include "runtime/engine/engine_testing.h"

namespace deepflight {
namespace {

// The parameter: drafts per sequence and step.
class EngineTextTest : public ::testing::TestWithParam<int> {
 protected:
  // A request whose output wanders, so that its text has few repetitions.
  GenerationRequest wandering(const std::string& id, int max_tokens) {
    GenerationRequest request = greedy_request(id, make_prompt(12, 40), max_tokens);
    request.sampling.temperature = 1.0f;
    request.sampling.seed = 77;
    request.sampling.logit_bias = {{kTinyEos, -100.0f}, {0, -100.0f}};
    return request;
  }

  static SchedulerConfig scheduler() {
    SchedulerConfig config = small_scheduler();
    config.draft_len = GetParam();
    return config;
  }

  DraftingModel model_{/*num_modules=*/1, /*seed=*/1, /*num_threads=*/2};
  const Tokenizer tokenizer_ = tiny_tokenizer();
  EngineRig rig_{model_, scheduler(), &tokenizer_};
};

INSTANTIATE_TEST_SUITE_P(Drafts, EngineTextTest, ::testing::Values(0, 2));

TEST_P(EngineTextTest, TextIsTheDecodedTokens) {
  GenerationRequest request = wandering("r", 200);
  request.sampling.num_choices = 3;
  for (const Output& output : rig_.run(request)) {
    EXPECT_EQ(output.text, tokenizer_.decode(output.tokens, true));
    EXPECT_GT(output.text.size(), 100u);
  }
}

TEST_P(EngineTextTest, StopStringsAcrossTokens) {
  const Output all = rig_.run_one(wandering("all", 60));
  int num_multi_token = 0;
  for (size_t at = 0; at + 6 < all.text.size(); at += 3) {
    for (const size_t length : {1, 2, 5}) {
      const std::string stop = all.text.substr(at, length);
      if ((stop.front() & 0xc0) == 0x80 || (all.text[at + length] & 0xc0) == 0x80) continue;
      // Half a letter shows as U+FFFD in decode(), but not while the next token may complete it.
      if (stop.find("\xef\xbf\xbd") != std::string::npos) continue;
      GenerationRequest request = wandering("r", 60);
      request.sampling.stop = {"never there", stop};
      const Output output = rig_.run_one(request);
      const std::string want = all.text.substr(0, all.text.find(stop));
      ASSERT_EQ(output.text, want) << "stop '" << stop << "'";
      EXPECT_EQ(output.finish_reason, FinishReason::kStop);
      EXPECT_EQ(output.matched_stop, stop);
      // The tokens are those up to the one that completes the stop string.
      const size_t count = output.tokens.size();
      ASSERT_LE(count, all.tokens.size());
      EXPECT_EQ(output.tokens, Tokens(all.tokens.begin(), all.tokens.begin() + count));
      const auto decoded = [&](size_t n) {
        return tokenizer_.decode(std::span(all.tokens).first(n), true);
      };
      EXPECT_NE(decoded(count).find(stop), std::string::npos);
      EXPECT_EQ(decoded(count - 1).find(stop), std::string::npos);
      num_multi_token += decoded(count).size() - decoded(count - 1).size() < stop.size();
    }
  }
  EXPECT_GT(num_multi_token, 5);
  rig_.expect_all_returned();
}

TEST_P(EngineTextTest, AStopStringThatDoesNotComeLosesNothing) {
  const Output all = rig_.run_one(wandering("all", 60));
  GenerationRequest request = wandering("r", 60);
  request.sampling.stop = {all.text.substr(all.text.size() - 4) + "more", "zz~zz"};
  const Output output = rig_.run_one(request);
  EXPECT_EQ(output.text, all.text);
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
}

TEST_P(EngineTextTest, ACancelledRequestKeepsItsText) {
  GenerationRequest request = wandering("r", 200);
  request.sampling.logit_bias.push_back({2, 100.0f});  // "aaaa..."
  request.sampling.stop = {std::string(150, 'a') + "b"};
  const Watch watch = rig_.submit(request);
  watch.wait_for_tokens(20);
  rig_.engine.cancel("r");
  const Output output = watch.wait_one();
  if (output.finish_reason == FinishReason::kAbort) {
    EXPECT_EQ(output.text, std::string(output.tokens.size(), 'a'));
  }
}

TEST_P(EngineTextTest, StopTokenAndEndOfSequenceHaveNoText) {
  GenerationRequest request = wandering("r", 10);
  request.sampling.logit_bias = {{2, 50.0f}, {3, 100.0f}};
  request.sampling.stop_token_ids = {3};
  request.sampling.min_tokens = 4;
  const Output output = rig_.run_one(request);
  EXPECT_EQ(output.tokens, (Tokens{2, 2, 2, 2, 3}));
  EXPECT_EQ(output.text, "aaaa");
}

}  // namespace
}  // namespace deepflight
