// DraftPolicy: whether a step makes drafts. They pay while a step is bound by reading weights and
// KV, for then 1 + N tokens a sequence cost little more than one; in a batch so large that the
// products are bound by arithmetic, they pay only if most are accepted. The rule, from two numbers
// that an operator measures (docs/operations.md):
//
//     at most max_rows decode rows: always
//     more: only while drafts give at least min_tokens tokens per row and step
//
// While they are off nothing is learnt about them, so after kProbeEvery such steps what is known is
// forgotten, and they come back until as many as kMinRows rows have told how good they are. Pure;
// the scheduler owns one.
#pragma once

#include <cstdint>

namespace deepflight {

struct DraftPolicyConfig {
  int32_t max_rows = 0;     // 0: drafts are always made
  double min_tokens = 1.0;  // per row and step, accepted drafts included
};

class DraftPolicy {
 public:
  static constexpr int32_t kProbeEvery = 256;
  static constexpr int32_t kMinRows = 64;

  DraftPolicy(const DraftPolicyConfig& config, int32_t draft_len)
      : config_(config), draft_len_(draft_len) {}

  // For a step of so many decode rows: drafts to make for each. Called once a step.
  int32_t choose(int32_t num_rows) {
    if (config_.max_rows == 0 || num_rows <= config_.max_rows) return draft_len_;
    if (tokens_per_row() < config_.min_tokens && ++num_off_ <= kProbeEvery) return 0;
    if (num_off_ > kProbeEvery) num_rows_ = num_accepted_ = 0.0;
    num_off_ = 0;
    return draft_len_;
  }

  // A decode row's drafts have been verified.
  void note(int32_t num_drafts, int32_t num_accepted) {
    if (num_drafts == 0) return;
    num_rows_ = kMemory * num_rows_ + 1.0;
    num_accepted_ = kMemory * num_accepted_ + num_accepted;
  }

  // Lately; before enough is known, as if all were accepted.
  double tokens_per_row() const {
    return 1.0 + (num_rows_ >= kMinRows ? num_accepted_ / num_rows_ : draft_len_);
  }

 private:
  static constexpr double kMemory = 1.0 - 1.0 / 2048;  // rows

  const DraftPolicyConfig config_;
  const int32_t draft_len_;
  double num_rows_ = 0.0;  // with those long ago fading
  double num_accepted_ = 0.0;
  int32_t num_off_ = 0;
};

}  // namespace deepflight
