// A plan's admissions and page grants on their way to the device: cut into rounds that fit the
// staging block (nearly always one), each of which is one copy and one op. Ranges have been checked
// before: nothing here refuses a plan.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/ops/step_state.h"
#include "runtime/request/step_plan.h"
#include "runtime/speculative/speculative_config.h"
#include "tensor/carver.h"

namespace deepflight {

// Ids that may be banned before min_tokens: stop tokens and the model's end-of-sequence ids.
inline constexpr int64_t kMaxBannedIds = kMaxStopTokenIds + 16;

// An admission, with what its flat arrays will hold. Views of the plan and of the slot's tokens.
struct PendingAdmission {
  SlotDelta delta{};                // offsets not yet known
  std::span<const int32_t> tokens;  // the known tokens that a penalty needs
  std::span<const std::pair<int32_t, float>> biases;
  std::vector<int32_t> banned_ids;
};

// `tokens`: the admission's own, wherever they are kept now.
PendingAdmission make_admission(const SlotAdmission& admission, std::span<const int32_t> tokens,
                                std::span<const int32_t> eos_token_ids,
                                const SpeculativeConfig& speculative);

// SlotSampling::mask.
int32_t mask_mode(const MaskStart& start);

class DeltaRounds {
 public:
  // Bytes that a block must have to hold any one admission, or any one mask.
  static int64_t min_block_bytes(int64_t max_tokens_per_slot, int64_t mask_words);

  DeltaRounds(int64_t block_bytes, int64_t mask_words)
      : block_bytes_(block_bytes), mask_words_(mask_words) {}

  // Empties the list for the next plan.
  void clear();
  void add(PendingAdmission admission) { admissions_.push_back(std::move(admission)); }
  // The grant's pages must stay in place.
  void add(const PageGrant& grant);
  void add(const TokenMaskUpdate& mask) { masks_.push_back(mask); }

  bool done() const {
    return next_admission_ == admissions_.size() && next_grant_ == grants_.size() &&
           next_mask_ == masks_.size();
  }
  struct Round {
    StepDeltas deltas;  // arrays in `device`
    int64_t size_bytes = 0;
  };
  // Writes the next round to `staging`, laid out as it is to lie in `device`.
  Round next(void* staging, void* device);

 private:
  struct Counts {
    int64_t num_admissions = 0, num_tokens = 0, num_biases = 0, num_banned = 0, num_grants = 0;
    int64_t num_masks = 0;
  };
  struct Grant {
    int32_t slot, page_idx, page;
  };
  struct Arrays;

  static Arrays carve(const Counts& counts, int64_t mask_words, void* memory);
  static int64_t size_bytes(const Counts& counts, int64_t mask_words);
  static Counts plus(Counts counts, const PendingAdmission& admission);
  Counts fitting_counts() const;
  void write_admissions(const Arrays& host, int64_t count);
  void write_grants(const Arrays& host, int64_t count);
  void write_masks(const Arrays& host, int64_t count);

  const int64_t block_bytes_;
  const int64_t mask_words_;
  std::vector<PendingAdmission> admissions_;
  std::vector<Grant> grants_;
  std::vector<TokenMaskUpdate> masks_;
  size_t next_admission_ = 0;
  size_t next_grant_ = 0;
  size_t next_mask_ = 0;
};

}  // namespace deepflight
