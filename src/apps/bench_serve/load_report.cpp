// Text and JSON of the same figures.
#include "apps/bench_serve/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace deepflight {
namespace {

using nlohmann::json;

double ratio(int64_t count, int64_t of) {
  return of > 0 ? static_cast<double>(count) / static_cast<double>(of) : 0;
}

json distribution_json(const Distribution& values) {
  if (values.empty()) return nullptr;
  json result = {{"count", values.sorted.size()}, {"mean", values.mean}, {"max", values.max()}};
  for (const double percent : kReportedPercentiles) {
    result[fmt::format("p{}", percent)] = values.at(percent);
  }
  return result;
}

json failures_json(const LoadSummary& summary) {
  json result = json::object();
  for (const auto& [kind, failure] : summary.failures) {
    result[kind] = {{"count", failure.count}, {"example", failure.example}};
  }
  return result;
}

json summary_json(const LoadSummary& summary, const Slo& slo) {
  json result = {
      {"seconds", summary.seconds},
      {"requests", summary.num_requests},
      {"done", summary.num_done},
      {"failed", summary.num_failed()},
      {"interrupted", summary.num_interrupted},
      {"failures", failures_json(summary)},
      {"prompt_token_mismatches", summary.num_prompt_mismatches},
      {"output_token_mismatches", summary.num_output_mismatches},
      {"prompt_tokens", summary.num_prompt_tokens},
      {"output_tokens", summary.num_output_tokens},
      {"tokens_per_chunk", ratio(summary.num_output_tokens, summary.num_chunks)},
      {"requests_per_s", summary.per_second(summary.num_done)},
      {"qpm", summary.qpm()},
      {"output_tokens_per_s", summary.per_second(summary.num_output_tokens)},
      {"total_tokens_per_s",
       summary.per_second(summary.num_prompt_tokens + summary.num_output_tokens)},
      {"mean_concurrency", summary.mean_concurrency},
      {"max_concurrency", summary.max_concurrency},
      {"ttft_ms", distribution_json(summary.ttft)},
      {"tpot_ms", distribution_json(summary.tpot)},
      {"itl_ms", distribution_json(summary.itl)},
      {"e2e_ms", distribution_json(summary.e2e)},
      {"send_lag_ms", distribution_json(summary.lag)},
  };
  if (summary.num_accepted_drafts + summary.num_rejected_drafts > 0) {
    result["drafts"] = {{"accepted", summary.num_accepted_drafts},
                        {"rejected", summary.num_rejected_drafts}};
  }
  if (summary.simulated_acceptance >= 0) {
    result["simulated_acceptance"] = summary.simulated_acceptance;
  }
  if (slo.is_set()) {
    result["goodput"] = {{"share", summary.good_share()},
                         {"requests_per_s", summary.per_second(summary.num_good)},
                         {"qpm", 60 * summary.per_second(summary.num_good)}};
  }
  return result;
}

int64_t num_drafts(const LoadSummary& summary) {
  return summary.num_accepted_drafts + summary.num_rejected_drafts;
}

std::string limits_text(const Slo& slo) {
  std::string text;
  if (slo.ttft_ms > 0) text += fmt::format("TTFT {:g} ms", slo.ttft_ms);
  if (slo.tpot_ms > 0) text += fmt::format("{}TPOT {:g} ms", text.empty() ? "" : ", ", slo.tpot_ms);
  return text;
}

std::string search_text(const LoadReport& report) {
  const RateSearchResult& search = report.search;
  if (search.passing_rate == 0) {
    return fmt::format("none found in {} trials", report.trials.size());
  }
  std::string text =
      fmt::format("{:.1f} ({:.3f} requests/s)", 60 * search.passing_rate, search.passing_rate);
  if (search.failing_rate > 0) text += fmt::format(", fails at {:.1f}", 60 * search.failing_rate);
  return search.complete ? text : text + "; the search was not finished";
}

std::string milliseconds(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.2f}", value);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> report_figures(const LoadReport& report) {
  const LoadSummary& summary = report.summary;
  std::vector<std::pair<std::string, std::string>> rows;
  if (report.is_search) {
    rows.emplace_back("highest QPM within limits", search_text(report));
    rows.emplace_back("limits", fmt::format("p{:g} of {}, no failures", report.slo_percentile,
                                            limits_text(report.slo)));
  }
  rows.emplace_back("requests done", fmt::format("{} of {}", summary.num_done,
                                                 summary.num_requests + summary.num_interrupted));
  for (const auto& [kind, failure] : summary.failures) {
    rows.emplace_back("failed: " + kind, fmt::format("{} ({})", failure.count, failure.example));
  }
  if (summary.num_interrupted > 0) {
    rows.emplace_back("ended by us", fmt::format("{}", summary.num_interrupted));
  }
  if (summary.num_prompt_mismatches + summary.num_output_mismatches > 0) {
    rows.emplace_back("other token counts than asked",
                      fmt::format("{} prompts, {} outputs", summary.num_prompt_mismatches,
                                  summary.num_output_mismatches));
  }
  rows.emplace_back("duration", fmt::format("{:.2f} s", summary.seconds));
  rows.emplace_back("concurrency", fmt::format("mean {:.1f}, at most {}", summary.mean_concurrency,
                                               summary.max_concurrency));
  rows.emplace_back("mean tokens of a request",
                    fmt::format("{:.1f} in, {:.1f} out ({:.2f} a chunk)",
                                ratio(summary.num_prompt_tokens, summary.num_done),
                                ratio(summary.num_output_tokens, summary.num_done),
                                ratio(summary.num_output_tokens, summary.num_chunks)));
  if (num_drafts(summary) > 0) {
    rows.emplace_back(
        "drafts accepted",
        fmt::format("{:.1f} % of {}", 100 * ratio(summary.num_accepted_drafts, num_drafts(summary)),
                    num_drafts(summary)));
  }
  if (summary.simulated_acceptance >= 0) {
    rows.emplace_back("SIMULATED",
                      fmt::format("drafts accepted with probability {:g}, whatever the model said",
                                  summary.simulated_acceptance));
  }
  rows.emplace_back("requests/s", fmt::format("{:.3f} (QPM {:.1f})",
                                              summary.per_second(summary.num_done), summary.qpm()));
  rows.emplace_back("output tokens/s",
                    fmt::format("{:.1f}", summary.per_second(summary.num_output_tokens)));
  rows.emplace_back("total tokens/s",
                    fmt::format("{:.1f}", summary.per_second(summary.num_prompt_tokens +
                                                             summary.num_output_tokens)));
  if (report.slo.is_set()) {
    rows.emplace_back(
        "goodput", fmt::format("{:.2f} % within {}; {:.3f} requests/s", 100 * summary.good_share(),
                               limits_text(report.slo), summary.per_second(summary.num_good)));
  }
  return rows;
}

