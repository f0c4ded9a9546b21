// Problems of this folder: plain data for the kernels. BF16 values are given as their bits; strides
// are in elements.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/page_format.h"
#include "tensor/fp8_rows.h"

namespace deepflight::cuda_norm_rope {

// With a residual: residual += x, rounded to BF16, and the norm is of the sum. Without: of x.
// out = norm / sqrt(mean(norm^2) + eps) * weight, rounded to BF16; the FP8 form is of the rounded
// values. One of the outputs may be missing. `out` may be x or residual.
struct NormProblem {
  int64_t num_rows = 0;
  int64_t width = 0;
  const uint16_t* x = nullptr;  // BF16 [num_rows, width]
  int64_t x_stride = 0;
  uint16_t* residual = nullptr;  // BF16 [num_rows, width], updated; or null
  int64_t residual_stride = 0;
  // [width]. Read before the kernels in front are done: not for one of them to write.
  const float* weight = nullptr;
  float eps = 0.0f;
  uint16_t* out = nullptr;  // BF16 [num_rows, width]; or null
  int64_t out_stride = 0;
  Fp8Rows fp8;  // [num_rows, width]; or values null
};

// sum += delta.
struct AddProblem {
  int64_t num_rows = 0;
  int64_t width = 0;
  const uint16_t* delta = nullptr;  // BF16 [num_rows, width]
  int64_t delta_stride = 0;
  uint16_t* sum = nullptr;  // BF16 [num_rows, width]
  int64_t sum_stride = 0;
};

// Where latent rows go: [num_layers][64][token] of each page, page of token t =
// page_table[token_slots[t]][positions[t] / 64].
struct PoolTarget {
  void* base = nullptr;
  PageFormat format = PageFormat::kBF16;
  int64_t page_stride_bytes = 0;
  int64_t layer = 0;
  int64_t token_dim = 0;                 // elements
  float scale = 1.0f;                    // of kF8E4M3: stored = e4m3(value / scale)
  const int32_t* token_slots = nullptr;  // [num_tokens]; negative: nothing is written
  const int32_t* page_table = nullptr;   // [num_slots, pages of a slot]
  int64_t page_table_stride = 0;
  int64_t rope_dim = 0;  // elements of token_dim; kF8Group must know

  int64_t latent_dim() const { return token_dim - rope_dim; }
  int64_t token_bytes() const { return page_token_bytes(format, latent_dim(), rope_dim); }
};

// Rotates q_pe in place and, where there is a latent, its last rope_dim columns, in place too; then
// writes the latent rows to the pool. Pair i turns by cos_sin[position][i] (cosine) and
// cos_sin[position][rope_dim / 2 + i] (sine).
struct RopeProblem {
  int64_t num_tokens = 0;
  const int32_t* positions = nullptr;  // [num_tokens]
  const float* cos_sin = nullptr;      // [max_positions, rope_dim]; null: nothing is rotated
  int64_t rope_dim = 0;
  bool interleaved = true;  // pairs (2i, 2i + 1), else (i, i + rope_dim / 2)

  int64_t num_heads = 0;     // 0: no q_pe
  uint16_t* q_pe = nullptr;  // BF16 [num_tokens, num_heads, rope_dim]
  int64_t q_token_stride = 0;
  int64_t q_head_stride = 0;

  // The rotated q_pe of tokens [0, num_copied), once more: the rope columns of the absorbed query.
  int64_t num_copied = 0;
  uint16_t* q_copy = nullptr;  // BF16 [num_copied, num_heads, rope_dim]
  int64_t copy_token_stride = 0;
  int64_t copy_head_stride = 0;

  uint16_t* latent = nullptr;  // BF16 [num_tokens, pool.token_dim]; null: no latent
  int64_t latent_stride = 0;
  PoolTarget pool;
};

}  // namespace deepflight::cuda_norm_rope
