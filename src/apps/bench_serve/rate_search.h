// The highest rate at which a server keeps its promises: doubling or halving until a rate that
// holds and one that does not are known, then bisection. Pure; a trial is a function.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "apps/bench_serve/latency_stats.h"
#include "base/result.h"

namespace deepflight {

struct RateSearch {
  double start_rate = 1;    // requests/s
  double tolerance = 0.05;  // ends once the failing rate is at most this much above the passing one
  double min_rate = 1e-3;
  double max_rate = 1e5;
};

struct RateSearchResult {
  double passing_rate = 0;  // the highest seen to hold; 0: none
  double failing_rate = 0;  // the lowest seen not to; 0: none
  bool complete = false;    // false: stopped, or at the bounds
};

// Whether a rate holds; nothing: stop the search.
using TrialFn = std::function<std::optional<bool>(double rate)>;

RateSearchResult find_max_rate(const RateSearch& search, const TrialFn& trial);

// Judges one trial: no failures, and the percentiles of TTFT and TPOT within the limits. Knows
// early when that cannot be reached any more.
class TrialJudge {
 public:
  // num_planned: requests of the trial; 0: not known, so only failures end it early.
  TrialJudge(const Slo& slo, double slo_percentile, int64_t num_planned)
      : slo_(slo), percentile_(slo_percentile), num_planned_(num_planned) {}

  // Takes a request that ended. False: the trial has failed, whatever follows.
  bool add(const RequestRecord& record);

  bool passed(const LoadSummary& summary) const;

 private:
  Slo slo_;
  double percentile_;
  int64_t num_planned_;
  int64_t num_late_first_ = 0;  // over the TTFT limit
  int64_t num_slow_ = 0;        // over the TPOT limit
};

}  // namespace deepflight
