// A step's beginning and end: deltas, derived inputs, rows by index, sampling and the new state.
#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/sample_verify/launch.h"
#include "compute/cuda/kernels/step_state/launch.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {
namespace {

template <typename T>
T* data_or_null(const TensorView& view) {
  return view ? view.data<T>() : nullptr;
}

int64_t row_stride(const TensorView& view) { return view ? view.stride(0) : 0; }

// Views that a caller left empty (ops that do not touch them) stay null.
cuda_step_state::State state_problem(const StepState& state) {
  cuda_step_state::State problem;
  problem.num_slots = state.kv_lens.dim(0);
  problem.last_tokens = data_or_null<int32_t>(state.last_tokens);
  problem.kv_lens = state.kv_lens.data<int32_t>();
  problem.num_outputs = data_or_null<int32_t>(state.num_outputs);
  if (state.output_counts) {
    problem.vocab_size = state.output_counts.dim(1);
    problem.output_counts = state.output_counts.data<int32_t>();
    problem.output_counts_stride = state.output_counts.stride(0);
  }
  problem.prompt_seen = data_or_null<uint8_t>(state.prompt_seen);
  problem.prompt_seen_stride = row_stride(state.prompt_seen);
  if (state.page_table) {
    problem.page_table = state.page_table.data<int32_t>();
    problem.page_table_stride = state.page_table.stride(0);
    problem.max_pages = state.page_table.dim(1);
  }
  if (state.bias_ids) {
    problem.bias_ids = state.bias_ids.data<int32_t>();
    problem.bias_ids_stride = state.bias_ids.stride(0);
    problem.bias_values = state.bias_values.data<float>();
    problem.bias_values_stride = state.bias_values.stride(0);
    problem.max_biases = state.bias_ids.dim(1);
  }
  if (state.banned_ids) {
    problem.banned_ids = state.banned_ids.data<int32_t>();
    problem.banned_ids_stride = state.banned_ids.stride(0);
    problem.max_banned = state.banned_ids.dim(1);
  }
  if (state.token_masks) {
    problem.token_masks = state.token_masks.data<int32_t>();
    problem.token_masks_stride = state.token_masks.stride(0);
    problem.mask_words = state.token_masks.dim(1);
  }
  problem.sampling = state.sampling;
  if (state.draft_tokens) {
    problem.draft_tokens = state.draft_tokens.data<int32_t>();
    problem.draft_stride = state.draft_tokens.stride(0);
    problem.max_draft_len = state.draft_tokens.dim(1);
  }
  problem.thinking = data_or_null<int32_t>(state.thinking);
  return problem;
}

}  // namespace

void CudaBackend::apply_deltas(const StepState& state, const StepDeltas& deltas) {
  const TimelineRange range("apply_deltas");
  cuda_step_state::DeltasProblem problem;
  problem.state = state_problem(state);
  problem.num_admissions = deltas.num_admissions;
  problem.admissions = deltas.admissions;
  problem.tokens = data_or_null<int32_t>(deltas.tokens);
  problem.bias_ids = data_or_null<int32_t>(deltas.bias_ids);
  problem.bias_values = data_or_null<float>(deltas.bias_values);
  problem.banned_ids = data_or_null<int32_t>(deltas.banned_ids);
  problem.num_page_grants = deltas.num_page_grants;
  problem.grant_slots = data_or_null<int32_t>(deltas.grant_slots);
  problem.grant_page_idx = data_or_null<int32_t>(deltas.grant_page_idx);
  problem.grant_pages = data_or_null<int32_t>(deltas.grant_pages);
  problem.num_masks = deltas.num_masks;
  problem.mask_slots = data_or_null<int32_t>(deltas.mask_slots);
  problem.mask_modes = data_or_null<int32_t>(deltas.mask_modes);
  problem.masks = data_or_null<int32_t>(deltas.masks);
  problem.masks_stride = row_stride(deltas.masks);
  cuda_step_state::apply_deltas(problem, impl_->main.stream.get());
}

void CudaBackend::prepare_step(const StepState& state, const StepInputs& inputs) {
  const TimelineRange range("prepare_step");
  cuda_step_state::PrepareProblem problem;
  problem.state = state_problem(state);
  problem.num_rows = inputs.num_decode_rows;
  problem.draft_len = inputs.draft_len;
  CHECK(inputs.draft_len <= problem.state.max_draft_len, inputs.draft_len);
  problem.slots = inputs.absorbed.slots.data<int32_t>();
  problem.token_ids = inputs.token_ids.data<int32_t>();
  problem.positions = inputs.positions.data<int32_t>();
  problem.row_kv_lens = inputs.absorbed.kv_lens.data<int32_t>();
  cuda_step_state::prepare_step(problem, impl_->main.stream.get());
  // The attention's schedule needs the model's head count, which the first layer's call knows.
  impl_->mla_metadata_ready = false;
}

