// What sampling works on: Backend::sample of compute/ops/backend.h as plain device pointers.
// Strides are in elements. Unlike the CPU backend it leaves the logits as they are.
#pragma once

#include <cstdint>

#include "compute/ops/slot_sampling.h"

namespace deepflight::cuda_sample_verify {

inline constexpr int64_t kMaxVocabSize = (1 << 18) - 1;  // masses are sums in 64 bits

struct SampleProblem {
  const float* logits = nullptr;  // [num_rows, vocab_size]
  int64_t logits_stride = 0;
  int64_t num_rows = 0;
  int64_t vocab_size = 0;
  const int32_t* slots = nullptr;  // [num_rows]; negative: padding, samples token 0

  // StepState, by slot.
  const SlotSampling* sampling = nullptr;
  const int32_t* num_outputs = nullptr;
  const int32_t* output_counts = nullptr;  // [num_slots, vocab_size]
  int64_t counts_stride = 0;
  const uint8_t* prompt_seen = nullptr;  // [num_slots, vocab_size]
  int64_t seen_stride = 0;
  const int32_t* bias_ids = nullptr;  // [num_slots, max_biases]
  int64_t bias_ids_stride = 0;
  const float* bias_values = nullptr;  // [num_slots, max_biases]
  int64_t bias_values_stride = 0;
  const int32_t* banned_ids = nullptr;  // [num_slots, max_banned]
  int64_t banned_stride = 0;
  const int32_t* last_tokens = nullptr;   // read where a slot has a mask
  const uint32_t* token_masks = nullptr;  // [num_slots, ceil(vocab_size / 32)]
  int64_t masks_stride = 0;

  // The first rows are decode rows of 1 + draft_len rows each: row r samples behind the first
  // r % (1 + draft_len) drafts of its slot. Null and 0 without drafts.
  int64_t num_decode_tokens = 0;
  int64_t draft_len = 0;
  const int32_t* draft_tokens = nullptr;  // [num_slots, ..]
  int64_t draft_stride = 0;
  const int32_t* thinking = nullptr;  // [num_slots]

  // Results of a row depend on the row alone: how a row's logits are split over blocks does not
  // follow from the number of rows.
  bool batch_invariant = false;

  // SampledTokens.
  int64_t max_logprobs = 0;
  int32_t* tokens = nullptr;   // [num_rows]
  float* logprobs = nullptr;   // [num_rows]
  int32_t* top_ids = nullptr;  // [num_rows, max_logprobs]
  int64_t top_ids_stride = 0;
  float* top_logprobs = nullptr;  // [num_rows, max_logprobs]
  int64_t top_logprobs_stride = 0;
  int32_t* first_bad_row = nullptr;  // [1]: -1, or the first row whose logits were not finite

  void* scratch = nullptr;  // sample_scratch_bytes()
};

}  // namespace deepflight::cuda_sample_verify
