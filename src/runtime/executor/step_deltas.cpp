// Layout of a round of deltas, and what of an admission is sent.
#include "runtime/executor/step_deltas.h"

#include <algorithm>

#include "base/check.h"

namespace deepflight {
namespace {

SlotSampling make_sampling(const SlotAdmission& admission) {
  const SamplingParams& params = *admission.sampling;
  SlotSampling sampling{};
  sampling.temperature = params.temperature;
  sampling.top_p = params.top_p;
  sampling.min_p = params.min_p;
  sampling.repetition_penalty = params.repetition_penalty;
  sampling.presence_penalty = params.presence_penalty;
  sampling.frequency_penalty = params.frequency_penalty;
  sampling.top_k = std::max(params.top_k, 0);
  sampling.num_logprobs = params.num_logprobs.value_or(-1);
  sampling.num_biases = static_cast<int32_t>(params.logit_bias.size());
  sampling.min_tokens = params.min_tokens;
  sampling.seed = admission.rng_seed;
  return sampling;
}

void set_drafts(const SamplingParams& params, const SpeculativeConfig& config,
                SlotSampling* sampling) {
  sampling->max_drafts = params.use_drafts ? config.draft_len : 0;
  sampling->relaxed_topn = config.relaxed_topn;
  sampling->relaxed_delta = config.relaxed_delta;
  sampling->think_start = config.think_start;
  sampling->think_end = config.think_end;
  sampling->simulated_acceptance = config.simulated_acceptance;
}

// Whether the last of the two tokens is the one that opens.
bool ends_thinking(std::span<const int32_t> tokens, const SpeculativeConfig& config) {
  for (size_t i = tokens.size(); i-- > 0;) {
    if (tokens[i] == config.think_end) return false;
    if (tokens[i] == config.think_start) return true;
  }
  return false;
}

}  // namespace

PendingAdmission make_admission(const SlotAdmission& admission, std::span<const int32_t> tokens,
                                std::span<const int32_t> eos_token_ids,
                                const SpeculativeConfig& speculative) {
  const SamplingParams& params = *admission.sampling;
  PendingAdmission pending;
  pending.biases = params.logit_bias;
  if (params.min_tokens > 0) {
    pending.banned_ids = params.stop_token_ids;
    if (!params.ignore_eos) {
      pending.banned_ids.insert(pending.banned_ids.end(), eos_token_ids.begin(),
                                eos_token_ids.end());
    }
  }
  SlotDelta& delta = pending.delta;
  delta.slot = admission.slot;
  delta.kv_len = admission.num_cached_tokens;
  delta.num_outputs = static_cast<int32_t>(tokens.size()) - admission.prompt_len;
  delta.sampling = make_sampling(admission);
  set_drafts(params, speculative, &delta.sampling);
  delta.thinking = speculative.relaxed_topn > 0 && ends_thinking(tokens, speculative) ? 1 : 0;
  delta.sampling.num_banned = static_cast<int32_t>(pending.banned_ids.size());
  if (params.repetition_penalty != 1.0f) {
    pending.tokens = tokens;
    delta.num_prompt_tokens = admission.prompt_len;
  } else if (params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f) {
    pending.tokens = tokens.subspan(admission.prompt_len);
  }
  delta.num_tokens = static_cast<int32_t>(pending.tokens.size());
  return pending;
}

// One round's arrays, in one block.
struct DeltaRounds::Arrays {
  SlotDelta* admissions;
  StepDeltas deltas;
  int64_t size_bytes;
};

DeltaRounds::Arrays DeltaRounds::carve(const Counts& counts, void* memory) {
  Carver carver(memory);
  Arrays arrays{};
  arrays.admissions = static_cast<SlotDelta*>(
      carver.take_bytes(counts.num_admissions * static_cast<int64_t>(sizeof(SlotDelta))));
  StepDeltas& deltas = arrays.deltas;
  deltas.num_admissions = counts.num_admissions;
  deltas.admissions = arrays.admissions;
  deltas.tokens = carver.take(DType::kI32, {counts.num_tokens});
  deltas.bias_ids = carver.take(DType::kI32, {counts.num_biases});
  deltas.bias_values = carver.take(DType::kF32, {counts.num_biases});
  deltas.banned_ids = carver.take(DType::kI32, {counts.num_banned});
  deltas.num_page_grants = counts.num_grants;
  deltas.grant_slots = carver.take(DType::kI32, {counts.num_grants});
  deltas.grant_page_idx = carver.take(DType::kI32, {counts.num_grants});
  deltas.grant_pages = carver.take(DType::kI32, {counts.num_grants});
  arrays.size_bytes = carver.used_bytes();
  return arrays;
}

int64_t DeltaRounds::size_bytes(const Counts& counts) { return carve(counts, nullptr).size_bytes; }

int64_t DeltaRounds::min_block_bytes(int64_t max_tokens_per_slot) {
  return size_bytes({.num_admissions = 1,
                     .num_tokens = max_tokens_per_slot,
                     .num_biases = kMaxLogitBiases,
                     .num_banned = kMaxBannedIds,
                     .num_grants = 16});
}

void DeltaRounds::clear() {
  admissions_.clear();
  grants_.clear();
  next_admission_ = next_grant_ = 0;
}

void DeltaRounds::add(const PageGrant& grant) {
  int32_t page_idx = grant.first_page_idx;
  for (const PageId page : grant.pages) {
    grants_.push_back({grant.slot, page_idx++, static_cast<int32_t>(page)});
  }
}

DeltaRounds::Counts DeltaRounds::plus(Counts counts, const PendingAdmission& admission) {
  ++counts.num_admissions;
  counts.num_tokens += static_cast<int64_t>(admission.tokens.size());
  counts.num_biases += static_cast<int64_t>(admission.biases.size());
  counts.num_banned += static_cast<int64_t>(admission.banned_ids.size());
  return counts;
}

// As many of what is left as the block holds, admissions first.
DeltaRounds::Counts DeltaRounds::fitting_counts() const {
  Counts counts;
  for (size_t i = next_admission_; i < admissions_.size(); ++i) {
    const Counts more = plus(counts, admissions_[i]);
    if (size_bytes(more) > block_bytes_) return counts;
    counts = more;
  }
  // Three arrays, each rounded up to the carver's alignment.
  constexpr int64_t kPaddingBytes = 3 * 64;
  const int64_t room = (block_bytes_ - size_bytes(counts) - kPaddingBytes) / int64_t{sizeof(Grant)};
  const auto left = static_cast<int64_t>(grants_.size() - next_grant_);
  counts.num_grants = std::clamp<int64_t>(room, 0, left);
  return counts;
}

DeltaRounds::Round DeltaRounds::next(void* staging, void* device) {
  const Counts counts = fitting_counts();
  CHECK(counts.num_admissions + counts.num_grants > 0, block_bytes_);
  const Arrays host = carve(counts, staging);
  CHECK(host.admissions != nullptr || counts.num_admissions == 0);
  Counts used;
  for (; used.num_admissions < counts.num_admissions; ++next_admission_) {
    const PendingAdmission& admission = admissions_[next_admission_];
    SlotDelta& delta = host.admissions[used.num_admissions];
    delta = admission.delta;
    delta.first_token = static_cast<int32_t>(used.num_tokens);
    delta.first_bias = static_cast<int32_t>(used.num_biases);
    delta.first_banned = static_cast<int32_t>(used.num_banned);
    std::ranges::copy(admission.tokens, host.deltas.tokens.data<int32_t>() + used.num_tokens);
    std::ranges::copy(admission.banned_ids,
                      host.deltas.banned_ids.data<int32_t>() + used.num_banned);
    for (size_t i = 0; i < admission.biases.size(); ++i) {
      host.deltas.bias_ids.data<int32_t>()[used.num_biases + i] = admission.biases[i].first;
      host.deltas.bias_values.data<float>()[used.num_biases + i] = admission.biases[i].second;
    }
    used = plus(used, admission);
  }
  for (int64_t i = 0; i < counts.num_grants; ++i, ++next_grant_) {
    const Grant& grant = grants_[next_grant_];
    host.deltas.grant_slots.data<int32_t>()[i] = grant.slot;
    host.deltas.grant_page_idx.data<int32_t>()[i] = grant.page_idx;
    host.deltas.grant_pages.data<int32_t>()[i] = grant.page;
  }
  return {carve(counts, device).deltas, host.size_bytes};
}

}  // namespace deepflight
