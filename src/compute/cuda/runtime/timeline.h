// Timeline: what the device did and when, from CUPTI's activity records, each kernel and copy with
// the range (section and op) in which the host issued it. CUPTI is loaded when a recording starts:
// a process that never records does not need the library. Ranges of a graph's replay are not
// known: its kernels carry their names only. Tracing a graph's nodes makes its launch slow (2 us a
// node), so that the time between replays is longer than without.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace deepflight {

struct DeviceActivity {
  std::string name;   // of the kernel, demangled, or "memcpy" or "memset"
  std::string range;  // "section/op", empty where none was open
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  uint32_t stream_id = 0;
  bool in_graph = false;
};

class Timeline {
 public:
  // One recording at a time per process. Error: kUnavailable where CUPTI cannot be used.
  static Status start();
  // Ends it; all work must be done (synchronise first). In order of begin_ns.
  static std::vector<DeviceActivity> stop();
  static bool recording();
  // The part of the model that issues from now on, on this thread: "layer 3 attention".
  static void set_section(std::string section);
};

// While it lives, what this thread issues belongs to the op. Costs a load where nothing records.
class TimelineRange {
 public:
  explicit TimelineRange(const char* op);
  // "op NxK": a product with [n, k] weights.
  TimelineRange(const char* op, int64_t n, int64_t k);
  ~TimelineRange();
  TimelineRange(const TimelineRange&) = delete;
  TimelineRange& operator=(const TimelineRange&) = delete;

 private:
  void open(const std::string& op);

  bool open_ = false;
};

}  // namespace deepflight
