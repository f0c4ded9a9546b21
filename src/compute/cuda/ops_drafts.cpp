// What MTP drafts need around the modules.
#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/drafts/launch.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {
namespace {

cuda_drafts::StatesProblem states_problem(const StepState& state, const StepInputs& inputs,
                                          const KvPool& pool, int64_t level,
                                          const TensorView& states) {
  const int64_t width = states.dim(1);
  CHECK(states.dim(0) == inputs.num_tokens, states.to_string(), inputs.num_tokens);
  CHECK(level >= 0 && (level + 1) * width <= state.carried_states.dim(1) &&
            (level + 1) * width * 2 <= pool.tail_bytes,
        level, width, pool.tail_bytes);
  cuda_drafts::StatesProblem problem;
  problem.num_tokens = inputs.num_tokens;
  problem.width = width;
  problem.token_slots = inputs.token_slots.data<int32_t>();
  problem.positions = inputs.positions.data<int32_t>();
  problem.states = bf16(states);
  problem.states_stride = states.stride(0);
  problem.carried = bf16(state.carried_states) + level * width;
  problem.carried_stride = state.carried_states.stride(0);
  problem.tails = static_cast<char*>(pool.base) + pool.tail_offset_bytes() + level * width * 2;
  problem.page_stride_bytes = pool.page_stride_bytes();
  problem.page_table = state.page_table.data<int32_t>();
  problem.page_table_stride = state.page_table.stride(0);
  return problem;
}

}  // namespace

void CudaBackend::shift_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                               int64_t level, const TensorView& states, const TensorView& out) {
  const TimelineRange range("shift_states");
  impl_->mla_metadata_ready = false;  // what follows attends with other lengths than the model did
  auto problem = states_problem(state, inputs, pool, level, states);
  problem.out = bf16(out);
  problem.out_stride = out.stride(0);
  cuda_drafts::shift_states(problem, impl_->main.stream.get());
}

void CudaBackend::keep_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                              int64_t level, const TensorView& states) {
  const TimelineRange range("keep_states");
  cuda_drafts::keep_states(states_problem(state, inputs, pool, level, states),
                           impl_->main.stream.get());
}

void CudaBackend::begin_drafts(const StepState& state, const StepInputs& inputs,
                               const SampledTokens& sampled, const DraftInputs& drafts) {
  const TimelineRange range("begin_drafts");
  const StepInputs& chain = drafts.chain;
  cuda_drafts::BeginProblem problem;
  problem.num_results = inputs.num_results();
  problem.num_decode_rows = inputs.num_decode_rows;
  problem.draft_len = inputs.draft_len;
  problem.positions = inputs.positions.data<int32_t>();
  problem.sampled_token_idx = inputs.sampled_token_idx.data<int32_t>();
  problem.sampled_slots = inputs.sampled_slots.data<int32_t>();
  problem.num_accepted = sampled.num_accepted.data<int32_t>();
  problem.kv_lens = state.kv_lens.data<int32_t>();
  problem.last_tokens = state.last_tokens.data<int32_t>();
  problem.draft_tokens = state.draft_tokens.data<int32_t>();
  problem.draft_stride = state.draft_tokens.stride(0);
  problem.max_draft_len = state.draft_tokens.dim(1);
  problem.sampled_tokens = drafts.num_extra > 0 ? sampled.tokens.data<int32_t>() : nullptr;
  problem.num_extra = drafts.num_extra;
  if (drafts.num_extra > 0) {
    const StepInputs& verified = drafts.verified;
    problem.verified_tokens = verified.token_ids.data<int32_t>();
    problem.verified_slots = verified.token_slots.data<int32_t>();
    problem.source_rows = drafts.source_rows.data<int32_t>();
    problem.verified_offsets = verified.absorbed.query_offsets.data<int32_t>();
    problem.verified_kv_lens = verified.absorbed.kv_lens.data<int32_t>();
    problem.verified_batch_slots = verified.absorbed.slots.data<int32_t>();
    problem.draft_rows = drafts.draft_rows.data<int32_t>();
  }
  problem.verified_positions = drafts.verified.positions.data<int32_t>();
  problem.last_rows = drafts.last_rows.data<int32_t>();
  problem.token_ids = chain.token_ids.data<int32_t>();
  problem.chain_positions = chain.positions.data<int32_t>();
  problem.chain_slots = chain.token_slots.data<int32_t>();
  problem.chain_kv_lens = chain.absorbed.kv_lens.data<int32_t>();
  problem.query_offsets = chain.absorbed.query_offsets.data<int32_t>();
  cuda_drafts::begin_drafts(problem, impl_->main.stream.get());
  // The chain's attention has lengths of its own, and others after each draft.
  impl_->mla_metadata_ready = false;
}

void CudaBackend::take_drafts(const StepState& state, const TensorView& logits, int64_t draft_idx,
                              const DraftInputs& drafts) {
  const TimelineRange range("take_drafts");
  const StepInputs& chain = drafts.chain;
  CHECK(logits.dim(0) == chain.num_tokens, logits.to_string(), chain.num_tokens);
  cuda_drafts::TakeProblem problem;
  problem.num_rows = chain.num_tokens;
  problem.vocab_size = logits.dim(1);
  problem.logits = logits.data<float>();
  problem.logits_stride = logits.stride(0);
  problem.slots = chain.token_slots.data<int32_t>();
  problem.sampling = state.sampling;
  problem.draft_idx = draft_idx;
  problem.draft_tokens = state.draft_tokens.data<int32_t>();
  problem.draft_stride = state.draft_tokens.stride(0);
  problem.token_ids = chain.token_ids.data<int32_t>();
  problem.positions = chain.positions.data<int32_t>();
  problem.kv_lens = chain.absorbed.kv_lens.data<int32_t>();
  problem.num_extra = drafts.num_extra;
  if (drafts.num_extra > 0) {
    problem.draft_rows = drafts.draft_rows.data<int32_t>();
    problem.verified_tokens = drafts.verified.token_ids.data<int32_t>();
  }
  cuda_drafts::take_drafts(problem, impl_->main.stream.get());
  impl_->mla_metadata_ready = false;
}

}  // namespace deepflight
