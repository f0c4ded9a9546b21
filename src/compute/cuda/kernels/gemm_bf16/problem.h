// Products with BF16 inputs: y[b] = x[b] * w[b]^T. Plain data; strides are in elements.
#pragma once

#include <cstdint>

namespace deepflight {

struct Bf16GemmProblem {
  const void* x = nullptr;  // BF16 [batch][m, k]
  int64_t x_stride = 0;
  int64_t x_batch_stride = 0;
  const void* w = nullptr;  // BF16 [batch][n, k]
  int64_t w_stride = 0;
  int64_t w_batch_stride = 0;
  void* out = nullptr;  // BF16 or F32 [batch][m, n]
  int64_t out_stride = 0;
  int64_t out_batch_stride = 0;
  bool out_f32 = false;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t batch = 1;
  // A row's result depends on the row alone: cuBLASLt, which picks its kernel by m and may split
  // the sums, is not asked.
  bool batch_invariant = false;
};

// out[r] = x[r] * w[g]^T for offsets[g] <= r < offsets[g + 1]. Only the device knows the offsets.
struct Bf16GroupedProblem {
  const void* x = nullptr;  // BF16 [m, k], rows sorted by group
  int64_t x_stride = 0;
  const void* w = nullptr;  // BF16 [num_groups][n, k], dense
  void* out = nullptr;      // BF16 [m, n]
  int64_t out_stride = 0;
  int64_t m = 0;  // rows of all groups
  int64_t n = 0;
  int64_t k = 0;
  int num_groups = 0;
  const int32_t* offsets = nullptr;  // [num_groups + 1]
};

}  // namespace deepflight
