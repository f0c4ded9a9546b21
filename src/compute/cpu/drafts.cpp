// What MTP drafts need around the modules: states one token on, and the chain of drafts.
#include <algorithm>
#include <cstring>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/paged_softmax.h"

namespace deepflight {
namespace {

// Tokens of one step, slot by slot and position by position.
struct TokenRun {
  explicit TokenRun(const StepInputs& inputs)
      : slots(inputs.token_slots.data<int32_t>()),
        positions(inputs.positions.data<int32_t>()),
        count(inputs.num_tokens) {}

  bool goes_on_behind(int64_t token) const {
    return token + 1 < count && slots[token + 1] == slots[token] &&
           positions[token + 1] == positions[token] + 1;
  }

  const int32_t* slots;
  const int32_t* positions;
  int64_t count;
};

// States of `level` of the page's last token.
float* page_tail(const StepState& state, const KvPool& pool, int32_t slot, int32_t position,
                 int64_t offset) {
  CHECK(position / kKvPageTokens < state.page_table.dim(1), position, slot);
  const int32_t page = state.page_table.row<int32_t>(slot)[position / kKvPageTokens];
  return reinterpret_cast<float*>(cpu::page_address(pool, page, pool.num_layers)) + offset;
}

void check_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                  int64_t level, const TensorView& states) {
  const int64_t width = states.dim(1);
  CHECK(states.dim(0) == inputs.num_tokens, states.to_string(), inputs.num_tokens);
  CHECK(level >= 0 && (level + 1) * width <= state.carried_states.dim(1) &&
            (level + 1) * width * int64_t{sizeof(float)} <= pool.tail_bytes,
        level, width, pool.tail_bytes);
}

}  // namespace

void CpuBackend::shift_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                              int64_t level, const TensorView& states, const TensorView& out) {
  check_states(state, inputs, pool, level, states);
  const TokenRun tokens(inputs);
  const int64_t width = states.dim(1);
  for (int64_t token = 0; token < tokens.count; ++token) {
    const int32_t slot = tokens.slots[token];
    const int32_t position = tokens.positions[token];
    float* target = out.row<float>(token);
    if (slot < 0 || position == 0) {
      std::fill_n(target, width, 0.0f);
      continue;
    }
    const float* source;
    if (token > 0 && tokens.goes_on_behind(token - 1)) {
      source = states.row<float>(token - 1);
    } else if (position % kKvPageTokens == 0) {
      source = page_tail(state, pool, slot, position - 1, level * width);
    } else {
      source = state.carried_states.row<float>(slot) + level * width;
    }
    std::memcpy(target, source, width * sizeof(float));
  }
}

void CpuBackend::keep_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                             int64_t level, const TensorView& states) {
  check_states(state, inputs, pool, level, states);
  const TokenRun tokens(inputs);
  const int64_t width = states.dim(1);
  for (int64_t token = 0; token < tokens.count; ++token) {
    const int32_t slot = tokens.slots[token];
    if (slot < 0) continue;
    const int32_t position = tokens.positions[token];
    const auto keep = [&](float* target) {
      std::memcpy(target, states.row<float>(token), width * sizeof(float));
    };
    if ((position + 1) % kKvPageTokens == 0) {
      keep(page_tail(state, pool, slot, position, level * width));
    }
    if (!tokens.goes_on_behind(token)) {
      keep(state.carried_states.row<float>(slot) + level * width);
    }
  }
}

