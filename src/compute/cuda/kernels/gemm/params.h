// What a kernel of the family is launched with. Compiles under NVRTC.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/tensor_map.cuh"

namespace deepflight::gemm_fp8 {

struct Params {
  CUtensorMap x;         // e4m3 [1][m, k], boxes of Config::x_box_rows() x 128
  CUtensorMap w;         // e4m3 [groups][n, k], boxes of the tile's columns x 128
  CUtensorMap x_scales;  // [k blocks][m], boxes of the tile's rows
  CUtensorMap out_map;   // BF16 [m, n], boxes of 16 x 64; only where staged and 16-byte aligned
  const float* w_scales;
  void* out;
  int64_t out_stride;
  uint8_t* activated;  // where swiglu: e4m3 [m, n / 2], and its scales [n / 256][m]
  int64_t activated_stride;
  float* activated_scales;
  int64_t activated_scale_stride;
  const int32_t* offsets;  // [num_groups + 1], where grouped
  int32_t* next_tile;      // where grouped: 0, and 0 again afterwards
  int32_t m;
  int32_t n;
  int32_t k_blocks;
  int32_t n_blocks;         // of 128 columns, as w_scales has them
  int32_t num_groups;       // at least 1
  int32_t weights_settled;  // they may be read before the kernels before this one are done
  int32_t out_alignment;    // bytes, at most 16, that divide out, its stride and n of its elements
};

}  // namespace deepflight::gemm_fp8
