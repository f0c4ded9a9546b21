// For the tests and benches of sampling: slots with their state on the device, and the CPU
// backend's rules on the host. The host's draw also tells how close the uniform number came to
// another token.
#pragma once

#include <atomic>
#include <numeric>
#include <thread>

#include "compute/cuda/kernels/sample_verify/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"
#include "compute/ops/philox.h"

namespace deepflight::cuda_sample_verify {

using deepflight::testing::DeviceArray;

inline constexpr int kMaxListedIds = 32;
inline constexpr int kMaxLogprobs = 20;

inline SlotSampling neutral() {
  return {.temperature = 1.0f,
          .top_p = 1.0f,
          .min_p = 0.0f,
          .repetition_penalty = 1.0f,
          .presence_penalty = 0.0f,
          .frequency_penalty = 0.0f,
          .top_k = 0,
          .num_logprobs = -1,
          .num_biases = 0,
          .num_banned = 0,
          .min_tokens = 0,
          .mask = kMaskOff,
          .seed = 1};
}

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
  int32_t first_bad_row;
};

// Slot s of `num_slots` with its settings and state; rows name their slots.
struct Batch {
  Batch(int64_t num_slots, int64_t vocab, int64_t padding = 0)
      : vocab_size(vocab),
        logits_stride(vocab + padding),
        sampling(num_slots, neutral()),
        num_outputs(num_slots, 0),
        last_tokens(num_slots, -1),
        bias_ids(num_slots * kMaxListedIds, -1),
        banned_ids(num_slots * kMaxListedIds, -1),
        bias_values(num_slots * kMaxListedIds, NAN) {}

  // The penalties' arrays, where a test needs them: vocab_size a slot.
  void make_counts() {
    counts.assign(sampling.size() * vocab_size, 0);
    seen.assign(sampling.size() * vocab_size, 0);
  }

  // The masks, where a test needs them: nothing allowed.
  void make_masks() { masks.assign(sampling.size() * mask_words(), 0); }
  int64_t mask_words() const { return (vocab_size + 31) / 32; }
  void allow(int64_t slot, int32_t token) {
    masks[slot * mask_words() + token / 32] |= 1u << (token % 32);
  }
  bool allows(int64_t slot, int64_t token) const {
    return masks[slot * mask_words() + token / 32] >> (token % 32) & 1u;
  }

  // `batch_invariant`: of the problem.
  Outcome run(bool batch_invariant = false) const {
    const auto num_rows = static_cast<int64_t>(slots.size());
    const DeviceArray<float> d_logits(logits);
    const DeviceArray<int32_t> d_slots(slots), d_outputs(num_outputs), d_counts(counts),
        d_bias_ids(bias_ids), d_banned(banned_ids), d_last(last_tokens);
    const DeviceArray<uint32_t> d_masks(masks);
    const DeviceArray<uint8_t> d_seen(seen);
    const DeviceArray<float> d_bias_values(bias_values);
    const DeviceArray<SlotSampling> d_sampling(sampling);
    const DeviceArray<int32_t> tokens(num_rows), top_ids(num_rows * kMaxLogprobs), bad(1);
    const DeviceArray<float> logprobs(num_rows), top_logprobs(num_rows * kMaxLogprobs);
    const DeviceArray<uint8_t> scratch(sample_scratch_bytes(num_rows));
    SampleProblem p;
    p.logits = d_logits.data();
    p.logits_stride = logits_stride;
    p.num_rows = num_rows;
    p.vocab_size = vocab_size;
    p.slots = d_slots.data();
    p.sampling = d_sampling.data();
    p.num_outputs = d_outputs.data();
    p.output_counts = d_counts.data();
    p.prompt_seen = d_seen.data();
    p.counts_stride = p.seen_stride = vocab_size;
    p.bias_ids = d_bias_ids.data();
    p.bias_values = d_bias_values.data();
    p.banned_ids = d_banned.data();
    p.bias_ids_stride = p.bias_values_stride = p.banned_stride = kMaxListedIds;
    p.last_tokens = d_last.data();
    p.token_masks = d_masks.data();
    p.masks_stride = mask_words();
    p.max_logprobs = kMaxLogprobs;
    p.tokens = tokens.data();
    p.logprobs = logprobs.data();
    p.top_ids = top_ids.data();
    p.top_logprobs = top_logprobs.data();
    p.top_ids_stride = p.top_logprobs_stride = kMaxLogprobs;
    p.first_bad_row = bad.data();
    p.scratch = scratch.data();
    p.batch_invariant = batch_invariant;
    sample(p, nullptr);
    return {tokens.host(), logprobs.host(), top_ids.host(), top_logprobs.host(), bad.host()[0]};
  }

