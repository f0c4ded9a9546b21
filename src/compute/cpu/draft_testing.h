// For tests of draft ops, on any backend: slots by hand, the arrays of the next drafts, and paged
// states whose values say where they come from.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/op_testing.h"

namespace deepflight::testing {

// Slots with drafts, on the host.
struct DraftWorld {
  static constexpr int64_t kMaxListed = 4;

  DraftWorld(int num_slots, int64_t vocab_size, int max_draft_len)
      : vocab(vocab_size), draft_len(max_draft_len), sampling(num_slots) {
    for (SlotSampling& params : sampling) {
      params = {};
      params.temperature = params.top_p = params.repetition_penalty = 1.0f;
      params.num_logprobs = -1;
      params.max_drafts = draft_len;
      params.think_start = params.think_end = -1;
      params.simulated_acceptance = -1.0f;
    }
    for (Ints* array : {&last_tokens, &kv_lens, &num_outputs, &thinking}) {
      array->values.assign(num_slots, 0);
    }
    drafts.values.assign(num_slots * draft_len, -1);
    counts.values.assign(num_slots * vocab, 0);
    bias_ids.values.assign(num_slots * kMaxListed, 0);
    banned_ids.values.assign(num_slots * kMaxListed, 0);
    bias_values.assign(num_slots * kMaxListed, 0.0f);
    seen.assign(num_slots * vocab, 0);
  }

  // Settings, counts and drafts of every kind.
  void randomize(std::mt19937& random, bool with_lists) {
    const auto below = [&](int count) { return static_cast<int32_t>(random() % count); };
    for (size_t slot = 0; slot < sampling.size(); ++slot) {
      SlotSampling& params = sampling[slot];
      params.seed = random();
      params.temperature = below(3) == 0 ? 0.0f : 0.5f + 0.1f * static_cast<float>(below(8));
      if (below(2) == 0) params.top_k = 1 + below(10);
      if (below(2) == 0) params.top_p = 0.9f;
      if (below(2) == 0) params.repetition_penalty = 1.2f;
      if (below(2) == 0) params.frequency_penalty = 0.7f;
      if (below(2) == 0) params.presence_penalty = 0.4f;
      num_outputs.values[slot] = below(5);
      if (with_lists) {
        params.min_tokens = below(8);
        params.num_banned = below(3);
        params.num_biases = below(3);
      }
      for (int64_t i = 0; i < kMaxListed; ++i) {
        bias_ids.values[slot * kMaxListed + i] = below(static_cast<int>(vocab));
        banned_ids.values[slot * kMaxListed + i] = below(static_cast<int>(vocab));
        bias_values[slot * kMaxListed + i] = static_cast<float>(below(9)) - 4.0f;
      }
      for (int64_t i = 0; i < vocab; ++i) {
        if (below(4) == 0) counts.values[slot * vocab + i] = below(3);
        seen[slot * vocab + i] = below(3) == 0;
      }
      for (int i = 0; i < draft_len; ++i) {
        drafts.values[slot * draft_len + i] = below(static_cast<int>(vocab));
      }
    }
  }

  StepState state() {
    const auto num_slots = static_cast<int64_t>(sampling.size());
    StepState state;
    state.last_tokens = last_tokens.view();
    state.kv_lens = kv_lens.view();
    state.num_outputs = num_outputs.view();
    state.thinking = thinking.view();
    state.draft_tokens = drafts.view(num_slots, draft_len);
    state.output_counts = counts.view(num_slots, vocab);
    state.prompt_seen = TensorView::of(seen.data(), {num_slots, vocab});
    state.bias_ids = bias_ids.view(num_slots, kMaxListed);
    state.bias_values = TensorView::of(bias_values.data(), {num_slots, kMaxListed});
    state.banned_ids = banned_ids.view(num_slots, kMaxListed);
    state.sampling = sampling.data();
    return state;
  }

