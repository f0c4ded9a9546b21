// The bytes of a rank's device, by use, as the executor carved them at its start: printed, in the
// metrics, and the source of the number of KV pages. Given a limit, the pool takes what the rest
// leaves; if that is less than one sequence needs, the start fails with a line that says what to
// lower.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "model/deepseek/config.h"
#include "runtime/executor/step_buffers.h"

namespace deepflight {

struct ExecutorMemory {
  int64_t weights_bytes = 0;    // as the caller says
  int64_t state_bytes = 0;      // by slot: lengths, page tables, sampling
  int64_t workspace_bytes = 0;  // activations and inputs of a step
  int64_t scratch_bytes = 0;    // of the backend's ops, measured over the largest steps
  int64_t graph_bytes = 0;      // decode graphs, measured
  int64_t page_bytes = 0;
  int64_t num_pages = 0;

  int64_t kv_pool_bytes() const { return num_pages * page_bytes; }
  int64_t fixed_bytes() const {
    return weights_bytes + state_bytes + workspace_bytes + scratch_bytes + graph_bytes;
  }
  int64_t total_bytes() const { return fixed_bytes() + kv_pool_bytes(); }
};

// The memory does not suffice; what() is for the user.
class ExecutorMemoryError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Pages that fit in available_bytes. Throws ExecutorMemoryError if they are fewer than min_pages:
// `memory` says what has taken the rest.
int64_t fit_pages(const ExecutorMemory& memory, int64_t available_bytes, int64_t min_pages);

}  // namespace deepflight
