// A slot's sampling settings and the delta that admits a sequence to a slot, as they lie in device
// memory. Plain data, so that device code can include it.
#pragma once

#include <cstdint>

namespace deepflight {

// Of SlotSampling::mask: the slot's row of StepState::token_masks counts not at all, at once, or
// once the slot's last token is a given one. So a mask that begins behind a token is in force in
// the step after it, though the host hears of the token only later.
inline constexpr int32_t kMaskOff = 0;
inline constexpr int32_t kMaskOn = -1;
constexpr int32_t mask_after(int32_t token) { return token + 1; }
constexpr bool mask_is_on(int32_t mask, int32_t last_token) {
  return mask == kMaskOn || (mask != kMaskOff && mask == mask_after(last_token));
}

// The sampling settings of one slot, in device memory.
struct SlotSampling {
  float temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t top_k;         // 0: off
  int32_t num_logprobs;  // -1: none
  int32_t num_biases;    // entries of the slot's row in bias_ids and bias_values
  int32_t num_banned;    // entries of banned_ids that may not come before min_tokens
  int32_t min_tokens;
  int32_t mask;  // kMaskOff, kMaskOn or mask_after(token); lifts the ban while it is on
  uint64_t seed;

  // Drafts. max_drafts 0: none are made for the slot.
  int32_t max_drafts;
  // Relaxed acceptance, between the two tokens (-1: no such token): a draft is taken as the sampled
  // token if it is among the relaxed_topn most likely ones (0: strict) with a probability of at
  // least the best one's minus relaxed_delta.
  int32_t relaxed_topn;
  float relaxed_delta;
  int32_t think_start;
  int32_t think_end;
  // Negative: off. Else drafts are accepted with this probability whatever the model says, to
  // measure speed with weights that mean nothing.
  float simulated_acceptance;
};

// A sequence takes a slot: the slot's rows are reset to what its known tokens say, but for its
// token mask.
struct SlotDelta {
  int32_t slot;
  int32_t kv_len;       // leading tokens whose KV is in pages already
  int32_t num_outputs;  // known tokens beyond the prompt (replayed after a preemption)
  // Known tokens, [first_token, first_token + num_tokens) of StepDeltas::tokens: the first
  // num_prompt_tokens mark prompt_seen, the others count in output_counts. Sent only where a
  // penalty needs them (num_tokens = 0 otherwise).
  int32_t first_token;
  int32_t num_tokens;
  int32_t num_prompt_tokens;
  int32_t first_bias;    // of sampling.num_biases in bias_ids and bias_values
  int32_t first_banned;  // of sampling.num_banned in banned_ids
  int32_t thinking;      // whether the known tokens end inside <think>
  SlotSampling sampling;
};

}  // namespace deepflight
