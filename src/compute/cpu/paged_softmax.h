// Attention of a block of query rows to one KV page, with a running ("online") softmax. Pages begin
// at multiples of 64 positions, so a query meets the same blocks in the same order however its
// prompt was chunked: its bits depend on its own prefix only.
#pragma once

#include <cstdint>

#include "compute/ops/step_state.h"

namespace deepflight::cpu {

inline constexpr int64_t kPage = kKvPageTokens;
inline constexpr int64_t kQueryTile = 64;  // query rows of one task

// Where a layer's rows of a page begin.
char* page_address(const KvPool& pool, int32_t page, int64_t layer);

// The page's latent rows as float32 [64, token_dim]; rows from num_valid on read as zero, whatever
// lies there. Gives the page itself where no copy is needed, else scratch of the calling thread.
const float* load_page(const KvPool& pool, int32_t page, int64_t layer, int64_t num_valid);

// One page as keys and values, dense.
struct PageView {
  const float* keys;    // [64, qk_dim]
  const float* values;  // [64, v_dim]
  int64_t qk_dim;
  int64_t v_dim;
  int64_t first_position;
  int64_t first_key;  // position from which on keys are seen
};

// Dense query rows and their state over the pages seen so far. Row r stands at position
// first_position + (row_offset + r) / rows_per_position.
struct QueryRows {
  const float* queries;  // [num_rows, qk_dim]
  int64_t num_rows;
  int64_t first_position;
  int64_t row_offset;
  int64_t rows_per_position;
  float* outputs;  // [num_rows, v_dim], not normalised
  float* maxima;   // [num_rows]
  float* sums;     // [num_rows]; 0: has seen no key, and outputs are zeros

  int64_t position(int64_t row) const {
    return first_position + (row_offset + row) / rows_per_position;
  }
  int64_t last_position() const { return position(num_rows - 1); }
  // Before the first page. `v_dim`: as of the pages to come.
  void reset(int64_t v_dim) const;
};

// Adds the page to the rows' softmax: causal, so a row takes the tokens up to its own position,
// from first_key on.
void attend_page(const PageView& page, float scale, const QueryRows& rows);

}  // namespace deepflight::cpu
