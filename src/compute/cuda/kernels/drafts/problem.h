// Problems of this folder: plain data for the kernels, mirrors of the draft ops of
// compute/ops/backend.h. Strides are in elements.
#pragma once

#include <cstdint>

#include "compute/ops/slot_sampling.h"

namespace deepflight::cuda_drafts {

// The states of a step's tokens, and where those of earlier tokens were left: in the tail of the
// page of a page's last token, else by slot.
struct StatesProblem {
  int64_t num_tokens = 0;
  int64_t width = 0;
  const int32_t* token_slots = nullptr;  // [num_tokens]
  const int32_t* positions = nullptr;    // [num_tokens]
  const uint16_t* states = nullptr;      // BF16 [num_tokens, width]
  int64_t states_stride = 0;
  uint16_t* carried = nullptr;  // BF16 [num_slots, width], of the level
  int64_t carried_stride = 0;
  char* tails = nullptr;  // of page 0, of the level
  int64_t page_stride_bytes = 0;
  const int32_t* page_table = nullptr;  // [num_slots, max_pages]
  int64_t page_table_stride = 0;
  uint16_t* out = nullptr;  // BF16 [num_tokens, width]: of shift_states
  int64_t out_stride = 0;
};

// Rows of the results, and what the next drafts start from.
struct BeginProblem {
  int64_t num_results = 0;
  int64_t num_decode_rows = 0;
  int64_t draft_len = 0;
  const int32_t* positions = nullptr;          // of the step's tokens
  const int32_t* sampled_token_idx = nullptr;  // [num_sampled_rows]
  const int32_t* sampled_slots = nullptr;      // [num_sampled_rows]
  const int32_t* num_accepted = nullptr;       // [num_results]
  const int32_t* kv_lens = nullptr;            // [num_slots]
  const int32_t* last_tokens = nullptr;        // [num_slots]
  int32_t* draft_tokens = nullptr;             // [num_slots, max_draft_len]: set to -1
  int64_t draft_stride = 0;
  int64_t max_draft_len = 0;
  const int32_t* sampled_tokens = nullptr;  // [num_sampled_rows]
  int32_t* verified_positions = nullptr;    // [num_sampled_rows + num_extra * num_results]
  // With extra rows only; of the same length but the last three of them, [num_results (+ 1)].
  int64_t num_extra = 0;
  int32_t* verified_tokens = nullptr;
  int32_t* verified_slots = nullptr;
  int32_t* source_rows = nullptr;
  int32_t* verified_offsets = nullptr;
  int32_t* verified_kv_lens = nullptr;
  int32_t* verified_batch_slots = nullptr;
  int32_t* draft_rows = nullptr;
  int32_t* last_rows = nullptr;  // [num_results], as all below
  int32_t* token_ids = nullptr;
  int32_t* chain_positions = nullptr;
  int32_t* chain_slots = nullptr;
  int32_t* chain_kv_lens = nullptr;
  int32_t* query_offsets = nullptr;  // [num_results + 1]
};

// The arg max of each row becomes the slot's draft number draft_idx; ties go to the lower token.
struct TakeProblem {
  int64_t num_rows = 0;
  int64_t vocab_size = 0;
  const float* logits = nullptr;  // [num_rows, vocab_size]
  int64_t logits_stride = 0;
  const int32_t* slots = nullptr;  // [num_rows]
  const SlotSampling* sampling = nullptr;
  int64_t draft_idx = 0;
  int32_t* draft_tokens = nullptr;  // [num_slots, ..]
  int64_t draft_stride = 0;
  int32_t* token_ids = nullptr;  // [num_rows]: the draft
  int32_t* positions = nullptr;  // [num_rows]: one more
  int32_t* kv_lens = nullptr;    // [num_rows]: one more
  // With extra rows (DraftInputs::num_extra) in place of the last three: the draft goes to the row
  // behind draft_rows, which go on to it.
  int64_t num_extra = 0;
  int32_t* draft_rows = nullptr;
  int32_t* verified_tokens = nullptr;
};

}  // namespace deepflight::cuda_drafts
