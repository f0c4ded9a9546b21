// /metrics in Prometheus' text format: what the engine runs, waits for and holds.
#pragma once

#include <string>

#include "runtime/engine/inference_service.h"

namespace deepflight {

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// `http_requests`: generation requests that the server has accepted and not yet answered.
std::string metrics_text(const ServiceStats& stats, int64_t http_requests);

}  // namespace deepflight
