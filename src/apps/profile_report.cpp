// Sums and tables.
#include "apps/profile_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace deepflight {

std::vector<ProfileRow> profile_rows(const std::vector<ProfiledKernel>& kernels, int num_steps,
                                     const std::vector<OpCost>& costs, const MachineRates& rates) {
  CHECK(num_steps > 0, num_steps);
  std::map<std::string, ProfileRow> by_label;
  std::map<uint32_t, double> done_us;  // of each stream's kernels so far
  double total_us = 0;
  for (const auto& kernel : kernels) {
    double& front_done_us = done_us.try_emplace(kernel.stream_id, kernel.begin_us).first->second;
    const double us =
        std::max(0.0, kernel.end_us - std::max(kernel.begin_us, front_done_us)) / num_steps;
    front_done_us = std::max(front_done_us, kernel.end_us);
    ProfileRow& row = by_label[kernel.label.empty() ? "other" : kernel.label];
    row.us += us;
    row.num_kernels += 1.0 / num_steps;
    total_us += us;
  }
  for (const auto& cost : costs) {
    const auto row = by_label.find(cost.label);
    if (row == by_label.end()) continue;
    row->second.flops = cost.flops;
    row->second.bytes = cost.bytes;
    row->second.floor_us = floor_us(cost, rates);
  }
  std::vector<ProfileRow> rows;
  for (auto& [label, row] : by_label) {
    row.label = label;
    row.share = total_us > 0 ? row.us / total_us : 0;
    row.floor_share = row.us > 0 ? row.floor_us / row.us : 0;
    rows.push_back(std::move(row));
  }
  std::ranges::stable_sort(rows, std::ranges::greater(), &ProfileRow::us);
  return rows;
}

BusyTime busy_time(const std::vector<ProfiledKernel>& kernels) {
  BusyTime time;
  if (kernels.empty()) return time;
  double covered_until = kernels.front().begin_us;
  for (const auto& kernel : kernels) {
    time.busy_us += std::max(0.0, kernel.end_us - std::max(kernel.begin_us, covered_until));
    covered_until = std::max(covered_until, kernel.end_us);
  }
  time.span_us = covered_until - kernels.front().begin_us;
  return time;
}

std::string profile_table(const StepProfile& profile) {
  std::string text =
      fmt::format("{}: step {:.1f} us, host {:.1f} us ({:.1f} % of the step)", profile.title,
                  profile.step_us, profile.host_us, 100 * profile.host_us / profile.step_us);
  if (profile.rows.empty()) return text + "\n";
  text += fmt::format(", GPU busy {:.1f} % (traced {:.1f} %), floor {:.1f} us ({:.2f}x)\n",
                      100 * profile.busy, 100 * profile.busy_traced, profile.floor_us,
                      profile.step_us / profile.floor_us);
  text += fmt::format("| {:<34} | {:>9} | {:>6} | {:>7} | {:>9} | {:>9} | {:>9} | {:>7} |\n", "op",
                      "us", "share", "kernels", "GFLOP", "MB", "floor us", "floor %");
  text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const auto& row : profile.rows) {
    const std::string floor = row.floor_us > 0 ? fmt::format("{:.1f}", row.floor_us) : "";
    const std::string share = row.floor_us > 0 ? fmt::format("{:.1f}", 100 * row.floor_share) : "";
    text += fmt::format(
        "| {:<34} | {:>9.1f} | {:>5.1f}% | {:>7.1f} | {:>9.2f} | {:>9.2f} | {:>9} | {:>7} |\n",
        row.label, row.us, 100 * row.share, row.num_kernels, row.flops * 1e-9, row.bytes * 1e-6,
        floor, share);
  }
  return text;
}

nlohmann::json profile_json(const StepProfile& profile) {
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& row : profile.rows) {
    rows.push_back({{"op", row.label},
                    {"us", row.us},
                    {"share", row.share},
                    {"num_kernels", row.num_kernels},
                    {"flops", row.flops},
                    {"bytes", row.bytes},
                    {"floor_us", row.floor_us},
                    {"floor_share", row.floor_share}});
  }
  return {{"title", profile.title},
          {"decode_rows", profile.shape.decode_rows},
          {"decode_context", profile.shape.decode_context},
          {"prefill_tokens", profile.shape.prefill_tokens},
          {"prefill_prefix", profile.shape.prefill_prefix},
          {"step_us", profile.step_us},
          {"gpu_busy", profile.busy},
          {"gpu_busy_traced", profile.busy_traced},
          {"graph_launches", profile.graph_launches},
          {"host_us", profile.host_us},
          {"floor_us", profile.floor_us},
          {"ops", std::move(rows)}};
}

nlohmann::json perfetto_trace(const std::vector<ProfiledKernel>& kernels) {
  nlohmann::json events = nlohmann::json::array();
  for (const auto& kernel : kernels) {
    events.push_back({{"name", kernel.label.empty() ? kernel.name : kernel.label},
                      {"cat", "gpu"},
                      {"ph", "X"},
                      {"ts", kernel.begin_us},
                      {"dur", kernel.end_us - kernel.begin_us},
                      {"pid", 1},
                      {"tid", kernel.stream_id},
                      {"args", {{"kernel", kernel.name}}}});
  }
  return {{"displayTimeUnit", "ns"}, {"traceEvents", std::move(events)}};
}

}  // namespace deepflight
