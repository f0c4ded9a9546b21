// For tests of the executor: plans made by hand.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "runtime/request/step_plan.h"

namespace deepflight {

using Tokens = std::vector<int32_t>;

inline Tokens numbered_prompt(int length, int content) {
  Tokens tokens(length);
  for (int i = 0; i < length; ++i) tokens[i] = 2 + (i * 7 + content * 31 + i * i % 11) % 94;
  return tokens;
}

inline std::shared_ptr<SamplingParams> greedy() {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->temperature = 0.0f;
  return sampling;
}

// A plan in the making, with what every test does again and again.
struct TestPlan : StepPlan {
  TestPlan() { step_id = ++last_id; }
  TestPlan&& admit(SlotId slot, const Tokens& tokens, std::vector<PageId> pages,
                   std::shared_ptr<const SamplingParams> sampling = greedy(), int prompt_len = -1,
                   int num_cached = 0) && {
    if (prompt_len < 0) prompt_len = static_cast<int>(tokens.size());
    admissions.push_back({slot, std::move(sampling), 99, tokens, prompt_len, num_cached});
    page_grants.push_back({slot, 0, std::move(pages)});
    return std::move(*this);
  }
  TestPlan&& grant(SlotId slot, int first, std::vector<PageId> pages) && {
    page_grants.push_back({slot, first, std::move(pages)});
    return std::move(*this);
  }
  TestPlan&& prefill(SlotId slot, int start, int length, bool samples = true,
                     ChunkKind kind = ChunkKind::kPrompt) && {
    prefill_chunks.push_back({slot, kind, start, length, samples});
    return std::move(*this);
  }
  TestPlan&& replay(SlotId slot, int start, int length, bool samples = true) && {
    return std::move(*this).prefill(slot, start, length, samples, ChunkKind::kReplay);
  }
  TestPlan&& decode(SlotId slot) && {
    decode_rows.push_back({slot});
    return std::move(*this);
  }
  // Runs as the captured step of so many rows.
  TestPlan&& padded(int num_rows) && {
    padded_num_decode_rows = num_rows;
    return std::move(*this);
  }
  TestPlan&& retire(SlotId slot) && {
    retired_slots.push_back(slot);
    return std::move(*this);
  }
  static inline uint64_t last_id = 0;
};

}  // namespace deepflight
