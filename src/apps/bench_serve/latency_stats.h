// From the records of a load to its figures: percentiles, rates, goodput, and the course over time.
// Pure functions. docs/benchmark.md defines every figure.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "apps/bench_serve/request_record.h"

namespace deepflight {

// The value below which `percent` of the sorted values lie, linear between neighbours (numpy's
// default). NaN if there are none.
double percentile(std::span<const double> sorted, double percent);

struct Distribution {
  std::vector<double> sorted;
  double mean = 0;  // 0 if empty

  bool empty() const { return sorted.empty(); }
  double at(double percent) const { return percentile(sorted, percent); }
  double max() const { return sorted.back(); }
};

Distribution distribution(std::vector<double> values);

// Limits on latency; 0: no limit.
struct Slo {
  double ttft_ms = 0;
  double tpot_ms = 0;

  bool is_set() const { return ttft_ms > 0 || tpot_ms > 0; }
  // A request that failed does not meet them; one of a single token has no TPOT to be too long.
  bool is_met_by(const RequestRecord& record) const;
};

struct FailureCount {
  int64_t count = 0;
  std::string example;  // the first one's detail
};

struct LoadSummary {
  double seconds = 0;        // from the load's begin to its last answer's end
  int64_t num_requests = 0;  // that ended: done and failed
  int64_t num_done = 0;
  int64_t num_interrupted = 0;
  std::map<std::string, FailureCount> failures;  // by kind
  int64_t num_prompt_mismatches = 0;             // done, but with other token counts than asked for
  int64_t num_output_mismatches = 0;
  int64_t num_prompt_tokens = 0;  // of requests done
  int64_t num_output_tokens = 0;
  int64_t num_chunks = 0;
  int64_t num_accepted_drafts = 0;
  int64_t num_rejected_drafts = 0;
  double simulated_acceptance = -1.0;  // not negative: of any request
  double mean_concurrency = 0;
  int64_t max_concurrency = 0;
  int64_t num_good = 0;  // done within the SLO

  // Milliseconds, over requests done.
  Distribution ttft;
  Distribution tpot;
  Distribution itl;
  Distribution e2e;
  Distribution lag;

  int64_t num_failed() const { return num_requests - num_done; }
  double per_second(int64_t count) const {
    return seconds > 0 ? static_cast<double>(count) / seconds : 0;
  }
  double qpm() const { return 60 * per_second(num_done); }
  double good_share() const {
    return num_requests > 0 ? static_cast<double>(num_good) / static_cast<double>(num_requests) : 0;
  }
};

LoadSummary summarize(const std::vector<RequestRecord>& records, const Slo& slo);

// The load in equal slices of time.
struct Timeline {
  double slice_s = 0;
  std::vector<double> concurrency;          // mean number of requests in flight
  std::vector<double> output_tokens_per_s;  // a chunk's share of its request's tokens, as it came
};
Timeline timeline(const std::vector<RequestRecord>& records, int num_slices);

}  // namespace deepflight
