// One line of help, one of type and one of value for each number.
#include "server/metrics_text.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>

namespace deepflight {

std::string metrics_text(const ServiceStats& stats, int64_t http_requests) {
  std::string text;
  const auto add = [&text](std::string_view name, std::string_view type, std::string_view help,
                           int64_t value) {
    fmt::format_to(std::back_inserter(text),
                   "# HELP deepflight:{0} {1}\n# TYPE deepflight:{0} {2}\ndeepflight:{0} {3}\n",
                   name, help, type, value);
  };
  add("num_requests_in_flight", "gauge", "Requests accepted and not yet answered.", http_requests);
  add("num_requests_running", "gauge", "Sequences that have a slot.", stats.num_running);
  add("num_requests_waiting", "gauge", "Sequences that wait for a slot.", stats.num_waiting);
  add("kv_pages", "gauge", "Pages of the KV cache.", stats.num_pages);
  add("kv_pages_used", "gauge", "KV pages that running sequences hold.",
      stats.num_pages - stats.num_free_pages);
  add("kv_pages_cached", "gauge", "KV pages that nothing holds, kept as prefix cache.",
      stats.num_cached_pages);
  add("num_preemptions_total", "counter", "Sequences put back for want of KV pages.",
      stats.num_preemptions);
  add("prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.",
      stats.prefix_query_tokens);
  add("prefix_cache_hits_total", "counter", "Prompt tokens that the prefix cache had.",
      stats.prefix_hit_tokens);
  text +=
      "# HELP deepflight:device_memory_bytes The device's memory by use, as planned at start.\n"
      "# TYPE deepflight:device_memory_bytes gauge\n";
  const DeviceMemory& memory = stats.memory;
  for (const auto& [use, bytes] :
       {std::pair("weights", memory.weights_bytes), std::pair("state", memory.state_bytes),
        std::pair("workspace", memory.workspace_bytes), std::pair("scratch", memory.scratch_bytes),
        std::pair("graphs", memory.graph_bytes), std::pair("kv_cache", memory.kv_pool_bytes)}) {
    fmt::format_to(std::back_inserter(text), "deepflight:device_memory_bytes{{use=\"{}\"}} {}\n",
                   use, bytes);
  }
  add("steps_total", "counter", "Steps issued to the device.", stats.num_steps);
  add("graph_steps_total", "counter", "Of these, captured decode steps.", stats.num_graph_steps);
  add("step_issue_us_total", "counter", "Host time that putting steps on the device took.",
      stats.issue_us_total);
  add("step_wait_us_total", "counter", "Host time spent waiting for results.", stats.wait_us_total);
  return text;
}

}  // namespace deepflight
