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

  // Each slot is at most one sequence of a step.
  int64_t max_sequences() const { return std::max(max_num_slots, max_decode_rows); }
  int64_t max_sampled_rows() const { return max_sequences(); }
  int64_t mask_words() const { return (vocab_size + 31) / 32; }
  int64_t max_tokens() const { return std::max(max_batched_tokens, max_decode_rows); }
};

// The sizes of one step's arrays.
struct StepCounts {
  int64_t num_decode_rows = 0;
  int64_t num_tokens = 0;
  int64_t num_absorbed_tokens = 0;
  int64_t num_absorbed_sequences = 0;
  int64_t num_expanded_sequences = 0;
  int64_t num_sampled_rows = 0;

  // A step of decode rows alone, each of which samples.
  static StepCounts decode(int64_t num_rows) {
    return {num_rows, num_rows, num_rows, num_rows, 0, num_rows};
  }
};

StepState carve_state(const StepLimits& limits, Carver& carver);
StepInputs carve_inputs(const StepCounts& counts, Carver& carver);
// The bad row and the tokens come first: copies of rows that want no log-probabilities end there.
SampledTokens carve_sampled(int64_t num_rows, Carver& carver);

int64_t state_bytes(const StepLimits& limits);
int64_t inputs_bytes(const StepCounts& counts);
// Enough for every step within the limits.
int64_t max_inputs_bytes(const StepLimits& limits);
int64_t sampled_bytes(int64_t num_rows);
// Up to the end of the tokens.
int64_t sampled_tokens_bytes(int64_t num_rows);

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
