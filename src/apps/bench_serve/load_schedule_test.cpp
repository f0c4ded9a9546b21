// The load is what was asked for, and the same for the same seed.
#include "apps/bench_serve/load_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "apps/bench_serve/load_requests.h"

namespace deepflight {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(SeededRandom, RepeatsAndFillsItsRange) {
  EXPECT_EQ(SeededRandom(1, 2, 3).next(), SeededRandom(1, 2, 3).next());
  std::set<uint64_t> firsts;
  for (uint64_t i = 0; i < 10; ++i) {
    firsts.insert({SeededRandom(i, 0, 0).next(), SeededRandom(0, i + 1, 0).next(),
                   SeededRandom(0, 0, i + 1).next()});
  }
  EXPECT_EQ(firsts.size(), 30u);
  SeededRandom random(7, 0, 0);
  std::set<int64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.between(-2, 3));
  EXPECT_EQ(seen, (std::set<int64_t>{-2, -1, 0, 1, 2, 3}));
}

TEST(PoissonArrivals, HaveTheMeanAndTheDeviationOfTheirRate) {
  for (const double rate : {0.5, 20.0}) {
    PoissonArrivals arrivals(rate, 11);
    EXPECT_EQ(arrivals.next_us(), 0);
    constexpr int kNumGaps = 20000;
    double sum = 0;
    double squares = 0;
    int64_t last_us = 0;
    for (int i = 0; i < kNumGaps; ++i) {
      const int64_t now_us = arrivals.next_us();
      EXPECT_GE(now_us, last_us);
      const double gap = static_cast<double>(now_us - last_us) * 1e-6;
      last_us = now_us;
      sum += gap;
      squares += gap * gap;
    }
    const double mean = sum / kNumGaps;
    EXPECT_NEAR(mean * rate, 1, 0.03);
    EXPECT_NEAR(std::sqrt(squares / kNumGaps - mean * mean) * rate, 1, 0.05);
  }
}

TEST(PoissonArrivals, OfOneSeedDifferByScaleOnly) {
  PoissonArrivals slow(1, 5);
  PoissonArrivals fast(10, 5);
  PoissonArrivals other(1, 6);
  slow.next_us(), fast.next_us(), other.next_us();
  const int64_t slow_us = slow.next_us();
  EXPECT_NEAR(static_cast<double>(slow_us), 10 * static_cast<double>(fast.next_us()), 10);
  EXPECT_NE(slow_us, other.next_us());
}

TEST(LoadPlan, KnowsHowManyRequestsAnOpenLoopSends) {
  EXPECT_EQ((LoadPlan{.rate = 10, .num_requests = 7}).num_planned(), 7);
  const LoadPlan timed{.rate = 100, .duration_us = 50'000'000, .seed = 3};
  EXPECT_NEAR(static_cast<double>(timed.num_planned()), 5000, 250);
  EXPECT_EQ((LoadPlan{.rate = 100, .num_requests = 9, .duration_us = 50'000'000}).num_planned(), 9);
  EXPECT_EQ((LoadPlan{.max_concurrency = 4, .duration_us = 1'000'000}).num_planned(), 0);
}

