// Problems of this folder: plain data for the kernels, mirrors of compute/ops/step_state.h. Strides
// are in elements.
#pragma once

#include <cstdint>

#include "compute/ops/slot_sampling.h"

namespace deepflight::cuda_step_state {

// out[r] = x[row_ids[r]]. An id outside [0, num_source_rows) reads row 0: a kernel cannot CHECK.
struct GatherProblem {
  int64_t num_rows = 0;
  int64_t width = 0;
  int64_t num_source_rows = 0;
  const uint16_t* x = nullptr;  // BF16 [num_source_rows, width]
  int64_t x_stride = 0;
  const int32_t* row_ids = nullptr;  // [num_rows]
  uint16_t* out = nullptr;           // BF16 [num_rows, width]
  int64_t out_stride = 0;
};

// The arrays of StepState that these kernels touch.
struct State {
  int64_t num_slots = 0;
  int64_t vocab_size = 0;
  int32_t* last_tokens = nullptr;    // [num_slots]
  int32_t* kv_lens = nullptr;        // [num_slots]
  int32_t* num_outputs = nullptr;    // [num_slots]
  int32_t* output_counts = nullptr;  // [num_slots, vocab_size]
  int64_t output_counts_stride = 0;
  uint8_t* prompt_seen = nullptr;  // [num_slots, vocab_size]
  int64_t prompt_seen_stride = 0;
  int32_t* page_table = nullptr;  // [num_slots, max_pages]
  int64_t page_table_stride = 0;
  int64_t max_pages = 0;
  int32_t* bias_ids = nullptr;   // [num_slots, max_biases]
  float* bias_values = nullptr;  // [num_slots, max_biases]
  int64_t bias_ids_stride = 0;
  int64_t bias_values_stride = 0;
  int64_t max_biases = 0;
  int32_t* banned_ids = nullptr;  // [num_slots, max_banned]
  int64_t banned_ids_stride = 0;
  int64_t max_banned = 0;
  SlotSampling* sampling = nullptr;  // [num_slots]
  int32_t* token_masks = nullptr;    // [num_slots, mask_words]
  int64_t token_masks_stride = 0;
  int64_t mask_words = 0;
  // Null without drafts.
  int32_t* draft_tokens = nullptr;  // [num_slots, max_draft_len]
  int64_t draft_stride = 0;
  int64_t max_draft_len = 0;
  int32_t* thinking = nullptr;  // [num_slots]
};

// For rows r < num_rows with slot s, of 1 + draft_len tokens each: token_ids = last_tokens[s], then
// the slot's drafts (0 for none), positions from kv_lens[s] on, row_kv_lens[r] = kv_lens[s] + 1 +
// draft_len; all 0 where the slot is negative.
struct PrepareProblem {
  State state;
  int64_t num_rows = 0;
  const int32_t* slots = nullptr;  // [num_rows]
  int32_t* token_ids = nullptr;    // [num_rows * (1 + draft_len)]
  int32_t* positions = nullptr;    // [num_rows * (1 + draft_len)]
  int32_t* row_kv_lens = nullptr;  // [num_rows]
  int64_t draft_len = 0;
};

// The first num_decode_tokens tokens are decode rows of 1 + draft_len sampled rows each; of the
// others, kv_lens[token_slots[t]] = positions[t] + 1 for the last of a slot's tokens, which lie
// next to each other. Then, for each result (a decode row, or one of the sampled rows that follow),
// what Backend::update_state says. Negative slots change nothing.
struct UpdateProblem {
  State state;
  int64_t num_tokens = 0;
  const int32_t* token_slots = nullptr;  // [num_tokens]
  const int32_t* positions = nullptr;    // [num_tokens]
  int64_t num_sampled_rows = 0;
  const int32_t* sampled_slots = nullptr;   // [num_sampled_rows]; a slot in one result at most
  const int32_t* sampled_tokens = nullptr;  // [num_sampled_rows]
  int64_t num_decode_rows = 0;
  int64_t draft_len = 0;
  int32_t* num_accepted = nullptr;  // [num results]; may be null
};

// StepDeltas: all arrays in device memory (or mapped host memory). A slot is admitted at most once.
struct DeltasProblem {
  State state;
  int64_t num_admissions = 0;
  const SlotDelta* admissions = nullptr;  // [num_admissions]
  const int32_t* tokens = nullptr;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const int32_t* banned_ids = nullptr;
  int64_t num_page_grants = 0;
  const int32_t* grant_slots = nullptr;     // [num_page_grants]
  const int32_t* grant_page_idx = nullptr;  // [num_page_grants]
  const int32_t* grant_pages = nullptr;     // [num_page_grants]
  int64_t num_masks = 0;
  const int32_t* mask_slots = nullptr;  // [num_masks]; a slot at most once
  const int32_t* mask_modes = nullptr;  // [num_masks]
  const int32_t* masks = nullptr;       // [num_masks, mask_words], rows of masks_stride
  int64_t masks_stride = 0;
};

}  // namespace deepflight::cuda_step_state