namespace {

// The verified rows of a result: sampled ones, then extra ones.
void fill_verified(const StepInputs& inputs, const SampledTokens& sampled,
                   const DraftInputs& drafts, int64_t result, int32_t num_accepted) {
  const StepInputs& verified = drafts.verified;
  const int64_t first = inputs.first_row(result);
  const int64_t count = result < inputs.num_decode_rows ? 1 + inputs.draft_len : 1;
  const int64_t first_row = first + result * drafts.num_extra;
  const int32_t slot = inputs.sampled_slots.data<int32_t>()[first];
  const int32_t token = inputs.sampled_token_idx.data<int32_t>()[first];
  const int32_t position = inputs.positions.data<int32_t>()[token] + 1;
  for (int64_t i = 0; i < count + drafts.num_extra; ++i) {
    const int64_t row = first_row + i;
    verified.positions.data<int32_t>()[row] = slot < 0 ? 0 : position + static_cast<int32_t>(i);
    if (drafts.num_extra == 0) continue;
    verified.token_slots.data<int32_t>()[row] = slot;
    verified.token_ids.data<int32_t>()[row] =
        slot >= 0 && i < num_accepted ? sampled.tokens.data<int32_t>()[first + i] : 0;
    drafts.source_rows.data<int32_t>()[row] = static_cast<int32_t>(first + std::min(i, count - 1));
  }
  if (drafts.num_extra == 0) return;
  const auto end = static_cast<int32_t>(count + drafts.num_extra);
  int32_t* offsets = verified.absorbed.query_offsets.data<int32_t>();
  offsets[result] = static_cast<int32_t>(first_row);
  offsets[result + 1] = static_cast<int32_t>(first_row) + end;
  verified.absorbed.kv_lens.data<int32_t>()[result] = slot < 0 ? 0 : position + end;
  verified.absorbed.slots.data<int32_t>()[result] = slot;
  drafts.draft_rows.data<int32_t>()[result] = static_cast<int32_t>(first_row) + num_accepted - 1;
}

}  // namespace

void CpuBackend::begin_drafts(const StepState& state, const StepInputs& inputs,
                              const SampledTokens& sampled, const DraftInputs& drafts) {
  for (int64_t result = 0; result < inputs.num_results(); ++result) {
    const int64_t first = inputs.first_row(result);
    const int32_t slot = inputs.sampled_slots.data<int32_t>()[first];
    const bool padding = slot < 0;
    const int32_t num_accepted = padding ? 1 : sampled.num_accepted.data<int32_t>()[result];
    fill_verified(inputs, sampled, drafts, result, num_accepted);
    const int32_t kv_len = padding ? 0 : state.kv_lens.data<int32_t>()[slot];
    const StepInputs& chain = drafts.chain;
    drafts.last_rows.data<int32_t>()[result] =
        static_cast<int32_t>(first + result * drafts.num_extra) + num_accepted - 1;
    chain.token_ids.data<int32_t>()[result] = padding ? 0 : state.last_tokens.data<int32_t>()[slot];
    chain.positions.data<int32_t>()[result] = kv_len;
    chain.token_slots.data<int32_t>()[result] = slot;
    chain.absorbed.query_offsets.data<int32_t>()[result] = static_cast<int32_t>(result);
    chain.absorbed.query_offsets.data<int32_t>()[result + 1] = static_cast<int32_t>(result) + 1;
    chain.absorbed.kv_lens.data<int32_t>()[result] = padding ? 0 : kv_len + 1;
    if (padding) continue;
    std::fill_n(state.draft_tokens.row<int32_t>(slot), state.draft_tokens.dim(1), -1);
  }
}

void CpuBackend::take_drafts(const StepState& state, const TensorView& logits, int64_t draft_idx,
                             const DraftInputs& drafts) {
  const StepInputs& chain = drafts.chain;
  CHECK(logits.dim(0) == chain.num_tokens && draft_idx < state.draft_tokens.dim(1),
        logits.to_string(), draft_idx);
  for_rows(chain.num_tokens, logits.dim(1), [&](int64_t row) {
    const int32_t slot = chain.token_slots.data<int32_t>()[row];
    if (slot < 0) return;
    const float* values = logits.row<float>(row);
    const auto best =
        static_cast<int32_t>(std::max_element(values, values + logits.dim(1)) - values);
    if (draft_idx < state.sampling[slot].max_drafts) {
      state.draft_tokens.row<int32_t>(slot)[draft_idx] = best;
    }
    if (drafts.num_extra > 0) {
      const int32_t next = ++drafts.draft_rows.data<int32_t>()[row];
      if (draft_idx < drafts.num_extra) drafts.verified.token_ids.data<int32_t>()[next] = best;
      return;
    }
    chain.token_ids.data<int32_t>()[row] = best;
    ++chain.positions.data<int32_t>()[row];
    ++chain.absorbed.kv_lens.data<int32_t>()[row];
  });
}

}  // namespace deepflight
