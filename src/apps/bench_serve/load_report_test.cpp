// Reports say the same in text, JSON and HTML, and no foreign text gets into the page unescaped.
#include "apps/bench_serve/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/bench_serve/html_report.h"
#include "apps/bench_serve/svg_chart.h"

namespace deepflight {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

LoadReport report() {
  std::vector<RequestRecord> records(4);
  for (int i = 0; i < 4; ++i) {
    records[i].first_us = 10'000 * (i + 1);
    records[i].gaps_us = {5'000};
    records[i].last_us = records[i].done_us = records[i].first_us + 5'000;
    records[i].num_prompt_tokens = 8;
    records[i].num_output_tokens = 2;
  }
  records[3].failure = "HTTP 400";
  records[3].failure_detail = "<script>";
  LoadReport result;
  result.config = {{"url", "http://h"}, {"model", "<m>"}};
  result.slo = {.ttft_ms = 20};
  result.summary = summarize(records, result.slo);
  result.course = timeline(records, 10);
  return result;
}

TEST(LoadReport, JsonHasEveryFigure) {
  const nlohmann::json json = report_json(report());
  const auto& summary = json["summary"];
  EXPECT_EQ(summary["done"], 3);
  EXPECT_EQ(summary["failed"], 1);
  EXPECT_EQ(summary["failures"]["HTTP 400"]["count"], 1);
  EXPECT_EQ(summary["output_tokens"], 6);
  EXPECT_DOUBLE_EQ(summary["ttft_ms"]["p50"].get<double>(), 20);
  EXPECT_DOUBLE_EQ(summary["tpot_ms"]["mean"].get<double>(), 5);
  EXPECT_DOUBLE_EQ(summary["goodput"]["share"].get<double>(), 0.5);
  EXPECT_FALSE(json.contains("search"));
}

TEST(LoadReport, TextSaysWhatFailed) {
  const std::string text = report_table(report());
  EXPECT_THAT(text, HasSubstr("3 of 4"));
  EXPECT_THAT(text, HasSubstr("failed: HTTP 400"));
  EXPECT_THAT(text, HasSubstr("TPOT ms"));
}

TEST(LoadReport, HtmlIsSelfContained) {
  LoadReport search = report();
  search.is_search = true;
  search.trials = {{.rate = 2, .passed = true, .summary = search.summary}, {.rate = 4}};
  search.search = {.passing_rate = 2, .failing_rate = 4};
  const std::string html = html_report(search);
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("&lt;m&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
  EXPECT_THAT(html, HasSubstr("120.0 (2.000 requests/s), fails at 240.0"));
  EXPECT_EQ(report_json(search)["search"]["trials"].size(), 2u);
}

TEST(LoadReport, NothingDoneIsStillAReport) {
  const LoadReport empty{.config = {{"url", "u"}}, .course = timeline({}, 4)};
  EXPECT_TRUE(report_json(empty)["summary"]["ttft_ms"].is_null());
  EXPECT_THAT(report_table(empty), HasSubstr("0 of 0"));
  EXPECT_THAT(html_report(empty), HasSubstr("</html>"));
}

TEST(ChartTicks, AreRoundAndCover) {
  EXPECT_THAT(chart_ticks(1), ElementsAre(0, 0.2, 0.4, ::testing::DoubleEq(0.6), 0.8, 1));
  EXPECT_EQ(chart_ticks(0).back(), 1);
  for (const double max : {0.003, 0.7, 3.0, 12.0, 99.0, 100.0, 101.0, 54321.0}) {
    const auto ticks = chart_ticks(max);
    EXPECT_GE(ticks.back(), max * (1 - 1e-9));
    EXPECT_LE(ticks.back(), max * 1.5);
    EXPECT_LE(ticks.size(), 7u);
  }
}

}  // namespace
}  // namespace deepflight
