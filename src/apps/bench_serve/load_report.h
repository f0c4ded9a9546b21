// What a finished benchmark says: as a table for people, as JSON for programs. html_report.h draws
// it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/bench_serve/latency_stats.h"
#include "apps/bench_serve/rate_search.h"

namespace deepflight {

// A load of the search for the highest rate.
struct RateTrial {
  double rate = 0;  // requests/s
  bool passed = false;
  bool ended_early = false;  // as soon as it could not pass any more
  LoadSummary summary;
};

struct LoadReport {
  nlohmann::json config;  // the flags as they were understood
  std::string date;       // UTC, ISO 8601
  Slo slo;
  double slo_percentile = 99;  // of a search
  bool interrupted = false;
  LoadSummary summary;  // of the load; of a search, that of its best trial
  Timeline course;
  bool is_search = false;
  std::vector<RateTrial> trials;
  RateSearchResult search;
};

// The report's figures in words, a label and a value each; and its latencies.
std::vector<std::pair<std::string, std::string>> report_figures(const LoadReport& report);
struct LatencyRow {
  const char* label;
  const Distribution* values;  // in the report
};
std::vector<LatencyRow> report_latencies(const LoadReport& report);

inline constexpr double kReportedPercentiles[] = {50, 90, 95, 99};

std::string report_table(const LoadReport& report);
// The line of one trial: rate, verdict and what it depends on.
std::string trial_line(const RateTrial& trial, double slo_percentile);
nlohmann::json report_json(const LoadReport& report);
// One request, for --save.
nlohmann::json record_json(const RequestRecord& record);

}  // namespace deepflight
