// Streams as different servers send them, and all ways to break one.
#include "apps/bench_serve/stream_timer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace deepflight {
namespace {

using ::testing::ElementsAre;

HttpResponse stream_response() { return {200, {{"Content-Type", "text/event-stream"}}, ""}; }

constexpr const char* kUsage =
    R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}})";

RequestRecord time_chat(const std::vector<std::pair<int64_t, std::string>>& events,
                        LoadEndpoint endpoint = LoadEndpoint::kChat) {
  StreamTimer timer(endpoint, {.sent_us = 1000});
  for (const auto& [time_us, data] : events) {
    if (!timer.on_event(data, time_us)) break;
  }
  return timer.finish(stream_response(), 9000);
}

TEST(StreamTimer, TimesAChat) {
  const RequestRecord record =
      time_chat({{1500, R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"},
                 {2000, R"({"choices":[{"delta":{"reasoning_content":"Hm"}}],"usage":null})"},
                 {2600, R"({"choices":[{"delta":{"content":"Yes"}}]})"},
                 {3000, R"({"choices":[{"delta":{},"finish_reason":"stop"}]})"},
                 {3001, kUsage},
                 {3002, "[DONE]"}});
  EXPECT_TRUE(record.ok()) << record.failure;
  EXPECT_EQ(record.ttft_ms(), 1.0);
  EXPECT_THAT(record.gaps_us, ElementsAre(600));
  EXPECT_EQ(record.e2e_ms(), 1.6);
  EXPECT_EQ(record.num_prompt_tokens, 7);
  EXPECT_EQ(record.num_output_tokens, 5);
  EXPECT_DOUBLE_EQ(record.tpot_ms(), 0.15);
}

TEST(StreamTimer, ReadsWhatBecameOfDrafts) {
  const RequestRecord record =
      time_chat({{2600, R"({"choices":[{"delta":{"content":"Yes"}}]})"},
                 {3001, R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,)"
                        R"("completion_tokens_details":{"accepted_prediction_tokens":3,)"
                        R"("rejected_prediction_tokens":2},"simulated_acceptance":0.5}})"},
                 {3002, "[DONE]"}});
  EXPECT_TRUE(record.ok()) << record.failure;
  EXPECT_EQ(record.num_accepted_drafts, 3);
  EXPECT_EQ(record.num_rejected_drafts, 2);
  EXPECT_EQ(record.simulated_acceptance, 0.5);
}

TEST(StreamTimer, ACompletionsChunkMayHaveNoText) {
  const RequestRecord record =
      time_chat({{2000, R"({"choices":[{"text":"","finish_reason":null}]})"},
                 {2300, R"({"choices":[{"text":"x","finish_reason":"length"}]})"},
                 {2400, R"({"choices":[{"text":"","finish_reason":"length"}]})"},
                 {2500, kUsage},
                 {2500, "[DONE]"}},
                LoadEndpoint::kCompletions);
  EXPECT_TRUE(record.ok()) << record.failure;
  EXPECT_EQ(record.first_us, 2000);
  EXPECT_THAT(record.gaps_us, ElementsAre(300));
}

TEST(StreamTimer, UsageInEveryChunkFindsTokensWithoutText) {
  const auto chunk = [](int num_tokens) {
    return fmt::format(R"({{"choices":[{{"delta":{{"content":""}}}}],)"
                       R"("usage":{{"prompt_tokens":7,"completion_tokens":{}}}}})",
                       num_tokens);
  };
  const RequestRecord record =
      time_chat({{1100, chunk(0)}, {2000, chunk(1)}, {2200, chunk(3)}, {3000, "[DONE]"}});
  EXPECT_TRUE(record.ok()) << record.failure;
  EXPECT_EQ(record.first_us, 2000);
  EXPECT_THAT(record.gaps_us, ElementsAre(200));
  EXPECT_EQ(record.num_output_tokens, 3);
}

TEST(StreamTimer, NamesWhatIsBroken) {
  const std::string token = R"({"choices":[{"delta":{"content":"a"}}]})";
  EXPECT_EQ(time_chat({{2000, token}, {2100, kUsage}}).failure, "broken stream");
  EXPECT_EQ(time_chat({{2000, token}, {2100, "[DONE]"}}).failure, "no usage");
  EXPECT_EQ(time_chat({{2000, kUsage}, {2100, "[DONE]"}}).failure, "no tokens");
  EXPECT_EQ(time_chat({{2000, "{"}}).failure, "bad chunk");
  const auto failed = time_chat({{2000, token}, {2100, "{\"error\":{\"message\":\"a\\nb\"}}"}});
  EXPECT_EQ(failed.failure, "error in the stream");

  const auto finish = [](const Result<HttpResponse>& response) {
    return StreamTimer(LoadEndpoint::kChat, {}).finish(response, 5);
  };
  const RequestRecord refused = finish(HttpResponse{400, {}, "too\nlong"});
  EXPECT_EQ(refused.failure, "HTTP 400");
  EXPECT_EQ(refused.failure_detail, "too long");
  EXPECT_EQ(finish(HttpResponse{200, {}, "{}"}).failure, "not a stream");
  EXPECT_EQ(finish(Error{ErrorCode::kUnavailable, "gone"}).failure, "no answer");
  const RequestRecord cancelled = finish(Error{ErrorCode::kCancelled, "cancelled"});
  EXPECT_TRUE(cancelled.interrupted);
  EXPECT_TRUE(cancelled.failure.empty());
  EXPECT_FALSE(cancelled.ok());
}

}  // namespace
}  // namespace deepflight