std::vector<LatencyRow> report_latencies(const LoadReport& report) {
  const LoadSummary& summary = report.summary;
  return {{"TTFT ms", &summary.ttft},
          {"TPOT ms", &summary.tpot},
          {"ITL ms", &summary.itl},
          {"E2E ms", &summary.e2e},
          {"send lag ms", &summary.lag}};
}

std::string report_table(const LoadReport& report) {
  std::string text;
  for (const auto& [label, value] : report_figures(report)) {
    text += fmt::format("{:<30} {}\n", label, value);
  }
  if (report.summary.num_done == 0) return text;
  text += fmt::format("\n{:<12} {:>10}", "", "mean");
  for (const double percent : kReportedPercentiles) {
    text += fmt::format(" {:>10}", fmt::format("p{}", percent));
  }
  text += fmt::format(" {:>10}\n", "max");
  for (const LatencyRow& row : report_latencies(report)) {
    if (row.values->empty()) continue;
    text += fmt::format("{:<12} {:>10.2f}", row.label, row.values->mean);
    for (const double percent : kReportedPercentiles) {
      text += fmt::format(" {:>10.2f}", row.values->at(percent));
    }
    text += fmt::format(" {:>10.2f}\n", row.values->max());
  }
  return text;
}

std::string trial_line(const RateTrial& trial, double slo_percentile) {
  const LoadSummary& summary = trial.summary;
  return fmt::format("QPM {:>9.1f}  {}  p{:g} TTFT {:>9} ms  TPOT {:>8} ms  {} done, {} failed{}",
                     60 * trial.rate, trial.passed ? "holds" : "fails", slo_percentile,
                     milliseconds(summary.ttft.at(slo_percentile)),
                     milliseconds(summary.tpot.at(slo_percentile)), summary.num_done,
                     summary.num_failed(), trial.ended_early ? ", ended early" : "");
}

json report_json(const LoadReport& report) {
  json result = {{"benchmark", "serve"},
                 {"date", report.date},
                 {"config", report.config},
                 {"interrupted", report.interrupted},
                 {"summary", summary_json(report.summary, report.slo)}};
  if (report.is_search) {
    auto trials = json::array();
    for (const RateTrial& trial : report.trials) {
      json row = summary_json(trial.summary, report.slo);
      row["rate"] = trial.rate;
      row["passed"] = trial.passed;
      row["ended_early"] = trial.ended_early;
      trials.push_back(std::move(row));
    }
    result["search"] = {
        {"max_qpm", 60 * report.search.passing_rate},
        {"max_rate", report.search.passing_rate},
        {"failing_qpm",
         report.search.failing_rate > 0 ? json(60 * report.search.failing_rate) : json(nullptr)},
        {"complete", report.search.complete},
        {"slo_percentile", report.slo_percentile},
        {"trials", std::move(trials)}};
  }
  return result;
}

json record_json(const RequestRecord& record) {
  json result = {{"planned_ms", static_cast<double>(record.planned_us) * 1e-3},
                 {"sent_ms", static_cast<double>(record.sent_us) * 1e-3},
                 {"done_ms", static_cast<double>(record.done_us) * 1e-3},
                 {"prompt_tokens", record.num_prompt_tokens},
                 {"output_tokens", record.num_output_tokens}};
  if (record.interrupted) {
    result["interrupted"] = true;
  } else if (!record.ok()) {
    result["failure"] = record.failure;
    result["detail"] = record.failure_detail;
  } else {
    result["ttft_ms"] = record.ttft_ms();
    result["e2e_ms"] = record.e2e_ms();
    if (record.has_tpot()) result["tpot_ms"] = record.tpot_ms();
    result["gaps_us"] = record.gaps_us;
  }
  return result;
}

}  // namespace deepflight
