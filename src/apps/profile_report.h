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

// Time in which at least one kernel ran, and the time from the first one's begin to the last one's
// end. Kernels in order of begin_us.
struct BusyTime {
  double busy_us = 0;
  double span_us = 0;
};
BusyTime busy_time(const std::vector<ProfiledKernel>& kernels);

struct StepProfile {
  std::string title;  // "decode B=64 context=4096"
  StepShape shape;
  double step_us = 0;  // wall time from one launch to the next, in steady state
  // Share of a step in which kernels ran: their time under a timeline over step_us, which is of
  // steps without one, since a timeline makes the launch of a graph slow. And all under a timeline.
  double busy = 0;
  double busy_traced = 0;
  double graph_launches = 0;  // in a step: 1 where it is one captured graph, 0 op by op
  double host_us = 0;         // the rank thread's time per step
  double floor_us = 0;        // sum of the costs' floors
  std::vector<ProfileRow> rows;
};

std::string profile_table(const StepProfile& profile);
nlohmann::json profile_json(const StepProfile& profile);
// Trace Event Format, which Perfetto opens: one track a stream.
nlohmann::json perfetto_trace(const std::vector<ProfiledKernel>& kernels);

}  // namespace deepflight
