// The FP8 block-scaled product, dense and grouped. Plain data; strides are in elements.
#pragma once

#include <cstdint>

#include "tensor/fp8_rows.h"

namespace deepflight {

// out[r] = x[r] * w[g]^T, where g = 0 (dense), or the group with offsets[g] <= r < offsets[g + 1].
struct Fp8GemmProblem {
  Fp8Rows x;                        // [m, k]
  const uint8_t* w = nullptr;       // e4m3 [num_groups][n, k]
  const float* w_scales = nullptr;  // [num_groups][ceil(n / 128), ceil(k / 128)]
  void* out = nullptr;              // BF16 or F32 [m, n]
  int64_t out_stride = 0;
  bool out_f32 = false;
  // In place of out, where it has values: silu(gate) * up of the products' halves (gate: the first
  // n / 2 columns), rounded as out in BF16 and swiglu() of it would be, quantised. [m, n / 2]; 256
  // divides n.
  Fp8Rows activated;
  int64_t m = 0;  // rows of all groups
  int64_t n = 0;
  int64_t k = 0;
  int num_groups = 0;                // 0: dense
  const int32_t* offsets = nullptr;  // [num_groups + 1] on the device; rows sorted by group
  // Where grouped: a counter on the device that is 0 before and after. Launches that share one must
  // follow each other in a stream.
  int32_t* next_tile = nullptr;
  // A row's result depends on the row alone, not on m or its place: see choose.h.
  bool batch_invariant = false;
  // No work in flight writes w or w_scales: their reading may begin while kernels before this one
  // still run.
  bool weights_settled = false;
};

}  // namespace deepflight
