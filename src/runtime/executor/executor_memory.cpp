// The sum of the plan, and the words for a plan that does not fit.
#include "runtime/executor/executor_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/kvcache/page.h"

namespace deepflight {

int64_t fit_pages(const ExecutorMemory& memory, int64_t available_bytes, int64_t min_pages) {
  const int64_t needed_bytes = min_pages * memory.page_bytes;
  if (available_bytes >= needed_bytes) return available_bytes / memory.page_bytes;
  throw ExecutorMemoryError(fmt::format(
      "device memory: {} bytes are missing for {} KV pages of {} tokens, {} bytes, the least that "
      "works (--max-model-len); weights take {} bytes, sequences' state {} (--max-num-seqs), a "
      "step's buffers {} (--max-num-batched-tokens), decode graphs {}: lower one of these flags or "
      "raise --gpu-memory-fraction",
      needed_bytes - available_bytes, min_pages, kPageTokens, needed_bytes, memory.weights_bytes,
      memory.state_bytes, memory.workspace_bytes + memory.scratch_bytes, memory.graph_bytes));
}

}  // namespace deepflight
