// From the flags of `bench serve` to what a load is made of (internal to the folder).
#pragma once

#include "apps/bench_serve/bench_serve.h"
#include "apps/bench_serve/load_requests.h"
#include "apps/bench_serve/load_schedule.h"

namespace deepflight {

// Refuses flags that do not fit together, and fills in what was left to us.
Status check_bench_serve_options(BenchServeOptions* options);

// Of checked options.
Result<LoadRequestsConfig> requests_config(const BenchServeOptions& options);
LoadPlan load_plan(const BenchServeOptions& options, double rate);
nlohmann::json config_json(const BenchServeOptions& options);  // never the API key

}  // namespace deepflight
