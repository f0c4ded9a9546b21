// Percentiles to the digit, and loads small enough to count by hand.
#include "apps/bench_serve/latency_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace deepflight {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

// Sent at `sent_ms`, tokens in chunks at the times given after that.
RequestRecord record(int64_t sent_ms, const std::vector<int64_t>& chunks_ms, int64_t num_tokens) {
  RequestRecord result;
  result.planned_us = result.sent_us = sent_ms * 1000;
  result.first_us = (sent_ms + chunks_ms.front()) * 1000;
  for (size_t i = 1; i < chunks_ms.size(); ++i) {
    result.gaps_us.push_back(static_cast<int32_t>((chunks_ms[i] - chunks_ms[i - 1]) * 1000));
  }
  result.last_us = result.done_us = (sent_ms + chunks_ms.back()) * 1000;
  result.num_prompt_tokens = 10;
  result.num_output_tokens = num_tokens;
  return result;
}

TEST(Percentile, IsLinearBetweenNeighbours) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_EQ(percentile(values, 0), 1);
  EXPECT_EQ(percentile(values, 50), 3);
  EXPECT_DOUBLE_EQ(percentile(values, 90), 4 + 0.7 * 4);
  EXPECT_EQ(percentile(values, 100), 8);
  EXPECT_EQ(percentile(std::vector<double>{5}, 99), 5);
  EXPECT_TRUE(std::isnan(percentile({}, 50)));
  std::vector<double> hundred(101);
  for (int i = 0; i <= 100; ++i) hundred[i] = i;
  for (const int p : {50, 90, 95, 99}) EXPECT_DOUBLE_EQ(percentile(hundred, p), p);
}

TEST(Distribution, SortsAndAverages) {
  const Distribution some = distribution({3, 1, 2});
  EXPECT_THAT(some.sorted, ElementsAre(1, 2, 3));
  EXPECT_EQ(some.mean, 2);
  EXPECT_EQ(some.max(), 3);
  EXPECT_TRUE(distribution({}).empty());
}

TEST(Summarize, CountsTokensByUsageAndTimesByChunk) {
  // Two tokens a chunk: the gaps are those of chunks, the time per token is not.
  const LoadSummary summary = summarize({record(0, {100, 140, 180}, 6)}, {});
  EXPECT_DOUBLE_EQ(summary.ttft.mean, 100);
  EXPECT_DOUBLE_EQ(summary.e2e.mean, 180);
  EXPECT_DOUBLE_EQ(summary.itl.mean, 40);
  EXPECT_DOUBLE_EQ(summary.tpot.mean, 80.0 / 5);
  EXPECT_EQ(summary.num_chunks, 3);
  EXPECT_DOUBLE_EQ(summary.per_second(summary.num_output_tokens), 6 / 0.18);
  EXPECT_DOUBLE_EQ(summary.qpm(), 60 / 0.18);
}

TEST(Summarize, SeparatesDoneFailedAndInterrupted) {
  std::vector<RequestRecord> records = {record(0, {10, 20}, 2), record(5, {10, 20}, 2),
                                        record(10, {10, 20}, 2), record(20, {80}, 1)};
  records[1].failure = "HTTP 503";
  records[1].failure_detail = "busy";
  records[2].interrupted = true;
  records[3].asked_output_tokens = 2;
  records[3].asked_prompt_tokens = 11;
  const LoadSummary summary = summarize(records, {.ttft_ms = 50, .tpot_ms = 10});
  EXPECT_EQ(summary.num_requests, 3);
  EXPECT_EQ(summary.num_done, 2);
  EXPECT_EQ(summary.num_failed(), 1);
  EXPECT_EQ(summary.num_interrupted, 1);
  EXPECT_EQ(summary.failures.at("HTTP 503").count, 1);
  EXPECT_EQ(summary.failures.at("HTTP 503").example, "busy");
  EXPECT_EQ(summary.num_output_mismatches, 1);
  EXPECT_EQ(summary.num_prompt_mismatches, 1);
  EXPECT_DOUBLE_EQ(summary.seconds, 0.1);
  EXPECT_EQ(summary.tpot.sorted.size(), 1u);  // one token has no time per token
  EXPECT_EQ(summary.num_good, 1);
  EXPECT_DOUBLE_EQ(summary.good_share(), 1.0 / 3);
  EXPECT_EQ(summary.max_concurrency, 3);
  EXPECT_DOUBLE_EQ(summary.mean_concurrency, 1.4);
}

TEST(Summarize, NothingIsNothing) {
  const LoadSummary summary = summarize({}, {});
  EXPECT_EQ(summary.num_requests, 0);
  EXPECT_EQ(summary.qpm(), 0);
  EXPECT_TRUE(summary.ttft.empty());
}

TEST(Slo, BothLimitsCount) {
  const RequestRecord request = record(0, {100, 120}, 2);
  EXPECT_TRUE((Slo{.ttft_ms = 100, .tpot_ms = 20}).is_met_by(request));
  EXPECT_FALSE((Slo{.ttft_ms = 99}).is_met_by(request));
  EXPECT_FALSE((Slo{.tpot_ms = 19}).is_met_by(request));
  EXPECT_FALSE(Slo{}.is_set());
}

TEST(Timeline, KeepsEveryTokenAndEverySecond) {
  const std::vector<RequestRecord> records = {record(0, {10, 50, 100}, 30),
                                              record(50, {10, 20}, 2)};
  const Timeline course = timeline(records, 4);
  EXPECT_DOUBLE_EQ(course.slice_s, 0.025);
  double num_tokens = 0;
  for (const double rate : course.output_tokens_per_s) num_tokens += rate * course.slice_s;
  EXPECT_THAT(num_tokens, DoubleNear(32, 1e-9));
  EXPECT_THAT(course.concurrency, ElementsAre(1, 1, DoubleNear(1.8, 1e-9), 1));
}

}  // namespace
}  // namespace deepflight
