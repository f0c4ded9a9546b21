// StepPlan: everything one rank does in one step, as plain data; StepResult: what came of it.
// The scheduler makes plans, the executor runs them and decides nothing. Plan n+1 may be made and
// launched before result n is read, so a plan never names a token that step n will produce: the
// last tokens, lengths and draft tokens of running rows live in the executor's slots. The one thing
// that does depend on it is a token mask: a row with one is planned only when its last token is
// known (and its mask with it), while the rows beside it go on one step ahead.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/kvcache/page.h"
#include "runtime/request/sampling_params.h"

namespace deepflight {

using SlotId = int32_t;  // a running sequence's row in the executor's state arrays

// A bit a token id: 1 if it may be sampled.
using SharedTokenMask = std::shared_ptr<const std::vector<uint32_t>>;

// When a slot's token mask counts.
struct MaskStart {
  enum class Kind : uint8_t { kNever, kNow, kAfterToken };
  Kind kind = Kind::kNever;
  int32_t token = 0;       // with kAfterToken: from the token on that follows it
  bool bans_ends = false;  // with kAfterToken: no end of sequence before it
};

// Delta: slot starts a sequence (new, or again after preemption). Applied before any work.
struct SlotAdmission {
  SlotId slot = 0;
  std::shared_ptr<const SamplingParams> sampling;
  uint64_t rng_seed = 0;          // the seed of this choice, resolved by the engine
  std::vector<int32_t> tokens;    // prompt, then output tokens sampled before a preemption
  int32_t prompt_len = 0;         // how many of `tokens` are the prompt
  int32_t num_cached_tokens = 0;  // leading tokens whose KV is already in the granted pages
  MaskStart mask_start;           // its mask is among the plan's, if it has one
};

// Delta: the tokens that a slot's next sample may give. Applied after the admissions.
struct TokenMaskUpdate {
  SlotId slot = 0;
  MaskStart start;
  SharedTokenMask mask;
};

// Delta: pages for a slot's page table row, from index first_page_idx on. Applied before any work.
struct PageGrant {
  SlotId slot = 0;
  int32_t first_page_idx = 0;
  std::vector<PageId> pages;
};

// A slot that feeds its last token (and its drafts) and samples; 1 + draft_len query tokens.
struct DecodeRow {
  SlotId slot = 0;
};

// How a chunk's tokens attend. A token takes the same road whenever it is computed, so that output
// bits depend on neither chunking nor preemption.
enum class ChunkKind : uint8_t {
  kPrompt,  // prompt tokens: expanded (192/128 heads) attention
  kReplay,  // output tokens computed again after a preemption: absorbed attention, as in decode
};

// A run of a slot's known tokens [start, start + length), KV of everything before it present.
struct PrefillChunk {
  SlotId slot = 0;
  ChunkKind kind = ChunkKind::kPrompt;
  int32_t start = 0;
  int32_t length = 0;
  bool samples = false;  // the chunk ends with the last known token: sample the next one
};

struct StepPlan {
  uint64_t step_id = 0;
  // Deltas, applied in this order. A slot or page given here is named by no step in flight. After a
  // failed step retirements are told again: retiring an empty slot does nothing, and an admission
  // starts its slot afresh whatever it held.
  std::vector<SlotId> retired_slots;
  std::vector<SlotAdmission> admissions;
  std::vector<PageGrant> page_grants;
  std::vector<TokenMaskUpdate> mask_updates;
  // Work.
  std::vector<DecodeRow> decode_rows;
  std::vector<PrefillChunk> prefill_chunks;
  int32_t draft_len = 0;               // draft tokens verified per decode row (MTP)
  int32_t next_draft_len = 0;          // draft tokens made for the next step
  int32_t padded_num_decode_rows = 0;  // the decode graph's batch size, >= decode_rows.size()

  bool has_work() const { return !decode_rows.empty() || !prefill_chunks.empty(); }
};

struct TokenLogprobs {
  float logprob = 0.0f;  // of the sampled token, natural logarithm, before temperature
  std::vector<std::pair<int32_t, float>> top;  // most likely first
};

// One decode row's or sampling chunk's outcome, in plan order: decode rows, then sampling chunks.
struct RowResult {
  SlotId slot = 0;
  std::vector<int32_t> tokens;          // accepted: a decode row 1 to draft_len + 1, a chunk 1
  std::vector<TokenLogprobs> logprobs;  // one a token where the slot asked for them, else empty
  int32_t num_drafts = 0;               // of a decode row: drafts that were verified
};

struct StepResult {
  uint64_t step_id = 0;
  std::vector<RowResult> rows;
  int64_t duration_us = 0;
};

}  // namespace deepflight
