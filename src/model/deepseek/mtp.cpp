// The drafting pass; see mtp.h.
#include "model/deepseek/mtp.h"

namespace deepflight {

MtpDrafter::MtpDrafter(const DeepseekConfig& config, const ModelWeights& weights, Backend& backend,
                       DecoderWorkspace& workspace, Decoder& decoder)
    : config_(config),
      weights_(weights),
      backend_(backend),
      workspace_(workspace),
      decoder_(decoder) {}

int64_t MtpDrafter::states_width(const DeepseekConfig& config, size_t num_modules) {
  return num_modules > 0 ? config.hidden_size : 0;
}

void MtpDrafter::join(const MtpWeights& module, const StepInputs& inputs,
                      const TensorView& states) {
  const int64_t num_tokens = inputs.num_tokens;
  const int64_t hidden = config_.hidden_size;
  CHECK(num_tokens <= workspace_.joined.dim(0), num_tokens);
  const TensorView residual = workspace_.residual.first_rows(num_tokens);
  const TensorView joined = workspace_.joined.first_rows(num_tokens);
  backend_.begin_section("mtp");
  backend_.embed(weights_.embedding, inputs.token_ids, residual);
  backend_.rms_norm(residual, module.embed_norm, config_.rms_norm_eps, joined.slice(1, 0, hidden));
  backend_.rms_norm(states, module.state_norm, config_.rms_norm_eps,
                    joined.slice(1, hidden, hidden));
  backend_.linear(joined, module.projection, residual);
}

void MtpDrafter::follow_chunks(const StepState& state, const StepInputs& inputs,
                               const KvPool& pool) {
  const int64_t num_decode_tokens = inputs.num_decode_tokens();
  const int64_t num_chunk_tokens = inputs.num_tokens - num_decode_tokens;
  const TensorView states = workspace_.states.first_rows(inputs.num_tokens);
  if (num_chunk_tokens > 0) {
    const auto chunk_part = [&](const TensorView& view) {
      return view.slice(0, num_decode_tokens, num_chunk_tokens);
    };
    StepInputs chunks;
    chunks.num_tokens = num_chunk_tokens;
    chunks.token_ids = chunk_part(inputs.token_ids);
    chunks.positions = chunk_part(inputs.positions);
    chunks.token_slots = chunk_part(inputs.token_slots);
    const TensorView shifted = workspace_.shifted_states.first_rows(num_chunk_tokens);
    backend_.begin_section("mtp");
    backend_.shift_states(state, chunks, pool, 0, chunk_part(states), shifted);
    join(weights_.mtp[0], chunks, shifted);
    decoder_.layer_kv(weights_.mtp[0].layer, config_.num_layers, {state, chunks, pool});
  }
  backend_.keep_states(state, inputs, pool, 0, states);
}

void MtpDrafter::draft(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
                       const KvPool& pool) {
  const MtpWeights& module = weights_.mtp[0];
  const int64_t kv_layer = config_.num_layers;
  const TensorView verified_states = workspace_.sampled.first_rows(drafts.verified.num_tokens);
  join(module, drafts.verified, verified_states);
  decoder_.layer_kv(module.layer, kv_layer, {state, drafts.verified, pool});
  if (num_drafts == 0) return;

  const int64_t num_sequences = drafts.chain.num_tokens;
  const TensorView states = workspace_.mtp_states.first_rows(num_sequences);
  const TensorView logits = workspace_.logits.first_rows(num_sequences);
  backend_.gather_rows(verified_states, drafts.last_rows, states);
  for (int64_t i = 0; i < num_drafts; ++i) {
    join(module, drafts.chain, states);
    decoder_.layer(module.layer, kv_layer, /*adds_delta=*/false, {state, drafts.chain, pool});
    backend_.begin_section("mtp");
    backend_.add_rms_norm(workspace_.delta.first_rows(num_sequences),
                          workspace_.residual.first_rows(num_sequences), module.final_norm,
                          config_.rms_norm_eps, states);
    backend_.linear(states, weights_.lm_head, logits);
    backend_.take_drafts(state, logits, i, drafts);
  }
}

}  // namespace deepflight
