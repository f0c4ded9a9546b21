// Carving of the executor's arrays.
#include "runtime/executor/step_buffers.h"

#include "runtime/executor/step_deltas.h"
#include "runtime/request/sampling_params.h"

namespace deepflight {
namespace {

AttentionBatch carve_batch(int64_t num_sequences, Carver& carver) {
  AttentionBatch batch;
  batch.num_sequences = num_sequences;
  batch.query_offsets = carver.take(DType::kI32, {num_sequences + 1});
  batch.kv_lens = carver.take(DType::kI32, {num_sequences});
  batch.slots = carver.take(DType::kI32, {num_sequences});
  return batch;
}

}  // namespace

StepState carve_state(const StepLimits& limits, Carver& carver) {
  const int64_t slots = limits.max_num_slots;
  StepState state;
  state.last_tokens = carver.take(DType::kI32, {slots});
  state.kv_lens = carver.take(DType::kI32, {slots});
  state.num_outputs = carver.take(DType::kI32, {slots});
  state.page_table = carver.take(DType::kI32, {slots, limits.max_pages_per_slot});
  state.output_counts = carver.take(DType::kI32, {slots, limits.vocab_size});
  state.prompt_seen = carver.take(DType::kU8, {slots, limits.vocab_size});
  state.bias_ids = carver.take(DType::kI32, {slots, kMaxLogitBiases});
  state.bias_values = carver.take(DType::kF32, {slots, kMaxLogitBiases});
  state.banned_ids = carver.take(DType::kI32, {slots, kMaxBannedIds});
  state.token_masks = carver.take(DType::kI32, {slots, limits.mask_words()});
  state.sampling = static_cast<SlotSampling*>(
      carver.take_bytes(slots * static_cast<int64_t>(sizeof(SlotSampling))));
  if (limits.states_width == 0) return state;
  state.draft_tokens = carver.take(DType::kI32, {slots, limits.draft_len});
  state.thinking = carver.take(DType::kI32, {slots});
  state.carried_states = carver.take(limits.activation_dtype, {slots, limits.states_width});
  return state;
}

StepInputs carve_inputs(const StepCounts& counts, Carver& carver) {
  StepInputs inputs;
  inputs.num_decode_rows = counts.num_decode_rows;
  inputs.draft_len = counts.draft_len;
  inputs.num_tokens = counts.num_tokens;
  inputs.num_absorbed_tokens = counts.num_absorbed_tokens;
  inputs.num_sampled_rows = counts.num_sampled_rows;
  inputs.sampled_token_idx = carver.take(DType::kI32, {counts.num_sampled_rows});
  inputs.sampled_slots = carver.take(DType::kI32, {counts.num_sampled_rows});
  inputs.absorbed = carve_batch(counts.num_absorbed_sequences, carver);
  inputs.expanded = carve_batch(counts.num_expanded_sequences, carver);
  inputs.replay_query_offsets =
      carver.take(DType::kI32, {counts.num_absorbed_sequences - counts.num_decode_rows + 1});
  inputs.token_slots = carver.take(DType::kI32, {counts.num_tokens});
  inputs.token_ids = carver.take(DType::kI32, {counts.num_tokens});
  inputs.positions = carver.take(DType::kI32, {counts.num_tokens});
  return inputs;
}

DraftInputs carve_drafts(const StepInputs& inputs, const SampledTokens& sampled,
                         int64_t num_extra_rows, Carver& carver) {
  DraftInputs drafts;
  drafts.num_extra = num_extra_rows;
  StepInputs& verified = drafts.verified;
  verified.num_tokens = inputs.num_sampled_rows + num_extra_rows * inputs.num_results();
  verified.token_ids = sampled.tokens;
  verified.token_slots = inputs.sampled_slots;
  verified.positions = carver.take(DType::kI32, {verified.num_tokens});
  if (num_extra_rows > 0) {
    verified.num_absorbed_tokens = verified.num_tokens;
    verified.token_ids = carver.take(DType::kI32, {verified.num_tokens});
    verified.token_slots = carver.take(DType::kI32, {verified.num_tokens});
    verified.absorbed = carve_batch(inputs.num_results(), carver);
    drafts.source_rows = carver.take(DType::kI32, {verified.num_tokens});
    drafts.draft_rows = carver.take(DType::kI32, {inputs.num_results()});
  }
  StepInputs& chain = drafts.chain;
  chain.num_tokens = chain.num_absorbed_tokens = inputs.num_results();
  chain.token_ids = carver.take(DType::kI32, {chain.num_tokens});
  chain.positions = carver.take(DType::kI32, {chain.num_tokens});
  chain.absorbed = carve_batch(chain.num_tokens, carver);
  chain.token_slots = chain.absorbed.slots;
  drafts.last_rows = carver.take(DType::kI32, {chain.num_tokens});
  return drafts;
}

SampledTokens carve_sampled(int64_t num_rows, int64_t num_results, Carver& carver) {
  SampledTokens sampled;
  sampled.max_logprobs = kMaxTopLogprobs;
  const TensorView counts = carver.take(DType::kI32, {1 + num_results});
  sampled.first_bad_row = counts.slice(0, 0, 1);
  sampled.num_accepted = counts.slice(0, 1, num_results);
  sampled.tokens = carver.take(DType::kI32, {num_rows});
  sampled.logprobs = carver.take(DType::kF32, {num_rows});
  sampled.top_ids = carver.take(DType::kI32, {num_rows, kMaxTopLogprobs});
  sampled.top_logprobs = carver.take(DType::kF32, {num_rows, kMaxTopLogprobs});
  return sampled;
}

int64_t state_bytes(const StepLimits& limits) {
  Carver carver(nullptr);
  carve_state(limits, carver);
  return carver.used_bytes();
}

int64_t inputs_bytes(const StepCounts& counts) {
  Carver carver(nullptr);
  carve_inputs(counts, carver);
  return carver.used_bytes();
}

int64_t max_inputs_bytes(const StepLimits& limits) {
  return inputs_bytes({.num_tokens = limits.max_tokens(),
                       .num_absorbed_sequences = limits.max_sequences(),
                       .num_expanded_sequences = limits.max_sequences(),
                       .num_sampled_rows = limits.max_sampled_rows()});
}

int64_t sampled_bytes(int64_t num_rows, int64_t num_results) {
  Carver carver(nullptr);
  carve_sampled(num_rows, num_results, carver);
  return carver.used_bytes();
}

int64_t max_drafts_bytes(const StepLimits& limits) {
  if (limits.states_width == 0) return 0;
  StepInputs inputs;
  inputs.num_decode_rows = limits.max_sequences();
  inputs.draft_len = limits.draft_len;
  inputs.num_sampled_rows = limits.max_sampled_rows();
  Carver carver(nullptr);
  carve_drafts(inputs, {}, limits.num_extra_rows, carver);
  return carver.used_bytes();
}

int64_t sampled_tokens_bytes(int64_t num_rows, int64_t num_results) {
  Carver carver(nullptr);
  carver.take(DType::kI32, {1 + num_results});
  carver.take(DType::kI32, {num_rows});
  return carver.used_bytes();
}

StateBuffers::StateBuffers(const StepLimits& limits, Backend& backend)
    : backend_(backend), memory_(backend.allocate(state_bytes(limits))) {
  clear();
  Carver carver(memory_.data());
  state = carve_state(limits, carver);
}

void StateBuffers::clear() { backend_.fill_zero(memory_.data(), memory_.size_bytes()); }

}  // namespace deepflight
