// The drafting pass; see mtp.h.
#include "model/deepseek/mtp.h"

namespace deepflight {
namespace {

// The step's tokens behind its decode rows.
StepInputs chunks_of(const StepInputs& inputs) {
  const int64_t begin = inputs.num_decode_tokens();
  const auto behind = [](const TensorView& view, int64_t first) {
    return view.slice(0, first, view.dim(0) - first);
  };
  StepInputs chunks;
  chunks.num_tokens = inputs.num_tokens - begin;
  chunks.num_absorbed_tokens = inputs.num_absorbed_tokens - begin;
  chunks.token_ids = behind(inputs.token_ids, begin);
  chunks.positions = behind(inputs.positions, begin);
  chunks.token_slots = behind(inputs.token_slots, begin);
  chunks.absorbed.num_sequences = inputs.absorbed.num_sequences - inputs.num_decode_rows;
  chunks.absorbed.query_offsets = inputs.replay_query_offsets;
  chunks.absorbed.kv_lens = behind(inputs.absorbed.kv_lens, inputs.num_decode_rows);
  chunks.absorbed.slots = behind(inputs.absorbed.slots, inputs.num_decode_rows);
  chunks.expanded = inputs.expanded;
  return chunks;
}

// Module k reads states of module k - 1, and the first token that any has a state before it is 1.
int64_t first_key(int64_t module) { return module + 1; }

}  // namespace

MtpDrafter::MtpDrafter(const ModelWeights& weights, Backend& backend, DecoderWorkspace& workspace,
                       Decoder& decoder, int64_t num_modules)
    : weights_(weights),
      backend_(backend),
      workspace_(workspace),
      decoder_(decoder),
      num_modules_(num_modules) {
  CHECK(num_modules <= static_cast<int64_t>(weights.mtp.size()), num_modules, weights.mtp.size());
}

int64_t MtpDrafter::states_width(const DeepseekConfig& config, int64_t num_modules) {
  return num_modules * config.hidden_size;
}

void MtpDrafter::join(const MtpWeights& module, const StepInputs& inputs,
                      const TensorView& states) {
  const int64_t num_tokens = inputs.num_tokens;
  CHECK(num_tokens <= workspace_.joined.dim(0), num_tokens);
  const TensorView residual = workspace_.residual.first_rows(num_tokens);
  const TensorView joined = workspace_.joined.first_rows(num_tokens);
  const int64_t hidden = residual.dim(1);
  backend_.begin_section("mtp");
  backend_.embed(weights_.embedding, inputs.token_ids, residual);
  const float eps = decoder_.config().rms_norm_eps;
  backend_.rms_norm(residual, module.embed_norm, eps, joined.slice(1, 0, hidden));
  backend_.rms_norm(states, module.state_norm, eps, joined.slice(1, hidden, hidden));
  backend_.linear(joined, module.projection, residual);
}

TensorView MtpDrafter::finish(int64_t module, const LayerContext& step) {
  const int64_t num_tokens = step.inputs.num_tokens;
  const MtpWeights& weights = weights_.mtp[module];
  const TensorView states = workspace_.mtp_states.first_rows(num_tokens);
  decoder_.layer(weights.layer, decoder_.config().num_layers + module, /*adds_delta=*/false, step);
  backend_.begin_section("mtp");
  backend_.add_rms_norm(workspace_.delta.first_rows(num_tokens),
                        workspace_.residual.first_rows(num_tokens), weights.final_norm,
                        decoder_.config().rms_norm_eps, states);
  return states;
}

void MtpDrafter::follow_chunks(const StepState& state, const StepInputs& inputs,
                               const KvPool& pool) {
  const TensorView all_states = workspace_.states.first_rows(inputs.num_tokens);
  const StepInputs chunks = chunks_of(inputs);
  if (chunks.num_tokens > 0) {
    TensorView states =
        all_states.slice(0, inputs.num_decode_tokens(), chunks.num_tokens);  // of the level
    const TensorView shifted = workspace_.shifted_states.first_rows(chunks.num_tokens);
    for (int64_t module = 0; module < num_modules_; ++module) {
      backend_.begin_section("mtp");
      backend_.shift_states(state, chunks, pool, module, states, shifted);
      if (module > 0) backend_.keep_states(state, chunks, pool, module, states);
      join(weights_.mtp[module], chunks, shifted);
      const LayerContext step{state, chunks, pool, first_key(module)};
      if (module + 1 < num_modules_) {
        states = finish(module, step);
      } else {
        decoder_.layer_kv(weights_.mtp[module].layer, decoder_.config().num_layers + module, step);
      }
    }
  }
  backend_.keep_states(state, inputs, pool, 0, all_states);
}

void MtpDrafter::draft(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
                       const KvPool& pool) {
  if (num_modules_ == 1) {
    draft_by_one(state, drafts, num_drafts, pool);
  } else {
    draft_by_each(state, drafts, num_drafts, pool);
  }
}

void MtpDrafter::draft_by_one(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
                              const KvPool& pool) {
  const MtpWeights& module = weights_.mtp[0];
  const TensorView verified_states = workspace_.sampled.first_rows(drafts.verified.num_tokens);
  join(module, drafts.verified, verified_states);
  decoder_.layer_kv(module.layer, decoder_.config().num_layers,
                    {state, drafts.verified, pool, first_key(0)});
  if (num_drafts == 0) return;

  const int64_t num_sequences = drafts.chain.num_tokens;
  TensorView states = workspace_.shifted_states.first_rows(num_sequences);
  const TensorView logits = workspace_.logits.first_rows(num_sequences);
  backend_.gather_rows(verified_states, drafts.last_rows, states);
  for (int64_t i = 0; i < num_drafts; ++i) {
    join(module, drafts.chain, states);
    states = finish(0, {state, drafts.chain, pool, first_key(0)});
    backend_.linear(states, weights_.lm_head, logits);
    backend_.take_drafts(state, logits, i, drafts);
  }
}

// All modules over all verified rows and the drafts made so far.
void MtpDrafter::draft_by_each(const StepState& state, const DraftInputs& drafts,
                               int64_t num_drafts, const KvPool& pool) {
  const StepInputs& rows = drafts.verified;
  const int64_t num_sequences = drafts.chain.num_tokens;
  const TensorView shifted = workspace_.shifted_states.first_rows(rows.num_tokens);
  const TensorView some = workspace_.sampled.first_rows(num_sequences);
  const TensorView logits = workspace_.logits.first_rows(num_sequences);
  backend_.gather_rows(workspace_.sampled, drafts.source_rows, shifted);
  TensorView states;  // of the module before
  for (int64_t module = 0; module < num_modules_; ++module) {
    if (module > 0) {
      backend_.shift_states(state, rows, pool, module, states, shifted);
      // At the pages' ends, then behind the last accepted token.
      backend_.keep_states(state, rows, pool, module, states);
      backend_.gather_rows(states, drafts.last_rows, some);
      backend_.keep_states(state, drafts.chain, pool, module, some);
    }
    join(weights_.mtp[module], rows, shifted);
    states = finish(module, {state, rows, pool, first_key(module)});
    if (module >= num_drafts) continue;
    backend_.gather_rows(states, drafts.draft_rows, some);
    backend_.linear(some, weights_.lm_head, logits);
    backend_.take_drafts(state, logits, module, drafts);
  }
}

}  // namespace deepflight
