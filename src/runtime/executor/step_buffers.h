// The arrays of one rank: the state that lives from step to step (by slot), and the block of one
// step's inputs. A block is carved to the step's counts, so it needs one short copy from the host,
// and the same counts always give the same layout, so a captured step finds its arrays in place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compute/ops/backend.h"
#include "compute/ops/step_state.h"
#include "tensor/carver.h"

namespace deepflight {

struct StepLimits {
  int64_t max_num_slots = 0;
  int64_t max_pages_per_slot = 0;
  int64_t max_batched_tokens = 0;
  int64_t vocab_size = 0;
  int64_t max_decode_rows = 0;  // of a captured step, padding included
  int64_t draft_len = 0;        // at most
  int64_t states_width = 0;     // of MtpDrafter
  int64_t num_extra_rows = 0;   // of DraftInputs
  DType activation_dtype = DType::kF32;

  // Each slot is at most one sequence of a step.
  int64_t max_sequences() const { return std::max(max_num_slots, max_decode_rows); }
  int64_t max_sampled_rows() const { return max_sequences() * (1 + draft_len); }
  int64_t mask_words() const { return (vocab_size + 31) / 32; }
  // Of the model or of an MTP module.
  int64_t max_tokens() const {
    return std::max({max_batched_tokens, max_decode_rows * (1 + draft_len),
                     max_sequences() * (1 + draft_len + num_extra_rows)});
  }
};

// The sizes of one step's arrays.
struct StepCounts {
  int64_t num_decode_rows = 0;
  int64_t num_tokens = 0;
  int64_t num_absorbed_tokens = 0;
  int64_t num_absorbed_sequences = 0;
  int64_t num_expanded_sequences = 0;
  int64_t num_sampled_rows = 0;
  int64_t draft_len = 0;

  int64_t num_results() const { return num_sampled_rows - num_decode_rows * draft_len; }

  // A step of decode rows alone, each token of which samples.
  static StepCounts decode(int64_t num_rows, int64_t draft_len = 0) {
    const int64_t num_tokens = num_rows * (1 + draft_len);
    return {num_rows, num_tokens, num_tokens, num_rows, 0, num_tokens, draft_len};
  }
};

StepState carve_state(const StepLimits& limits, Carver& carver);
StepInputs carve_inputs(const StepCounts& counts, Carver& carver);
// The bad row, the counts and the tokens come first: copies of rows that want no log-probabilities
// end there.
SampledTokens carve_sampled(int64_t num_rows, int64_t num_results, Carver& carver);
// Views of the step's arrays, and arrays of its own that the device fills.
DraftInputs carve_drafts(const StepInputs& inputs, const SampledTokens& sampled,
                         int64_t num_extra_rows, Carver& carver);

int64_t state_bytes(const StepLimits& limits);
int64_t inputs_bytes(const StepCounts& counts);
// Enough for every step within the limits.
int64_t max_inputs_bytes(const StepLimits& limits);
int64_t sampled_bytes(int64_t num_rows, int64_t num_results);
// Up to the end of the tokens.
int64_t sampled_tokens_bytes(int64_t num_rows, int64_t num_results);
// Enough for every step within the limits; 0 without drafts.
int64_t max_drafts_bytes(const StepLimits& limits);

// Owns StepState's memory; everything starts as zero.
class StateBuffers {
 public:
  StateBuffers(const StepLimits& limits, Backend& backend);
  void clear();
  StepState state;

 private:
  Backend& backend_;
  Buffer memory_;
};

}  // namespace deepflight
