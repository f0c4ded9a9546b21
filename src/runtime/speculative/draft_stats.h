// What became of drafts, summed over sequences and steps.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/speculative/speculative_config.h"

namespace deepflight {

struct DraftStats {
  int64_t num_rows = 0;          // decode rows with drafts to verify
  int64_t num_draft_tokens = 0;  // verified
  int64_t num_accepted = 0;
  std::array<int64_t, kMaxDraftLen> num_accepted_at{};  // by place: all before it were, too

  void add(int32_t num_drafts, int32_t num_accepted_drafts) {
    if (num_drafts == 0) return;
    ++num_rows;
    num_draft_tokens += num_drafts;
    num_accepted += num_accepted_drafts;
    for (int32_t i = 0; i < num_accepted_drafts; ++i) ++num_accepted_at[i];
  }
  void add(const DraftStats& other) {
    num_rows += other.num_rows;
    num_draft_tokens += other.num_draft_tokens;
    num_accepted += other.num_accepted;
    for (size_t i = 0; i < num_accepted_at.size(); ++i) {
      num_accepted_at[i] += other.num_accepted_at[i];
    }
  }
  // Tokens that a row gives a step, on average.
  double tokens_per_row() const {
    return num_rows > 0 ? 1.0 + static_cast<double>(num_accepted) / static_cast<double>(num_rows)
                        : 1.0;
  }
};

}  // namespace deepflight
