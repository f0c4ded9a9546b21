// One load from its first request to its last answer: open loop (requests come when they come) or
// closed loop (as many in flight as allowed).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/bench_serve/interrupt.h"
#include "apps/bench_serve/load_client.h"
#include "apps/bench_serve/load_requests.h"
#include "apps/bench_serve/load_schedule.h"
#include "apps/bench_serve/request_record.h"

namespace deepflight {

struct LoadRun {
  LoadPlan plan;
  uint64_t stream = 0;  // of prompts
  std::string title;    // of the progress bar
  bool show_progress = true;
  // Called for each record as its request ends, one at a time; false ends the run. May be empty.
  std::function<bool(const RequestRecord& record)> on_record;
};

// Returns every request that was sent, in the order in which they ended. Those that were in flight
// when the run was ended early come as interrupted. Requests of a run with a duration that are in
// flight at its end are waited for.
std::vector<RequestRecord> run_load(LoadClient& client, const LoadRequests& requests,
                                    const LoadRun& run, const Interrupt& interrupt);

}  // namespace deepflight