  // The sampled rows of decode rows of `slots`.
  static Ints row_slots(const std::vector<int32_t>& slots, int num_tokens) {
    Ints rows;
    for (const int32_t slot : slots) rows.values.insert(rows.values.end(), num_tokens, slot);
    return rows;
  }
  static StepInputs decode_inputs(const std::vector<int32_t>& slots, int draft_len,
                                  const Ints& rows) {
    StepInputs inputs;
    inputs.num_decode_rows = static_cast<int64_t>(slots.size());
    inputs.draft_len = draft_len;
    inputs.num_tokens = inputs.num_sampled_rows = inputs.num_decode_tokens();
    inputs.token_slots = inputs.sampled_slots = rows.view();
    return inputs;
  }

  struct Outcome {
    std::vector<int32_t> tokens;
  };
  Outcome sample(const std::vector<int32_t>& slots, const Matrix& logits) {
    return sample_rows(slots, draft_len, logits);
  }
  // As a step without drafts.
  int32_t sample_one(int32_t slot, const Matrix& logits) {
    return sample_rows({slot}, 0, logits).tokens[0];
  }
  Outcome sample_rows(const std::vector<int32_t>& slots, int with_drafts, const Matrix& logits) {
    const Ints rows = row_slots(slots, 1 + with_drafts);
    const StepInputs inputs = decode_inputs(slots, with_drafts, rows);
    Matrix changed = logits;
    Outcome outcome;
    outcome.tokens.assign(inputs.num_sampled_rows, -7);
    int32_t first_bad_row = -7;
    SampledTokens sampled;
    sampled.tokens = TensorView::of(outcome.tokens.data(), {inputs.num_sampled_rows});
    sampled.first_bad_row = TensorView::of(&first_bad_row, {1});
    CpuBackend({.num_threads = 1}).sample(state(), inputs, changed.view(), sampled);
    CHECK(first_bad_row == -1, first_bad_row);
    return outcome;
  }
  // Number of accepted tokens of each row (0: padding).
  std::vector<int32_t> update(const std::vector<int32_t>& slots,
                              const std::vector<int32_t>& tokens) {
    const Ints rows = row_slots(slots, 1 + draft_len);
    std::vector<int32_t> accepted(slots.size(), 0);
    SampledTokens sampled;
    sampled.tokens = TensorView::of(tokens.data(), {static_cast<int64_t>(tokens.size())});
    sampled.num_accepted = TensorView::of(accepted.data(), {static_cast<int64_t>(accepted.size())});
    CpuBackend({.num_threads = 1})
        .update_state(state(), decode_inputs(slots, draft_len, rows), sampled);
    return accepted;
  }
  void take_output(int32_t slot, int32_t token) {
    ++num_outputs.values[slot];
    ++counts.values[slot * vocab + token];
  }

  int64_t vocab;
  int draft_len;
  std::vector<SlotSampling> sampling;
  Ints last_tokens, kv_lens, num_outputs, thinking, drafts, counts, bias_ids, banned_ids;
  std::vector<float> bias_values;
  std::vector<uint8_t> seen;
};

// DraftInputs' own arrays.
struct DraftArrays {
  DraftArrays(int num_rows, int num_results, int extra = 0) : num_extra(extra) {
    for (Ints* array : {&verified_positions, &verified_tokens, &verified_slots, &source_rows}) {
      array->values.assign(num_rows + extra * num_results, -9);
    }
    for (Ints* array : {&draft_rows, &verified_kv_lens, &verified_batch_slots}) {
      array->values.assign(num_results, -9);
    }
    verified_offsets.values.assign(num_results + 1, -9);
    for (Ints* array : {&last_rows, &token_ids, &positions, &slots, &kv_lens}) {
      array->values.assign(num_results, -9);
    }
    offsets.values.assign(num_results + 1, -9);
  }
  DraftInputs inputs() const {
    DraftInputs drafts;
    drafts.verified.num_tokens = static_cast<int64_t>(verified_positions.values.size());
    drafts.verified.positions = verified_positions.view();
    drafts.num_extra = num_extra;
    if (num_extra > 0) {
      drafts.verified.token_ids = verified_tokens.view();
      drafts.verified.token_slots = verified_slots.view();
      drafts.verified.absorbed = {static_cast<int64_t>(draft_rows.values.size()),
                                  verified_offsets.view(), verified_kv_lens.view(),
                                  verified_batch_slots.view()};
      drafts.source_rows = source_rows.view();
      drafts.draft_rows = draft_rows.view();
    }
    drafts.last_rows = last_rows.view();
    StepInputs& chain = drafts.chain;
    chain.num_tokens = chain.num_absorbed_tokens = static_cast<int64_t>(last_rows.values.size());
    chain.token_ids = token_ids.view();
    chain.positions = positions.view();
    chain.token_slots = slots.view();
    chain.absorbed = {chain.num_tokens, offsets.view(), kv_lens.view(), slots.view()};
    return drafts;
  }

