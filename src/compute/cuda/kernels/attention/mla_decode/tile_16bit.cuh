// The 16-bit kernel's side of a tile: weights out of scores, to shared memory, and results to
// global memory. Included by load.cuh alone.
#pragma once

#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"
#include "compute/cuda/primitives/wgmma_16bit.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kBoxes = 9;  // 64 columns each, of a page and of the queries
constexpr int kValueBoxes = 8;
constexpr int kHalfBoxes = 4;

// Scores to weights below 2^8; returns as RowState::move().
__device__ inline bool weigh(float (&s)[32], float scale, RowState& state, float (&factor)[2]) {
  const float scales[2] = {scale, scale};
  const bool moved = state.move(s, scales, factor);
  float totals[2][2] = {};  // several, so that additions need not wait for each other
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int r = i / 2 % 2;
    s[i] = exp2_fast(fmaf(s[i], scale, -state.used_offset(r)));
    totals[r][i % 2] += s[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) state.sum[r] += totals[r][0] + totals[r][1];
  return moved;
}

template <bool kHalf>
__device__ inline void pack_weights(const float (&s)[32], uint32_t (&weights)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    weights[i] = kHalf ? pack_fp16(s[2 * i], s[2 * i + 1]) : pack_bf16(s[2 * i], s[2 * i + 1]);
  }
}

// A warp's 16 rows of packed weights to a box of 64 x 64, swizzled as an operand.
__device__ inline void store_weights(const uint32_t (&weights)[16], uint32_t box) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int row = warp * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int chunk = 2 * k + lane / 16;
    const uint32_t address = box + chunk_of_128(row, chunk);
    store_matrices(address, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2],
                   weights[4 * k + 3]);
  }
}

// Zeros over the rows from `first` on of a page's value boxes: what lies behind a sequence's end is
// anything, NaN too, which a weight of zero would not silence. By a warpgroup.
__device__ inline void clear_rows(uint32_t page, int first) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  for (int i = first * 8 + thread; i < kTileRows * 8; i += kWarpgroup) {
    for (int box = 0; box < kValueBoxes; ++box) {
      store_shared_vector(page + box * kBoxBytes + i * 16, uint4{});
    }
  }
}

// A warpgroup's 64 x 256 outputs, of columns from `column` on; `sum` of whole rows.
__device__ inline void store_outputs(const Inputs& in, const Segment& segment, int column,
                                     const RowState& state, const float (&sum)[2],
                                     const float (&o)[128]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const bool is_partial = segment.partial >= 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int local = warp * 16 + lane / 4 + 8 * r;
    uint8_t* const out = row_results(in, segment, local);
    const float factor = sum[r] > 0.0f ? in.output_scale / sum[r] : 0.0f;
    if (is_partial && out != nullptr && column == 0 && lane % 4 == 0) {
      in.lse[int64_t{segment.partial} * kTileRows + local] =
          sum[r] > 0.0f ? state.offset[r] + log2f(sum[r]) : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        pairs[j] = pack_results(o[4 * (i + j) + 2 * r] * factor,
                                o[4 * (i + j) + 2 * r + 1] * factor, is_partial);
      }
      const uint4 columns = transpose_quad(pairs);
      if (out != nullptr) reinterpret_cast<uint4*>(out + column * 2)[i + lane % 4] = columns;
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
