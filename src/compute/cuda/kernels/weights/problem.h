// Problems of this folder: weights made or rearranged on the device, at load. Plain data for the
// kernels; BF16 values are given as their bits.
#pragma once

#include <cstdint>

#include "compute/ops/random_fill.h"

namespace deepflight::cuda_weights {

// Elements [0, count) of a random matrix, and its first num_scales block scales.
struct FillProblem {
  RandomFill fill;
  bool fp8 = false;  // e4m3, else BF16
  int64_t count = 0;
  void* values = nullptr;  // dense, at any alignment of its element
  int64_t num_scales = 0;
  float* scales = nullptr;  // with fp8
};

// kv_b_proj in the forms that attention takes. Rows of `values` are, head by head, nope_dim of W_UK
// and v_dim of W_UV.
struct KvUpProblem {
  int64_t num_heads = 0;
  int64_t nope_dim = 0;
  int64_t v_dim = 0;
  int64_t latent_dim = 0;
  const void* values = nullptr;   // BF16 or (scales not null) e4m3 [heads * (nope + v), latent]
  const float* scales = nullptr;  // of 128x128 blocks
  uint16_t* expand = nullptr;     // BF16 [heads * (nope + v), latent]
  uint16_t* absorb_k = nullptr;   // BF16 [heads][latent, nope]
};

}  // namespace deepflight::cuda_weights
