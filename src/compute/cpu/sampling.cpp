// Sampling of one row at a time: log-probabilities, penalties, filters, one Philox draw.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "compute/cpu/cpu_backend.h"
#include "compute/ops/philox.h"

namespace deepflight {
namespace {

bool all_finite(const float* logits, int64_t count) {
  uint32_t num_bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    num_bad += !(std::fabs(logits[i]) <= std::numeric_limits<float>::max());
  }
  return num_bad == 0;
}

// log of the sum of exponentials, in double.
double log_sum_exp(const float* logits, int64_t count) {
  const float maximum = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(double{logits[i]} - maximum);
  return maximum + std::log(sum);
}

void write_top_logprobs(const float* logits, int64_t vocab_size, double normalizer, int64_t count,
                        int32_t* ids, float* logprobs) {
  thread_local std::vector<int32_t> order;
  order.resize(vocab_size);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = order[i];
    logprobs[i] = static_cast<float>(logits[order[i]] - normalizer);
  }
}

// A row's slot, and its drafts that count as output for it.
struct RowPlace {
  const StepState& state;
  int32_t slot;
  int64_t num_drafts;

  int32_t draft(int64_t i) const { return state.draft_tokens.row<int32_t>(slot)[i]; }
  int32_t num_outputs() const {
    return state.num_outputs.data<int32_t>()[slot] + static_cast<int32_t>(num_drafts);
  }
  // Occurrences in the output, drafts included.
  const int32_t* output_counts(int64_t vocab_size) const {
    const int32_t* counts = state.output_counts.row<int32_t>(slot);
    if (num_drafts == 0) return counts;
    thread_local std::vector<int32_t> copy;
    copy.assign(counts, counts + vocab_size);
    for (int64_t i = 0; i < num_drafts; ++i) {
      if (draft(i) >= 0) ++copy[draft(i)];
    }
    return copy.data();
  }
  bool thinking() const {
    bool thinking = state.thinking.data<int32_t>()[slot] != 0;
    for (int64_t i = 0; i < num_drafts; ++i) {
      if (draft(i) == state.sampling[slot].think_start) thinking = true;
      if (draft(i) == state.sampling[slot].think_end) thinking = false;
    }
    return thinking;
  }
};

// Order as in vLLM: repetition, frequency, presence, then bias, then bans or the mask.
void adjust_logits(const RowPlace& place, float* logits, int64_t vocab_size) {
  const StepState& state = place.state;
  const int32_t slot = place.slot;
  const SlotSampling& params = state.sampling[slot];
  const bool has_penalties = params.repetition_penalty != 1.0f ||
                             params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f;
  const int32_t* counts = has_penalties ? place.output_counts(vocab_size) : nullptr;
  const uint8_t* in_prompt = state.prompt_seen.row<uint8_t>(slot);
  if (params.repetition_penalty != 1.0f) {
    for (int64_t i = 0; i < vocab_size; ++i) {
      if (counts[i] == 0 && in_prompt[i] == 0) continue;
      logits[i] = logits[i] > 0 ? logits[i] / params.repetition_penalty
                                : logits[i] * params.repetition_penalty;
    }
  }
  if (params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f) {
    for (int64_t i = 0; i < vocab_size; ++i) {
      if (counts[i] == 0) continue;
      logits[i] -=
          params.frequency_penalty * static_cast<float>(counts[i]) + params.presence_penalty;
    }
  }
  for (int32_t i = 0; i < params.num_biases; ++i) {
    logits[state.bias_ids.row<int32_t>(slot)[i]] += state.bias_values.row<float>(slot)[i];
  }
  if (params.mask != kMaskOff && mask_is_on(params.mask, state.last_tokens.data<int32_t>()[slot])) {
    const auto* words = reinterpret_cast<const uint32_t*>(state.token_masks.row<int32_t>(slot));
    for (int64_t i = 0; i < vocab_size; ++i) {
      if ((words[i / 32] >> (i % 32) & 1u) == 0) logits[i] = -INFINITY;
    }
  } else if (place.num_outputs() < params.min_tokens) {
    for (int32_t i = 0; i < params.num_banned; ++i) {
      logits[state.banned_ids.row<int32_t>(slot)[i]] = -INFINITY;
    }
  }
}

int32_t arg_max(const float* logits, int64_t count) {
  return static_cast<int32_t>(std::max_element(logits, logits + count) - logits);
}

