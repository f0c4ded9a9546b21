// What goes into the scheduler and what comes out: one sequence (one choice of one request), and
// its news after each step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grammar/constraint.h"
#include "runtime/kvcache/page_pool.h"
#include "runtime/request/sampling_params.h"
#include "runtime/request/step_plan.h"

namespace deepflight {

struct SequenceRequest {
  uint64_t sequence_id = 0;  // the caller's; never used twice
  std::vector<int32_t> prompt;
  std::shared_ptr<const SamplingParams> sampling;
  uint64_t rng_seed = 0;
  std::vector<int32_t> eos_token_ids;
  OutputConstraint constraint;  // what the output must look like, if anything
  std::string cache_salt;       // sequences share KV pages only under the same salt
  int64_t arrival_us = 0;
  int32_t priority = 0;                      // higher goes earlier; see WaitingQueue
  Retention retention = Retention::kNormal;  // of the pages it leaves in the prefix cache
};

// Why a sequence ended of itself.
enum class StopCause : uint8_t {
  kEndOfSequence,  // an end-of-sequence token
  kStopToken,      // one of stop_token_ids
  kMaxTokens,      // max_tokens of output
  kMaxModelLen,    // the model's context is full
  kStepFailed,     // a step that computed it failed, or gave a token that its mask forbids
};

// New output of one sequence. The last update of a sequence has a stop_cause.
struct SequenceUpdate {
  uint64_t sequence_id = 0;
  std::vector<int32_t> tokens;          // accepted; the end-of-sequence token among them
  std::vector<TokenLogprobs> logprobs;  // one a token where asked for, else empty
  std::optional<StopCause> stop_cause;
  // Of the step: drafts verified for the sequence, and how many of them were accepted (the ones
  // past the sequence's end included).
  int32_t num_drafts = 0;
  int32_t num_accepted_drafts = 0;
  int32_t num_cached_tokens = 0;  // prompt tokens found in the prefix cache when it first started
  int64_t queued_us = 0;          // from its arrival to its first step
};

}  // namespace deepflight
