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
  sampling.mask = mask_mode(admission.mask_start);
  if (admission.mask_start.bans_ends) sampling.min_tokens = INT32_MAX;  // until the mask is on
  sampling.seed = admission.rng_seed;
  return sampling;
}

void set_drafts(const SamplingParams& params, const SpeculativeConfig& config,
                SlotSampling* sampling) {
  // What a mask allows after a draft nobody has worked out.
  const bool uses_drafts = params.use_drafts && sampling->mask == kMaskOff;
  sampling->max_drafts = uses_drafts ? config.draft_len : 0;
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

int32_t mask_mode(const MaskStart& start) {
  switch (start.kind) {
    case MaskStart::Kind::kNow:
      return kMaskOn;
    case MaskStart::Kind::kAfterToken:
      return mask_after(start.token);
    case MaskStart::Kind::kNever:
      break;
  }
  return kMaskOff;
}

PendingAdmission make_admission(const SlotAdmission& admission, std::span<const int32_t> tokens,
                                std::span<const int32_t> eos_token_ids,
                                const SpeculativeConfig& speculative) {
  const SamplingParams& params = *admission.sampling;
  PendingAdmission pending;
  pending.biases = params.logit_bias;
  const bool bans_ends = admission.mask_start.bans_ends;
  if (params.min_tokens > 0 || bans_ends) {
    // NOTE: with bans_ends the client's stop tokens are banned as long: the output is not whole.
    pending.banned_ids = params.stop_token_ids;
    if (!params.ignore_eos || bans_ends) {
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

DeltaRounds::Arrays DeltaRounds::carve(const Counts& counts, int64_t mask_words, void* memory) {
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
  deltas.num_masks = counts.num_masks;
  deltas.mask_slots = carver.take(DType::kI32, {counts.num_masks});
  deltas.mask_modes = carver.take(DType::kI32, {counts.num_masks});
  deltas.masks = carver.take(DType::kI32, {counts.num_masks, mask_words});
  arrays.size_bytes = carver.used_bytes();
  return arrays;
}

int64_t DeltaRounds::size_bytes(const Counts& counts, int64_t mask_words) {
  return carve(counts, mask_words, nullptr).size_bytes;
}

int64_t DeltaRounds::min_block_bytes(int64_t max_tokens_per_slot, int64_t mask_words) {
  return size_bytes({.num_admissions = 1,
                     .num_tokens = max_tokens_per_slot,
                     .num_biases = kMaxLogitBiases,
                     .num_banned = kMaxBannedIds,
                     .num_grants = 16,
                     .num_masks = 1},
                    mask_words);
}

void DeltaRounds::clear() {
  admissions_.clear();
  grants_.clear();
  masks_.clear();
  next_admission_ = next_grant_ = next_mask_ = 0;
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

// As many of what is left as the block holds, admissions first, then grants.
DeltaRounds::Counts DeltaRounds::fitting_counts() const {
  Counts counts;
  for (size_t i = next_admission_; i < admissions_.size(); ++i) {
    const Counts more = plus(counts, admissions_[i]);
    if (size_bytes(more, mask_words_) > block_bytes_) return counts;
    counts = more;
  }
  // Arrays, each rounded up to the carver's alignment.
  const auto room_for = [&](int64_t item_bytes, int64_t num_arrays) {
    return (block_bytes_ - size_bytes(counts, mask_words_) - num_arrays * 64) / item_bytes;
  };
  const auto grants_left = static_cast<int64_t>(grants_.size() - next_grant_);
  counts.num_grants = std::clamp<int64_t>(room_for(sizeof(Grant), 3), 0, grants_left);
  const auto masks_left = static_cast<int64_t>(masks_.size() - next_mask_);
  const int64_t mask_bytes = (mask_words_ + 2) * static_cast<int64_t>(sizeof(int32_t));
  counts.num_masks = std::clamp<int64_t>(room_for(mask_bytes, 3), 0, masks_left);
  return counts;
}

void DeltaRounds::write_admissions(const Arrays& host, int64_t count) {
  Counts used;
  for (; used.num_admissions < count; ++next_admission_) {
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
}

void DeltaRounds::write_grants(const Arrays& host, int64_t count) {
  for (int64_t i = 0; i < count; ++i, ++next_grant_) {
    const Grant& grant = grants_[next_grant_];
    host.deltas.grant_slots.data<int32_t>()[i] = grant.slot;
    host.deltas.grant_page_idx.data<int32_t>()[i] = grant.page_idx;
    host.deltas.grant_pages.data<int32_t>()[i] = grant.page;
  }
}

void DeltaRounds::write_masks(const Arrays& host, int64_t count) {
  for (int64_t i = 0; i < count; ++i, ++next_mask_) {
    const TokenMaskUpdate& update = masks_[next_mask_];
    host.deltas.mask_slots.data<int32_t>()[i] = update.slot;
    host.deltas.mask_modes.data<int32_t>()[i] = mask_mode(update.start);
    std::ranges::copy(*update.mask, reinterpret_cast<uint32_t*>(host.deltas.masks.row<int32_t>(i)));
  }
}

DeltaRounds::Round DeltaRounds::next(void* staging, void* device) {
  const Counts counts = fitting_counts();
  CHECK(counts.num_admissions + counts.num_grants + counts.num_masks > 0, block_bytes_);
  const Arrays host = carve(counts, mask_words_, staging);
  CHECK(host.admissions != nullptr || counts.num_admissions == 0);
  write_admissions(host, counts.num_admissions);
  write_grants(host, counts.num_grants);
  write_masks(host, counts.num_masks);
  return {carve(counts, mask_words_, device).deltas, host.size_bytes};
}

}  // namespace deepflight