// A draw by inverse transform over the tokens that pass the filters, most likely first:
// top-k, then top-p over the renormalised rest, then min-p relative to the best.
int32_t draw(const SlotSampling& params, const float* logits, int64_t vocab_size, double uniform) {
  thread_local std::vector<int32_t> order;
  thread_local std::vector<double> weights;
  order.resize(vocab_size);
  std::iota(order.begin(), order.end(), 0);
  int64_t count = vocab_size;
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  if (params.top_k > 0 && params.top_k < vocab_size) {
    count = params.top_k;
    std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
  } else {
    std::sort(order.begin(), order.end(), better);
  }
  const double best = logits[order[0]];
  weights.resize(count);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    weights[i] = std::exp((logits[order[i]] - best) / params.temperature);
    total += weights[i];
  }
  if (params.top_p < 1.0f) {
    double kept = 0;
    int64_t end = 0;
    while (end < count && kept < params.top_p * total) kept += weights[end++];
    count = std::max<int64_t>(end, 1);
    total = kept;
  }
  if (params.min_p > 0.0f) {
    int64_t end = 1;
    total = weights[0];
    while (end < count && weights[end] >= params.min_p) total += weights[end++];
    count = end;
  }
  // Rounding may leave a uniform number near 1 a little short of the total: the last token must not
  // be one that cannot come, such as a banned one.
  while (count > 1 && weights[count - 1] == 0) --count;
  double target = uniform * total;
  for (int64_t i = 0; i < count; ++i) {
    target -= weights[i];
    if (target < 0) return order[i];
  }
  return order[count - 1];
}

// Relaxed acceptance: the draft is one of the best, and not much worse than the very best.
bool passes_relaxed(const SlotSampling& params, const float* logits, int64_t vocab_size,
                    int32_t draft) {
  const auto num_better = std::count_if(logits, logits + vocab_size, [&](const float& other) {
    return other > logits[draft] || (other == logits[draft] && &other < logits + draft);
  });
  if (num_better >= params.relaxed_topn) return false;
  const double normalizer = log_sum_exp(logits, vocab_size);
  const double best = std::exp(logits[arg_max(logits, vocab_size)] - normalizer);
  return std::exp(logits[draft] - normalizer) >= best - params.relaxed_delta;
}

// What becomes of a row's sampled token where its next draft need not equal it. `logits`: adjusted.
int32_t accept_draft(const RowPlace& place, const float* logits, int64_t vocab_size,
                     int32_t sampled) {
  const SlotSampling& params = place.state.sampling[place.slot];
  const int32_t draft = place.draft(place.num_drafts);
  if (draft < 0) return sampled;
  if (params.simulated_acceptance >= 0.0f) {
    const double uniform = philox_uniform(~params.seed, static_cast<uint32_t>(place.num_outputs()));
    if (uniform < params.simulated_acceptance) return draft;
    return sampled == draft ? static_cast<int32_t>((sampled + 1) % vocab_size) : sampled;
  }
  if (params.relaxed_topn == 0 || !place.thinking()) return sampled;
  return passes_relaxed(params, logits, vocab_size, draft) ? draft : sampled;
}

}  // namespace

void CpuBackend::sample(const StepState& state, const StepInputs& inputs, const TensorView& logits,
                        const SampledTokens& sampled) {
  const int64_t vocab_size = logits.dim(1);
  CHECK(logits.dim(0) == inputs.num_sampled_rows, logits.to_string(), inputs.num_sampled_rows);
  std::atomic<int32_t> first_bad_row = std::numeric_limits<int32_t>::max();
  for_rows(inputs.num_sampled_rows, vocab_size * 16, [&](int64_t row) {
    const int32_t slot = inputs.sampled_slots.data<int32_t>()[row];
    sampled.tokens.data<int32_t>()[row] = 0;
    if (slot < 0) return;  // padding
    const SlotSampling& params = state.sampling[slot];
    float* values = logits.row<float>(row);
    // NaN has no order, and sorting what has none is undefined.
    if (!all_finite(values, vocab_size)) {
      int32_t known = first_bad_row;
      while (row < known &&
             !first_bad_row.compare_exchange_weak(known, static_cast<int32_t>(row))) {
      }
      return;
    }
    const bool wants_logprobs = params.num_logprobs >= 0;
    double normalizer = 0;
    thread_local std::vector<float> raw;
    if (wants_logprobs) {
      normalizer = log_sum_exp(values, vocab_size);
      const int64_t count = std::min<int64_t>(params.num_logprobs, sampled.max_logprobs);
      write_top_logprobs(values, vocab_size, normalizer, std::min(count, vocab_size),
                         sampled.top_ids.row<int32_t>(row), sampled.top_logprobs.row<float>(row));
      raw.assign(values, values + vocab_size);
    }
    const RowPlace place{state, slot, inputs.draft_idx(row)};
    adjust_logits(place, values, vocab_size);
    int32_t token;
    if (params.temperature == 0.0f) {
      token = arg_max(values, vocab_size);
    } else {
      const auto counter = static_cast<uint32_t>(place.num_outputs());
      token = draw(params, values, vocab_size, philox_uniform(params.seed, counter));
    }
    const bool before_draft =
        row < inputs.num_decode_tokens() && place.num_drafts < inputs.draft_len;
    if (before_draft) token = accept_draft(place, values, vocab_size, token);
    sampled.tokens.data<int32_t>()[row] = token;
    if (wants_logprobs) {
      sampled.logprobs.data<float>()[row] = static_cast<float>(raw[token] - normalizer);
    }
  });
  const int32_t bad_row = first_bad_row;
  sampled.first_bad_row.data<int32_t>()[0] =
      bad_row == std::numeric_limits<int32_t>::max() ? -1 : bad_row;
}

}  // namespace deepflight
