// What lives from step to step: deltas, the inputs that follow from it, and its update.
#include <algorithm>

#include "compute/cpu/cpu_backend.h"

namespace deepflight {

void CpuBackend::apply_deltas(const StepState& state, const StepDeltas& deltas) {
  const int64_t vocab_size = state.output_counts.dim(1);
  for (int64_t i = 0; i < deltas.num_admissions; ++i) {
    const SlotDelta& delta = deltas.admissions[i];
    CHECK(delta.slot >= 0 && delta.slot < state.kv_lens.dim(0), delta.slot);
    int32_t* counts = state.output_counts.row<int32_t>(delta.slot);
    uint8_t* seen = state.prompt_seen.row<uint8_t>(delta.slot);
    std::fill_n(counts, vocab_size, 0);
    std::fill_n(seen, vocab_size, uint8_t{0});
    for (int32_t k = 0; k < delta.num_tokens; ++k) {
      const int32_t token = deltas.tokens.data<int32_t>()[delta.first_token + k];
      CHECK(token >= 0 && token < vocab_size, token, vocab_size);
      if (k < delta.num_prompt_tokens) {
        seen[token] = 1;
      } else {
        ++counts[token];
      }
    }
    const SlotSampling& sampling = delta.sampling;
    if (sampling.num_biases > 0) {
      std::copy_n(deltas.bias_ids.data<int32_t>() + delta.first_bias, sampling.num_biases,
                  state.bias_ids.row<int32_t>(delta.slot));
      std::copy_n(deltas.bias_values.data<float>() + delta.first_bias, sampling.num_biases,
                  state.bias_values.row<float>(delta.slot));
    }
    if (sampling.num_banned > 0) {
      std::copy_n(deltas.banned_ids.data<int32_t>() + delta.first_banned, sampling.num_banned,
                  state.banned_ids.row<int32_t>(delta.slot));
    }
    state.num_outputs.data<int32_t>()[delta.slot] = delta.num_outputs;
    state.kv_lens.data<int32_t>()[delta.slot] = delta.kv_len;
    state.sampling[delta.slot] = sampling;
    if (state.thinking) state.thinking.data<int32_t>()[delta.slot] = delta.thinking;
    if (state.draft_tokens) {
      std::fill_n(state.draft_tokens.row<int32_t>(delta.slot), state.draft_tokens.dim(1), -1);
    }
    // What the slot's last sequence ended with must not put the mask in force.
    if (sampling.mask != kMaskOff) state.last_tokens.data<int32_t>()[delta.slot] = -1;
  }
  for (int64_t i = 0; i < deltas.num_masks; ++i) {
    const int32_t slot = deltas.mask_slots.data<int32_t>()[i];
    CHECK(slot >= 0 && slot < state.token_masks.dim(0), slot, state.token_masks.to_string());
    CHECK(deltas.masks.dim(1) == state.token_masks.dim(1), deltas.masks.to_string(),
          state.token_masks.to_string());
    std::copy_n(deltas.masks.row<int32_t>(i), deltas.masks.dim(1),
                state.token_masks.row<int32_t>(slot));
    state.sampling[slot].mask = deltas.mask_modes.data<int32_t>()[i];
  }
  for (int64_t i = 0; i < deltas.num_page_grants; ++i) {
    const int32_t slot = deltas.grant_slots.data<int32_t>()[i];
    const int32_t page_idx = deltas.grant_page_idx.data<int32_t>()[i];
    CHECK(slot >= 0 && slot < state.page_table.dim(0) && page_idx >= 0 &&
              page_idx < state.page_table.dim(1),
          slot, page_idx, state.page_table.to_string());
    state.page_table.row<int32_t>(slot)[page_idx] = deltas.grant_pages.data<int32_t>()[i];
  }
}

void CpuBackend::prepare_step(const StepState& state, const StepInputs& inputs) {
  const auto* slots = inputs.absorbed.slots.data<int32_t>();
  const auto row_len = static_cast<int32_t>(1 + inputs.draft_len);
  for (int64_t row = 0; row < inputs.num_decode_rows; ++row) {
    const int32_t slot = slots[row];
    const bool padding = slot < 0;
    const int32_t kv_len = padding ? 0 : state.kv_lens.data<int32_t>()[slot];
    for (int32_t i = 0; i < row_len; ++i) {
      const int64_t token = row * row_len + i;
      const int32_t id = padding  ? 0
                         : i == 0 ? state.last_tokens.data<int32_t>()[slot]
                                  : state.draft_tokens.row<int32_t>(slot)[i - 1];
      inputs.token_ids.data<int32_t>()[token] = std::max(id, 0);
      inputs.positions.data<int32_t>()[token] = padding ? 0 : kv_len + i;
    }
    inputs.absorbed.kv_lens.data<int32_t>()[row] = padding ? 0 : kv_len + row_len;
  }
}

void CpuBackend::update_state(const StepState& state, const StepInputs& inputs,
                              const SampledTokens& sampled) {
  const auto* slots = inputs.token_slots.data<int32_t>();
  for (int64_t token = inputs.num_decode_tokens(); token < inputs.num_tokens; ++token) {
    state.kv_lens.data<int32_t>()[slots[token]] = inputs.positions.data<int32_t>()[token] + 1;
  }
  for (int64_t result = 0; result < inputs.num_results(); ++result) {
    const int64_t first = inputs.first_row(result);
    const int32_t slot = inputs.sampled_slots.data<int32_t>()[first];
    if (slot < 0) continue;
    const int32_t* tokens = sampled.tokens.data<int32_t>() + first;
    int32_t num_accepted = 1;
    if (result < inputs.num_decode_rows) {
      while (num_accepted <= inputs.draft_len &&
             state.draft_tokens.row<int32_t>(slot)[num_accepted - 1] == tokens[num_accepted - 1]) {
        ++num_accepted;
      }
      state.kv_lens.data<int32_t>()[slot] += num_accepted;
    }
    for (int32_t i = 0; i < num_accepted; ++i) {
      ++state.output_counts.row<int32_t>(slot)[tokens[i]];
      if (!state.thinking) continue;
      const SlotSampling& sampling = state.sampling[slot];
      if (tokens[i] == sampling.think_start) state.thinking.data<int32_t>()[slot] = 1;
      if (tokens[i] == sampling.think_end) state.thinking.data<int32_t>()[slot] = 0;
    }
    state.num_outputs.data<int32_t>()[slot] += num_accepted;
    state.last_tokens.data<int32_t>()[slot] = tokens[num_accepted - 1];
    if (sampled.num_accepted) sampled.num_accepted.data<int32_t>()[result] = num_accepted;
  }
}

}  // namespace deepflight
