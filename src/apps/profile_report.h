// From the kernels of a step to the profile's table: by op, time, share, and share of the floor.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/deepseek/step_costs.h"

namespace deepflight {

struct ProfiledKernel {
  std::string label;  // "section/op"; empty: issued outside every op
  std::string name;
  double begin_us = 0;
  double end_us = 0;
  uint32_t stream_id = 0;
  uint64_t graph_launch = 0;  // replay of a graph that it is part of, or is; 0: none
};

struct ProfileRow {
  std::string label;
  double us = 0;     // kernel time in a step
  double share = 0;  // of all rows' time
  double num_kernels = 0;
  double flops = 0;
  double bytes = 0;
  double floor_us = 0;     // 0: the cost model does not know the op
  double floor_share = 0;  // floor_us / us
};

// Sums the kernels by label over num_steps equal steps; the rows of the largest time first.
// Kernels without a label come as "other". A kernel that was launched while the one in front of it
// in its stream still ran counts from when that one was done: before, it could only wait.
std::vector<ProfileRow> profile_rows(const std::vector<ProfiledKernel>& kernels, int num_steps,
                                     const std::vector<OpCost>& costs, const MachineRates& rates);

// Time in which at least one kernel ran, over the time from the first one's begin to the last one's
// end. Kernels in order of begin_us.
double busy_share(const std::vector<ProfiledKernel>& kernels);

// The same where steps are replays of graphs. `replays` has each replay as one activity: the time
// between them is true there. `kernels`, of another recording, tells the share of a replay in which
// kernels ran. Without replays it is busy_share.
double busy_share_of_replays(const std::vector<ProfiledKernel>& replays,
                             const std::vector<ProfiledKernel>& kernels);

struct StepProfile {
  std::string title;  // "decode B=64 context=4096"
  StepShape shape;
  double step_us = 0;   // wall time from one launch to the next, in steady state
  double busy = 0;      // busy_share of those steps
  double host_us = 0;   // the rank thread's time per step
  double floor_us = 0;  // sum of the costs' floors
  std::vector<ProfileRow> rows;
};

std::string profile_table(const StepProfile& profile);
nlohmann::json profile_json(const StepProfile& profile);
// Trace Event Format, which Perfetto opens: one track a stream.
nlohmann::json perfetto_trace(const std::vector<ProfiledKernel>& kernels);

}  // namespace deepflight