void CudaBackend::update_state(const StepState& state, const StepInputs& inputs,
                               const SampledTokens& sampled) {
  const TimelineRange range("update_state");
  cuda_step_state::UpdateProblem problem;
  problem.state = state_problem(state);
  problem.num_tokens = inputs.num_tokens;
  problem.token_slots = inputs.token_slots.data<int32_t>();
  problem.positions = data_or_null<int32_t>(inputs.positions);  // of chunks
  problem.num_sampled_rows = inputs.num_sampled_rows;
  problem.sampled_slots = data_or_null<int32_t>(inputs.sampled_slots);
  problem.sampled_tokens = data_or_null<int32_t>(sampled.tokens);
  problem.num_decode_rows = inputs.num_decode_rows;
  problem.draft_len = inputs.draft_len;
  problem.num_accepted = data_or_null<int32_t>(sampled.num_accepted);
  cuda_step_state::update_state(problem, impl_->main.stream.get());
}

void CudaBackend::embed(const TensorView& table, const TensorView& token_ids,
                        const TensorView& out) {
  const TimelineRange range("embed");
  gather_rows(table, token_ids, out);
}

void CudaBackend::gather_rows(const TensorView& x, const TensorView& row_idx,
                              const TensorView& out) {
  const TimelineRange range("gather_rows");
  CHECK(row_idx.dim(0) == out.dim(0) && x.dim(1) == out.dim(1), x.to_string(), out.to_string());
  cuda_step_state::GatherProblem problem;
  problem.num_rows = out.dim(0);
  problem.width = out.dim(1);
  problem.num_source_rows = x.dim(0);
  problem.x = bf16(x);
  problem.x_stride = x.stride(0);
  problem.row_ids = row_idx.data<int32_t>();
  problem.out = bf16(out);
  problem.out_stride = out.stride(0);
  cuda_step_state::gather_rows(problem, impl_->main.stream.get());
}

void CudaBackend::sample(const StepState& state, const StepInputs& inputs, const TensorView& logits,
                         const SampledTokens& sampled) {
  const TimelineRange range("sample");
  CHECK(logits.dim(0) == inputs.num_sampled_rows, logits.to_string(), inputs.num_sampled_rows);
  cuda_sample_verify::SampleProblem problem;
  problem.logits = data_or_null<float>(logits);
  problem.logits_stride = logits.stride(0);
  problem.num_rows = inputs.num_sampled_rows;
  problem.vocab_size = logits.dim(1);
  problem.slots = data_or_null<int32_t>(inputs.sampled_slots);
  problem.sampling = state.sampling;
  problem.num_outputs = state.num_outputs.data<int32_t>();
  problem.output_counts = state.output_counts.data<int32_t>();
  problem.counts_stride = state.output_counts.stride(0);
  problem.prompt_seen = state.prompt_seen.data<uint8_t>();
  problem.seen_stride = state.prompt_seen.stride(0);
  problem.bias_ids = state.bias_ids.data<int32_t>();
  problem.bias_ids_stride = state.bias_ids.stride(0);
  problem.bias_values = state.bias_values.data<float>();
  problem.bias_values_stride = state.bias_values.stride(0);
  problem.banned_ids = state.banned_ids.data<int32_t>();
  problem.banned_stride = state.banned_ids.stride(0);
  if (inputs.draft_len > 0) {
    problem.num_decode_tokens = inputs.num_decode_tokens();
    problem.draft_len = inputs.draft_len;
    problem.draft_tokens = state.draft_tokens.data<int32_t>();
    problem.draft_stride = state.draft_tokens.stride(0);
    problem.thinking = data_or_null<int32_t>(state.thinking);
  }
  problem.last_tokens = data_or_null<int32_t>(state.last_tokens);
  problem.token_masks = reinterpret_cast<const uint32_t*>(data_or_null<int32_t>(state.token_masks));
  problem.masks_stride = row_stride(state.token_masks);
  problem.batch_invariant = impl_->config.batch_invariant;
  problem.max_logprobs = sampled.max_logprobs;
  problem.tokens = data_or_null<int32_t>(sampled.tokens);
  problem.logprobs = data_or_null<float>(sampled.logprobs);
  problem.top_ids = data_or_null<int32_t>(sampled.top_ids);
  problem.top_ids_stride = row_stride(sampled.top_ids);
  problem.top_logprobs = data_or_null<float>(sampled.top_logprobs);
  problem.top_logprobs_stride = row_stride(sampled.top_logprobs);
  problem.first_bad_row = sampled.first_bad_row.data<int32_t>();
  problem.scratch =
      impl_->main.op.get(cuda_sample_verify::sample_scratch_bytes(inputs.num_sampled_rows));
  cuda_sample_verify::sample(problem, impl_->main.stream.get());
}

}  // namespace deepflight
