// The search against servers that are a number: they hold up to a rate.
#include "apps/bench_serve/rate_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace deepflight {
namespace {

TEST(FindMaxRate, EndsWithinTheTolerance) {
  for (const double capacity : {0.01, 0.7, 1.0, 3.3, 47.0, 12345.0}) {
    int num_trials = 0;
    const RateSearchResult result = find_max_rate({}, [&](double rate) {
      ++num_trials;
      return std::optional(rate <= capacity);
    });
    EXPECT_TRUE(result.complete);
    EXPECT_LE(result.passing_rate, capacity);
    EXPECT_GT(result.failing_rate, capacity);
    EXPECT_LE(result.failing_rate, result.passing_rate * 1.05);
    EXPECT_LE(num_trials, 20) << capacity;
  }
}

TEST(FindMaxRate, TriesNoRateTwice) {
  std::vector<double> rates;
  find_max_rate({.start_rate = 8}, [&](double rate) {
    rates.push_back(rate);
    return std::optional(rate <= 3);
  });
  ASSERT_GE(rates.size(), 4u);
  EXPECT_EQ(rates[0], 8);
  EXPECT_EQ(rates[1], 4);
  EXPECT_EQ(rates[2], 2);
  std::ranges::sort(rates);
  EXPECT_EQ(std::ranges::adjacent_find(rates), rates.end());
}

TEST(FindMaxRate, StopsAtTheBoundsAndWhenTold) {
  const auto never = find_max_rate({}, [](double) { return std::optional(false); });
  EXPECT_EQ(never.passing_rate, 0);
  EXPECT_FALSE(never.complete);
  const auto always = find_max_rate({.max_rate = 100}, [](double) { return std::optional(true); });
  EXPECT_EQ(always.passing_rate, 100);
  EXPECT_FALSE(always.complete);
  int num_trials = 0;
  const auto stopped = find_max_rate(
      {}, [&](double) { return ++num_trials < 3 ? std::optional(true) : std::nullopt; });
  EXPECT_EQ(stopped.passing_rate, 2);
  EXPECT_FALSE(stopped.complete);
}

RequestRecord with_ttft(int64_t ttft_ms) {
  RequestRecord record;
  record.first_us = ttft_ms * 1000;
  record.last_us = record.done_us = record.first_us + 10'000;
  record.num_output_tokens = 2;
  record.gaps_us = {10'000};
  return record;
}

TEST(TrialJudge, GivesUpExactlyWhenThePercentileIsLost) {
  const Slo slo{.ttft_ms = 100};
  for (const int num_late : {0, 1, 2, 3, 5}) {
    // Late ones last: the judge may only give up where the whole trial fails.
    std::vector<RequestRecord> records;
    for (int i = 0; i < 100; ++i) records.push_back(with_ttft(i < 100 - num_late ? 100 : 300));
    TrialJudge judge(slo, 99, 100);
    bool go_on = true;
    for (const RequestRecord& record : records) go_on = judge.add(record) && go_on;
    const bool passed = judge.passed(summarize(records, slo));
    EXPECT_EQ(passed, num_late == 0) << num_late;  // p99 of 100 lies between the last two
    EXPECT_TRUE(go_on || !passed);
    EXPECT_EQ(go_on, num_late < 2);
  }
}

TEST(TrialJudge, AFailureEndsIt) {
  TrialJudge judge({.tpot_ms = 10}, 99, 0);
  RequestRecord record = with_ttft(1);
  EXPECT_TRUE(judge.add(record));
  EXPECT_TRUE(judge.passed(summarize({record}, {})));
  record.failure = "HTTP 500";
  EXPECT_FALSE(judge.add(record));
  EXPECT_FALSE(judge.passed(summarize({record}, {})));
}

}  // namespace
}  // namespace deepflight
