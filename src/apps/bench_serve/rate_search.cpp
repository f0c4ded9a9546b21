// Bracketing and bisection on a scale of ratios.
#include "apps/bench_serve/rate_search.h"

#include <algorithm>
#include <cmath>

namespace deepflight {

RateSearchResult find_max_rate(const RateSearch& search, const TrialFn& trial) {
  RateSearchResult result;
  double rate = search.start_rate;
  for (;;) {
    const std::optional<bool> passed = trial(rate);
    if (!passed) return result;
    (*passed ? result.passing_rate : result.failing_rate) = rate;
    if (result.failing_rate == 0) {
      if (rate >= search.max_rate) return result;
      rate = std::min(2 * rate, search.max_rate);
    } else if (result.passing_rate == 0) {
      if (rate <= search.min_rate) return result;
      rate = std::max(rate / 2, search.min_rate);
    } else if (result.failing_rate <= result.passing_rate * (1 + search.tolerance)) {
      result.complete = true;
      return result;
    } else {
      rate = std::sqrt(result.passing_rate * result.failing_rate);
    }
  }
}

bool TrialJudge::add(const RequestRecord& record) {
  if (record.interrupted) return true;
  if (!record.ok()) return false;
  num_late_first_ += slo_.ttft_ms > 0 && record.ttft_ms() > slo_.ttft_ms;
  num_slow_ += slo_.tpot_ms > 0 && record.has_tpot() && record.tpot_ms() > slo_.tpot_ms;
  if (num_planned_ == 0) return true;
  // The percentile lies at or above the value at `position`; that one is over the limit as soon as
  // all values from it on are.
  const auto position =
      static_cast<int64_t>(percentile_ / 100 * static_cast<double>(num_planned_ - 1));
  return std::max(num_late_first_, num_slow_) < num_planned_ - position;
}

bool TrialJudge::passed(const LoadSummary& summary) const {
  if (summary.num_failed() > 0 || summary.num_done == 0) return false;
  if (slo_.ttft_ms > 0 && summary.ttft.at(percentile_) > slo_.ttft_ms) return false;
  return slo_.tpot_ms <= 0 || summary.tpot.empty() || summary.tpot.at(percentile_) <= slo_.tpot_ms;
}

}  // namespace deepflight