  int64_t vocab_size;
  int64_t logits_stride;
  std::vector<int32_t> slots;  // by row
  std::vector<float> logits;   // rows of logits_stride
  std::vector<SlotSampling> sampling;
  std::vector<int32_t> num_outputs, last_tokens, counts, bias_ids, banned_ids;
  std::vector<uint32_t> masks;
  std::vector<uint8_t> seen;
  std::vector<float> bias_values;
};

// --- the rules on the host

inline std::vector<float> adjusted_logits(const Batch& batch, int64_t row) {
  const int64_t vocab = batch.vocab_size;
  const auto first = batch.logits.begin() + row * batch.logits_stride;
  std::vector<float> logits(first, first + vocab);
  const int32_t slot = batch.slots[row];
  const SlotSampling& params = batch.sampling[slot];
  for (int64_t i = 0; i < vocab && !batch.counts.empty(); ++i) {
    const int32_t count = batch.counts[slot * vocab + i];
    float& logit = logits[i];
    if (params.repetition_penalty != 1.0f && (count != 0 || batch.seen[slot * vocab + i] != 0)) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (count != 0) {
      logit -=
          std::fma(params.frequency_penalty, static_cast<float>(count), params.presence_penalty);
    }
  }
  const int64_t listed = slot * kMaxListedIds;
  for (int i = 0; i < params.num_biases; ++i) {
    logits[batch.bias_ids[listed + i]] += batch.bias_values[listed + i];
  }
  if (mask_is_on(params.mask, batch.last_tokens[slot])) {
    for (int64_t i = 0; i < vocab; ++i) {
      if (!batch.allows(slot, i)) logits[i] = -INFINITY;
    }
  } else if (batch.num_outputs[slot] < params.min_tokens) {
    for (int i = 0; i < params.num_banned; ++i) {
      logits[batch.banned_ids[listed + i]] = -INFINITY;
    }
  }
  return logits;
}

struct Drawn {
  int32_t token;
  // How far, relative to the whole, the uniform number and the ends of top-p and min-p were from
  // where another token would have come out.
  double margin;
};

inline Drawn draw_on_host(const SlotSampling& params, const std::vector<float>& logits,
                          double uniform) {
  const auto vocab = static_cast<int64_t>(logits.size());
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  int64_t count = vocab;
  if (params.top_k > 0 && params.top_k < vocab) count = params.top_k;
  const double best = logits[order[0]];
  std::vector<double> weights(count);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    weights[i] = std::exp((logits[order[i]] - best) / params.temperature);
    total += weights[i];
  }
  double margin = INFINITY;
  if (params.top_p < 1.0f) {
    const double threshold = params.top_p * total;
    double kept = 0;
    int64_t end = 0;
    while (end < count && kept < threshold) kept += weights[end++];
    margin = std::fabs(kept - threshold) / total;
    if (end > 0) margin = std::min(margin, std::fabs(kept - weights[end - 1] - threshold) / total);
    count = std::max<int64_t>(end, 1);
    total = kept;
  }
  if (params.min_p > 0.0f) {
    int64_t end = 1;
    total = weights[0];
    while (end < count && weights[end] >= params.min_p) total += weights[end++];
    count = end;
  }
  while (count > 1 && weights[count - 1] == 0) --count;
  double target = uniform * total;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double below = sum;
    sum += weights[i];
    if (target < sum) {
      margin = std::min({margin, (target - below) / total, (sum - target) / total});
      return {order[i], margin};
    }
  }
  return {order[count - 1], 0.0};
}

inline Drawn sample_on_host(const Batch& batch, int64_t row) {
  const int32_t slot = batch.slots[row];
  const SlotSampling& params = batch.sampling[slot];
  const auto logits = adjusted_logits(batch, row);
  if (params.temperature == 0.0f) {
    return {static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()),
            INFINITY};
  }
  const auto counter = static_cast<uint32_t>(batch.num_outputs[slot]);
  return draw_on_host(params, logits, philox_uniform(params.seed, counter));
}

// All rows but padding, on all cores.
inline std::vector<Drawn> sample_on_host(const Batch& batch) {
  std::vector<Drawn> drawn(batch.slots.size());
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (size_t row = next++; row < drawn.size(); row = next++) {
        if (batch.slots[row] >= 0) drawn[row] = sample_on_host(batch, static_cast<int64_t>(row));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return drawn;
}

}  // namespace deepflight::cuda_sample_verify
