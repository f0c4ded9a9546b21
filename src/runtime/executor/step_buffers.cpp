// Carving of the executor's arrays.
#include "runtime/executor/step_buffers.h"

#include "runtime/request/sampling_params.h"
#include "tensor/carver.h"

namespace deepflight {
namespace {

// Ids that may be banned before min_tokens: stop tokens and the model's end-of-sequence ids.
constexpr int64_t kMaxBannedIds = kMaxStopTokenIds + 16;

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
  state.sampling = static_cast<SlotSampling*>(
      carver.take_bytes(slots * static_cast<int64_t>(sizeof(SlotSampling))));
  return state;
}

AttentionBatch carve_batch(const StepLimits& limits, Carver& carver) {
  AttentionBatch batch;
  batch.query_offsets = carver.take(DType::kI32, {limits.max_sequences() + 1});
  batch.kv_lens = carver.take(DType::kI32, {limits.max_sequences()});
  batch.slots = carver.take(DType::kI32, {limits.max_sequences()});
  return batch;
}

StepInputs carve_inputs(const StepLimits& limits, Carver& carver) {
  StepInputs inputs;
  inputs.token_ids = carver.take(DType::kI32, {limits.max_batched_tokens});
  inputs.positions = carver.take(DType::kI32, {limits.max_batched_tokens});
  inputs.token_slots = carver.take(DType::kI32, {limits.max_batched_tokens});
  inputs.absorbed = carve_batch(limits, carver);
  inputs.expanded = carve_batch(limits, carver);
  inputs.sampled_token_idx = carver.take(DType::kI32, {limits.max_sampled_rows()});
  inputs.sampled_slots = carver.take(DType::kI32, {limits.max_sampled_rows()});
  return inputs;
}

SampledTokens carve_sampled(const StepLimits& limits, Carver& carver) {
  const int64_t rows = limits.max_sampled_rows();
  SampledTokens sampled;
  sampled.max_logprobs = kMaxTopLogprobs;
  sampled.tokens = carver.take(DType::kI32, {rows});
  sampled.logprobs = carver.take(DType::kF32, {rows});
  sampled.top_ids = carver.take(DType::kI32, {rows, kMaxTopLogprobs});
  sampled.top_logprobs = carver.take(DType::kF32, {rows, kMaxTopLogprobs});
  sampled.first_bad_row = carver.take(DType::kI32, {1});
  return sampled;
}

template <typename Carve>
int64_t measure(const StepLimits& limits, const Carve& carve) {
  Carver carver(nullptr);
  carve(limits, carver);
  return carver.used_bytes();
}

void narrow(AttentionBatch* batch) {
  batch->query_offsets = batch->query_offsets.first_rows(batch->num_sequences + 1);
  batch->kv_lens = batch->kv_lens.first_rows(batch->num_sequences);
  batch->slots = batch->slots.first_rows(batch->num_sequences);
}

}  // namespace

StateBuffers::StateBuffers(const StepLimits& limits, Backend& backend)
    : memory_(backend.allocate(measure(limits, carve_state))) {
  backend.fill_zero(memory_.data(), memory_.size_bytes());
  Carver carver(memory_.data());
  state = carve_state(limits, carver);
}

InputBuffers::InputBuffers(const StepLimits& limits, Backend& backend)
    : backend_(backend),
      staging_(measure(limits, carve_inputs) / sizeof(int32_t)),
      memory_(backend.allocate(measure(limits, carve_inputs))),
      sampled_memory_(backend.allocate(measure(limits, carve_sampled))),
      limits_(limits) {
  Carver carver(staging_.data());
  host = carve_inputs(limits, carver);
}

void InputBuffers::upload() {
  backend_.copy_in(memory_.data(), staging_.data(), memory_.size_bytes());
}

StepInputs InputBuffers::device_inputs() const {
  Carver carver(memory_.data());
  StepInputs inputs = carve_inputs(limits_, carver);
  inputs.num_decode_rows = host.num_decode_rows;
  inputs.num_tokens = host.num_tokens;
  inputs.num_absorbed_tokens = host.num_absorbed_tokens;
  inputs.num_sampled_rows = host.num_sampled_rows;
  inputs.absorbed.num_sequences = host.absorbed.num_sequences;
  inputs.expanded.num_sequences = host.expanded.num_sequences;
  inputs.token_ids = inputs.token_ids.first_rows(inputs.num_tokens);
  inputs.positions = inputs.positions.first_rows(inputs.num_tokens);
  inputs.token_slots = inputs.token_slots.first_rows(inputs.num_tokens);
  inputs.sampled_token_idx = inputs.sampled_token_idx.first_rows(inputs.num_sampled_rows);
  inputs.sampled_slots = inputs.sampled_slots.first_rows(inputs.num_sampled_rows);
  narrow(&inputs.absorbed);
  narrow(&inputs.expanded);
  return inputs;
}

SampledTokens InputBuffers::sampled() const {
  Carver carver(sampled_memory_.data());
  SampledTokens sampled = carve_sampled(limits_, carver);
  const int64_t rows = host.num_sampled_rows;
  sampled.tokens = sampled.tokens.first_rows(rows);
  sampled.logprobs = sampled.logprobs.first_rows(rows);
  sampled.top_ids = sampled.top_ids.first_rows(rows);
  sampled.top_logprobs = sampled.top_logprobs.first_rows(rows);
  return sampled;
}

}  // namespace deepflight
