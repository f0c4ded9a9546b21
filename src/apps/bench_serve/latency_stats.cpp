// Sorting and counting.
#include "apps/bench_serve/latency_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace deepflight {
namespace {

int64_t end_us(const std::vector<RequestRecord>& records) {
  int64_t end = 0;
  for (const RequestRecord& record : records) end = std::max(end, record.done_us);
  return end;
}

int64_t peak_concurrency(const std::vector<RequestRecord>& records) {
  std::vector<std::pair<int64_t, int>> changes;  // an end sorts before a begin of the same time
  for (const RequestRecord& record : records) {
    changes.emplace_back(record.sent_us, 1);
    changes.emplace_back(record.done_us, -1);
  }
  std::ranges::sort(changes);
  int64_t now = 0;
  int64_t peak = 0;
  for (const auto& [time_us, change] : changes) peak = std::max(peak, now += change);
  return peak;
}

}  // namespace

double percentile(std::span<const double> sorted, double percent) {
  CHECK(percent >= 0 && percent <= 100, percent);
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double position = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  if (below + 1 == sorted.size()) return sorted.back();
  return std::lerp(sorted[below], sorted[below + 1], position - static_cast<double>(below));
}

Distribution distribution(std::vector<double> values) {
  std::ranges::sort(values);
  Distribution result;
  if (!values.empty()) {
    result.mean =
        std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
  result.sorted = std::move(values);
  return result;
}

bool Slo::is_met_by(const RequestRecord& record) const {
  if (!record.ok()) return false;
  if (ttft_ms > 0 && record.ttft_ms() > ttft_ms) return false;
  return tpot_ms <= 0 || !record.has_tpot() || record.tpot_ms() <= tpot_ms;
}

LoadSummary summarize(const std::vector<RequestRecord>& records, const Slo& slo) {
  LoadSummary summary;
  summary.seconds = static_cast<double>(end_us(records)) * 1e-6;
  summary.max_concurrency = peak_concurrency(records);
  std::vector<double> ttft;
  std::vector<double> tpot;
  std::vector<double> itl;
  std::vector<double> e2e;
  std::vector<double> lag;
  double busy_s = 0;
  for (const RequestRecord& record : records) {
    busy_s += static_cast<double>(record.done_us - record.sent_us) * 1e-6;
    if (record.interrupted) {
      ++summary.num_interrupted;
      continue;
    }
    ++summary.num_requests;
    if (!record.ok()) {
      FailureCount& failure = summary.failures[record.failure];
      if (failure.count++ == 0) failure.example = record.failure_detail;
      continue;
    }
    ++summary.num_done;
    summary.num_prompt_mismatches +=
        record.asked_prompt_tokens > 0 && record.asked_prompt_tokens != record.num_prompt_tokens;
    summary.num_output_mismatches +=
        record.asked_output_tokens > 0 && record.asked_output_tokens != record.num_output_tokens;
    summary.num_prompt_tokens += record.num_prompt_tokens;
    summary.num_output_tokens += record.num_output_tokens;
    summary.num_chunks += record.num_chunks();
    summary.num_accepted_drafts += record.num_accepted_drafts;
    summary.num_rejected_drafts += record.num_rejected_drafts;
    summary.simulated_acceptance =
        std::max(summary.simulated_acceptance, record.simulated_acceptance);
    summary.num_good += slo.is_met_by(record);
    ttft.push_back(record.ttft_ms());
    e2e.push_back(record.e2e_ms());
    lag.push_back(record.lag_ms());
    if (record.has_tpot()) tpot.push_back(record.tpot_ms());
    for (const int32_t gap_us : record.gaps_us) itl.push_back(gap_us * 1e-3);
  }
  if (summary.seconds > 0) summary.mean_concurrency = busy_s / summary.seconds;
  summary.ttft = distribution(std::move(ttft));
  summary.tpot = distribution(std::move(tpot));
  summary.itl = distribution(std::move(itl));
  summary.e2e = distribution(std::move(e2e));
  summary.lag = distribution(std::move(lag));
  return summary;
}

Timeline timeline(const std::vector<RequestRecord>& records, int num_slices) {
  CHECK(num_slices > 0, num_slices);
  const double slice_us =
      std::max(1.0, static_cast<double>(end_us(records)) / static_cast<double>(num_slices));
  Timeline result;
  result.slice_s = slice_us * 1e-6;
  result.concurrency.resize(num_slices);
  result.output_tokens_per_s.resize(num_slices);
  const auto slice_of = [&](int64_t time_us) {
    return std::clamp(static_cast<int>(static_cast<double>(time_us) / slice_us), 0, num_slices - 1);
  };
  for (const RequestRecord& record : records) {
    const auto begin = static_cast<double>(record.sent_us);
    const auto end = static_cast<double>(record.done_us);
    for (int i = slice_of(record.sent_us); i <= slice_of(record.done_us); ++i) {
      const double inside = std::min(end, slice_us * (i + 1)) - std::max(begin, slice_us * i);
      result.concurrency[i] += std::max(0.0, inside) / slice_us;
    }
    if (!record.ok()) continue;
    const double tokens_a_second = static_cast<double>(record.num_output_tokens) /
                                   static_cast<double>(record.num_chunks()) / result.slice_s;
    int64_t time_us = record.first_us;
    result.output_tokens_per_s[slice_of(time_us)] += tokens_a_second;
    for (const int32_t gap_us : record.gaps_us) {
      time_us += gap_us;
      result.output_tokens_per_s[slice_of(time_us)] += tokens_a_second;
    }
  }
  return result;
}

}  // namespace deepflight
