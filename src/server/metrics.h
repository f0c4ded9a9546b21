// /metrics in Prometheus' text format: requests and their latencies under the names that vLLM gives
// them, so that its dashboards work here, and what is ours under "deepflight:".
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <string>

#include "runtime/engine/inference_service.h"

namespace deepflight {

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// Any thread may call any of it.
class ServerMetrics {
 public:
  explicit ServerMetrics(const std::string& model_name);

  // What one choice has had so far; starts as {} and is the caller's to keep.
  struct Choice {
    int64_t num_tokens = 0;
    int64_t first_token_us = 0;  // after the request's arrival, as the two below
    int64_t last_token_us = 0;
    int64_t queued_us = 0;
  };
  // With each event of a choice: latencies of its tokens, and of the choice at its end.
  void take(const GenerationEvent& event, Choice* choice);
  // With each prompt that the engine has accepted.
  void take_prompt(int64_t num_tokens);

  // `num_in_flight`: generation requests that the server has accepted and not yet answered.
  std::string text(const ServiceStats& stats, int64_t num_in_flight) const;

 private:
  prometheus::Registry registry_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& output_tokens_;
  std::array<prometheus::Counter*, 4> finished_;  // by FinishReason
  prometheus::Histogram& first_token_s_;
  prometheus::Histogram& inter_token_s_;
  prometheus::Histogram& per_token_s_;
  prometheus::Histogram& request_s_;
  prometheus::Histogram& queue_s_;
  prometheus::Histogram& prefill_s_;
  prometheus::Histogram& decode_s_;
  prometheus::Histogram& prompt_len_;
  prometheus::Histogram& output_len_;
  const prometheus::Labels labels_;
};

}  // namespace deepflight
