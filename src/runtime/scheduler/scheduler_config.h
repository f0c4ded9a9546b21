// The scheduler's limits and policies. All of them are fixed when the engine starts.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "runtime/kvcache/page.h"
#include "runtime/speculative/draft_policy.h"

namespace deepflight {

struct SchedulerConfig {
  int32_t max_num_slots = 64;  // sequences that run at once
  int32_t num_pages = 0;       // the KV pool
  int32_t max_model_len = 0;   // prompt and output tokens of one sequence together

  // Query tokens of one step. Decode rows (1 + draft_len tokens each) come first; prefill chunks
  // share the rest. Must hold a decode row of every slot, so that prefill always moves on.
  int32_t max_batched_tokens = 2048;
  // Longest chunk of one sequence in a step. Below max_batched_tokens, it leaves a long prompt's
  // followers their share.
  int32_t max_chunk_tokens = 2048;
  int32_t draft_len = 0;            // draft tokens verified per decode row (MTP), at most
  DraftPolicyConfig draft_policy;   // when drafts are made
  int32_t max_steps_in_flight = 2;  // 2: plan n+1 while step n runs; 1: read each result first

  bool enable_prefix_cache = true;
  // Prompt pages serve only prompts, and output pages only the same outputs computed again, because
  // the two are computed along different roads (ChunkKind) whose bits differ. Off: a next turn also
  // finds the pages that its previous answers left, at the price of bits that depend on history.
  bool exact_prefix_reuse = true;

  // Share of the pool that must stay available after a sequence is taken in (unless nothing runs),
  // so that the running ones can grow for a while before any is preempted.
  double watermark = 0.01;

  // Order of the waiting queue (see WaitingQueue): a prompt token to compute counts as much as this
  // time of arrival, so that among those that arrived together the shortest goes first ...
  int64_t ageing_us_per_token = 100;
  // ... but nobody is ever overtaken by one that arrived later than this after it.
  int64_t max_overtake_us = 1'000'000;
  // One unit of priority counts as much as having arrived so much earlier.
  int64_t priority_us = 1'000'000;

  // Batch sizes for which a decode graph exists, ascending. Empty: any size, no padding.
  std::vector<int32_t> decode_batch_sizes;

  // Error: kInvalidArgument naming the field.
  Status validate() const;

  // Tokens past the last one fed to which a row's drafts may write: it feeds draft_len drafts, and
  // those for the next step lie as far behind them.
  int32_t draft_reach() const { return 2 * draft_len; }
  // Tokens past its greatest length to which a sequence may write: drafts, of a row that has
  // reached that length in a step that is not yet read.
  int32_t max_overshoot() const { return (max_steps_in_flight + 1) * draft_len; }
  // The most page table entries a slot can be granted.
  int32_t max_pages_per_slot() const { return pages_for(max_model_len + max_overshoot()); }
  int32_t watermark_pages() const;
  int32_t padded_decode_rows(int32_t num_rows) const;
};

}  // namespace deepflight
