// The absorbed queries of a decode step, as the e4m3 kernel of mla_decode wants them. Plain data;
// strides are in elements.
#pragma once

#include <cstdint>

namespace deepflight::cuda_mla_absorb {

inline constexpr int kNopeDim = 128;
inline constexpr int kLatentDim = 512;
inline constexpr int kRopeDim = 64;
inline constexpr int kQueryDim = kLatentDim + kRopeDim;

// (q_nope[t, h] W_UK[h], q_pe[t, h]) = out[t, h] * scales[t, h]. A scale is a power of two, by
// which the row's largest magnitude comes to between 224 and 448 in `out`.
struct MlaAbsorbProblem {
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  const void* q = nullptr;  // BF16 [num_tokens, num_heads, 128 + 64], the last 64 rotated
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  // BF16 [num_heads][512, 128]: W_UK of each head, transposed. Read before the kernels in front are
  // done: not for one of them to write.
  const void* w_uk = nullptr;
  uint8_t* out = nullptr;   // e4m3 [num_tokens, num_heads, 512 + 64], dense
  float* scales = nullptr;  // [num_tokens, num_heads]
};

}  // namespace deepflight::cuda_mla_absorb