TEST(LengthRange, TakesANumberOrARange) {
  const auto fixed = parse_length_range("--isl", "128");
  EXPECT_EQ(fixed->min, 128);
  EXPECT_EQ(fixed->max, 128);
  const auto range = parse_length_range("--isl", "10:20");
  EXPECT_EQ(range->min, 10);
  EXPECT_EQ(range->max, 20);
  for (const char* bad : {"", "0", "-1", "x", "1:", ":2", "3:2", "1:2:3", "1.5", "99999999999"}) {
    const auto refused = parse_length_range("--isl", bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_THAT(refused.error().message, HasSubstr("--isl"));
  }
}

LoadRequestsConfig config() {
  return {.model = "m", .prompt_len = {20, 40}, .output_len = {5, 9}, .vocab_size = 300, .seed = 4};
}

TEST(LoadRequests, RandomPromptsHaveTheLengthsAskedFor) {
  const LoadRequests requests = LoadRequests::make(config()).value();
  std::set<int64_t> prompt_lens;
  std::set<int64_t> output_lens;
  for (int64_t i = 0; i < 300; ++i) {
    const LoadRequest request = requests.request(0, i);
    EXPECT_STREQ(request.path(), "/v1/completions");
    const json body = json::parse(request.body);
    EXPECT_EQ(static_cast<int64_t>(body["prompt"].size()), request.asked_prompt_tokens);
    for (const auto& id : body["prompt"]) {
      EXPECT_GE(id.get<int>(), 100);
      EXPECT_LT(id.get<int>(), 300);
    }
    EXPECT_EQ(body["max_tokens"], request.asked_output_tokens);
    EXPECT_EQ(body["min_tokens"], request.asked_output_tokens);
    EXPECT_EQ(body["ignore_eos"], true);
    EXPECT_EQ(body["stream_options"]["include_usage"], true);
    prompt_lens.insert(request.asked_prompt_tokens);
    output_lens.insert(request.asked_output_tokens);
  }
  EXPECT_EQ(prompt_lens.size(), 21u);
  EXPECT_EQ(output_lens, (std::set<int64_t>{5, 6, 7, 8, 9}));
}

TEST(LoadRequests, StreamsShareLengthsAndNotPrompts) {
  const LoadRequests requests = LoadRequests::make(config()).value();
  EXPECT_EQ(requests.request(0, 3).body, requests.request(0, 3).body);
  const json one = json::parse(requests.request(0, 3).body);
  const json two = json::parse(requests.request(1, 3).body);
  EXPECT_NE(one["prompt"], two["prompt"]);
  EXPECT_EQ(one["prompt"].size(), two["prompt"].size());
  EXPECT_EQ(one["max_tokens"], two["max_tokens"]);
}

TEST(LoadRequests, TextWhereIdsCannotGo) {
  LoadRequestsConfig chat = config();
  chat.endpoint = "chat";
  chat.ignore_eos = false;
  chat.extra_body = {{"temperature", 0.5}, {"stream_options", {{"continuous_usage_stats", true}}}};
  const LoadRequest request = LoadRequests::make(chat).value().request(0, 0);
  EXPECT_STREQ(request.path(), "/v1/chat/completions");
  EXPECT_EQ(request.asked_prompt_tokens, 0);
  EXPECT_EQ(request.asked_output_tokens, 0);
  const json body = json::parse(request.body);
  EXPECT_TRUE(body["messages"][0]["content"].is_string());
  EXPECT_FALSE(body.contains("ignore_eos"));
  EXPECT_EQ(body["temperature"], 0.5);
  EXPECT_EQ(body["stream_options"].size(), 2u);
}

class PromptFile : public ::testing::Test {
 protected:
  Result<LoadRequests> make(const std::string& text, const std::string& endpoint = "") {
    std::ofstream(path) << text;
    LoadRequestsConfig from_file = config();
    from_file.prompts_path = path;
    from_file.endpoint = endpoint;
    return LoadRequests::make(from_file);
  }
  void TearDown() override { std::filesystem::remove(path); }

  const std::string path = ::testing::TempDir() + "bench_serve_prompts.jsonl";
};

TEST_F(PromptFile, LinesComeRound) {
  const auto requests =
      make("{\"prompt\": \"a\"}\n\n{\"messages\": [{\"role\": \"user\"}], \"max_tokens\": 77}\n");
  ASSERT_TRUE(requests.ok()) << requests.error().message;
  const json first = json::parse(requests->request(0, 0).body);
  const json second = json::parse(requests->request(0, 1).body);
  EXPECT_EQ(first["messages"][0]["content"], "a");  // a chat, since another line is one
  EXPECT_EQ(second["messages"][0], (json{{"role", "user"}}));
  EXPECT_EQ(second["max_tokens"], 77);
  EXPECT_EQ(json::parse(requests->request(0, 2).body)["messages"], first["messages"]);
}

TEST_F(PromptFile, BadOnesAreRefusedByLine) {
  EXPECT_THAT(make("{\"prompt\": \"a\"}\n{\"prompt\": 1}\n").error().message, HasSubstr(":2"));
  EXPECT_THAT(make("nonsense").error().message, HasSubstr(":1"));
  EXPECT_THAT(make("{\"prompt\": \"a\", \"max_tokens\": 0}").error().message,
              HasSubstr("max_tokens"));
  EXPECT_THAT(make("\n").error().message, HasSubstr("no prompts"));
  EXPECT_THAT(make("{\"messages\": []}", "completions").error().message, HasSubstr("--endpoint"));
}

}  // namespace
}  // namespace deepflight
