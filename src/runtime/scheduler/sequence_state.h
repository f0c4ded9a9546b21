// The scheduler's record of one sequence. Tokens and KV are known up to the last result that was
// read; what steps in flight may add to them is counted in InFlight.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/kvcache/page_hash.h"
#include "runtime/scheduler/sequence.h"

namespace deepflight {

inline constexpr SlotId kNoSlot = -1;
inline constexpr uint64_t kNotStarted = UINT64_MAX;

enum class SequenceStatus : uint8_t {
  kWaiting,     // in the waiting queue; owns nothing
  kRunning,     // owns a slot and pages
  kPreempting,  // will wait again as soon as no step in flight names it
  kFinished,    // will go as soon as no step in flight names it
};

struct SequenceState {
  SequenceRequest request;
  SequenceStatus status = SequenceStatus::kWaiting;

  std::vector<int32_t> tokens;  // prompt, then output
  int32_t prompt_len = 0;
  int32_t max_len = 0;  // tokens.size() at which it ends at the latest

  uint64_t start_order = kNotStarted;  // seniority: lower started earlier; kept over preemptions
  SlotId slot = kNoSlot;
  std::vector<PageId> pages;
  PageChain chain;                  // names of the full pages of `tokens`, as far as needed
  int32_t num_computed = 0;         // leading tokens whose KV completed steps left in `pages`
  int32_t num_published_pages = 0;  // leading pages offered to (or found in) the prefix cache
  int32_t num_announced_pages = 0;  // past the published ones, pages others may wait for

  // Tokens known at admission are computed in chunks; all later ones by decode rows.
  int32_t prefill_end = 0;
  int32_t num_planned = 0;  // of those, tokens whose chunks are planned

  struct InFlight {
    int32_t num_steps = 0;
    int32_t num_samples = 0;     // each adds at least one token
    int32_t max_new_tokens = 0;  // and all together at most so many
  } in_flight;

  // Of a constrained output: where it is, and what its slot has been told.
  std::optional<ConstraintState> constraint;
  SharedTokenMask sent_mask;
  bool sent_mask_is_on = false;

  bool asked_source = false;  // for the pages that it lacked, since it began to wait

  int32_t num_cached_tokens = 0;
  int64_t queued_us = 0;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_output_tokens() const { return num_tokens() - prompt_len; }
  int32_t min_len() const { return num_tokens() + in_flight.num_samples; }
  int32_t max_len_in_flight() const { return num_tokens() + in_flight.max_new_tokens; }
  bool prefilling() const { return num_planned < prefill_end; }
  // A row that is sure to have ended by then is not planned.
  bool can_decode() const { return !prefilling() && min_len() < max_len; }
  // A token that is held to a grammar is sampled when all tokens before it have been read. While
  // the constraint waits for the token that it begins behind, one more may be in flight: the device
  // has the mask of what follows that token.
  bool awaits_token() const {
    return constraint && in_flight.num_samples > (constraint->active() ? 0 : 1);
  }
};

}  // namespace deepflight