  int num_extra;
  Ints verified_tokens, verified_slots, source_rows, draft_rows;
  Ints verified_offsets, verified_kv_lens, verified_batch_slots;
  Ints verified_positions, last_rows, token_ids, positions, slots, offsets, kv_lens;
};

// Sequences in pages with tails. The state of a slot's token at a position is a number of all of
// them, so that a wrong one shows.
class StateWorld {
 public:
  struct Run {
    int32_t slot;
    int32_t start;
    int32_t length;
  };
  // Two sequences of 150 and 70 tokens, and padding, fed in steps of any sizes.
  static std::vector<std::vector<Run>> steps_over_pages() {
    return {{{0, 0, 10}, {1, 0, 1}},
            {{1, 1, 63}, {0, 10, 54}},
            {{0, 64, 1}, {1, 64, 6}},
            {{-1, 0, 2}, {0, 65, 64}},
            {{0, 129, 21}}};
  }
  struct Tokens {
    Ints slots, positions;
    int64_t num_tokens() const { return static_cast<int64_t>(slots.values.size()); }
    StepInputs inputs() const {
      StepInputs inputs;
      inputs.num_tokens = num_tokens();
      inputs.token_slots = slots.view();
      inputs.positions = positions.view();
      return inputs;
    }
  };

  StateWorld(int num_slots, int num_pages, int64_t width, int64_t levels, int64_t element_bytes = 4)
      : num_slots_(num_slots), width_(width), levels_(levels) {
    pool_ = {nullptr, KvFormat::kF32, num_pages, 1, 4};
    pool_.tail_bytes = (width * levels * element_bytes + 15) / 16 * 16;
    memory_.assign(pool_.size_bytes() / 4, kPoison);
    pool_.base = memory_.data();
    carried_.assign(num_slots * levels * width, kPoison);
    pages_per_slot_ = num_pages / num_slots;
    for (int i = 0; i < num_slots * pages_per_slot_; ++i) {
      page_table_.values.push_back(num_pages - 1 - i);
    }
  }

  Tokens tokens(const std::vector<Run>& runs) const {
    Tokens tokens;
    for (const Run& run : runs) {
      for (int32_t i = 0; i < run.length; ++i) {
        tokens.slots.values.push_back(run.slot);
        tokens.positions.values.push_back(run.slot < 0 ? 0 : run.start + i);
      }
    }
    return tokens;
  }
  // Exact in BF16, too: at most 8 bits.
  float value(int32_t slot, int32_t position, int64_t level, int64_t i) const {
    return static_cast<float>((position * 7 + slot * 91 + level * 53 + i * 29) % 251);
  }
  Matrix states(const Tokens& tokens, int64_t level) const {
    Matrix states(tokens.num_tokens(), width_);
    for (int64_t t = 0; t < tokens.num_tokens(); ++t) {
      for (int64_t i = 0; i < width_; ++i) {
        states.at(t, i) = value(tokens.slots.values[t], tokens.positions.values[t], level, i);
      }
    }
    return states;
  }
  float state_before(const Tokens& tokens, int64_t t, int64_t level, int64_t i) const {
    const int32_t slot = tokens.slots.values[t];
    const int32_t position = tokens.positions.values[t];
    return slot < 0 || position == 0 ? 0.0f : value(slot, position - 1, level, i);
  }
  StepState state() {
    StepState state;
    state.page_table = page_table_.view(num_slots_, pages_per_slot_);
    state.carried_states = TensorView::of(carried_.data(), {num_slots_, levels_ * width_});
    return state;
  }
  const KvPool& pool() const { return pool_; }

 private:
  int64_t num_slots_, width_, levels_;
  int64_t pages_per_slot_ = 0;
  KvPool pool_;
  std::vector<float> memory_, carried_;
  Ints page_table_;
};

}  // namespace deepflight::testing
