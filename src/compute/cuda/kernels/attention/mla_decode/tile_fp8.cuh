// The e4m3 kernel's side of a tile: products of a page as it lies, weights rounded to e4m3, and
// transposed outputs. Included by attend_fp8.cu alone.
#pragma once

#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/load_fp8.cuh"
#include "compute/cuda/primitives/wgmma_fp8.cuh"

namespace deepflight::cuda_mla_decode {

// A row's largest weight is between 2^5 and 2^8: e4m3 ends at 448, and below 2^-6 bits are lost.
constexpr float kLead = 5.0f, kSlack = 3.0f;

// Of a warpgroup: four blocks of 64 columns. A thread holds of block m columns 64 m + 16 warp + 2
// (lane / 4) and, in [4i + 2] and [4i + 3], the next; rows 8i + 2 (lane % 4) and, in odd ones, the
// next.
using Outputs = float[4][32];

// Left operands of a block: [32 keys][4].
using Values = uint32_t[2][4];

// Shared memory as operands; offsets are from its start. Rows of 128 and of 64 bytes.
struct Fp8Operands {
  Matrices<16, 1024> wide;
  Matrices<16, 512, Swizzle::k64> narrow;
  __device__ explicit Fp8Operands(const Fp8Shared& shared)
      : wide(shared.base), narrow(shared.base) {}
};

__device__ inline void issue_scores(float (&s)[32], const Fp8Operands& operands, int stage) {
  const int page = Fp8Shared::page_offset(stage);
  pin(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 16; ++k) {
    const int at = k / 4 * kBoxBytes + k % 4 * 32;
    WgmmaE4m3<64>::multiply(s, operands.wide.at(at), operands.wide.at(page + at), k > 0);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int at = kFp8RopeOffset + k * 32;
    WgmmaE4m3<64>::multiply(s, operands.narrow.at(at), operands.narrow.at(page + at), 1);
  }
}

// A block of a page's outputs.
__device__ inline void issue_outputs(float (&sum)[32], const Values& values,
                                     const Fp8Operands& operands, int stage) {
  const int weights = Fp8Shared::page_offset(stage) + kFp8RopeOffset;
  pin(sum);
  wgmma_fence();
  wgmma_e4m3_n64(sum, values[0], operands.narrow.at(weights), 0);
  wgmma_e4m3_n64(sum, values[1], operands.narrow.at(weights + 32), 1);
}

// Columns of a block of a page, this warp's.
__device__ inline void load_values(Values& values, const Fp8Shared& shared, int stage, int half,
                                   int block) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const uint32_t base =
      shared.page(stage) + half * 2 * kBoxBytes + (wide_chunk(lane, warp) ^ block % 2 * 64);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    uint32_t pairs[4];  // of columns, at keys 8 i + 2 (lane % 4) and the next
    ldmatrix_x4_trans(pairs, base + block / 2 * kBoxBytes + k * 32 * 128);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      values[k][2 * h] = __byte_perm(pairs[2 * h], pairs[2 * h + 1], 0x6420);
      values[k][2 * h + 1] = __byte_perm(pairs[2 * h], pairs[2 * h + 1], 0x7531);
    }
  }
}

// Keys from `count` on are undefined, NaN too, which a weight of zero would not silence: they
// become zeros.
__device__ inline void clear_values(Values& values, int count) {
  const int first_key = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = 16 * i + first_key;
    uint32_t mask = 0;
#pragma unroll
    for (int byte = 0; byte < 4; ++byte) {
      if (key + byte / 2 * 8 + byte % 2 < count) mask |= 0xffu << byte * 8;
    }
    values[i / 2][i % 2 * 2] &= mask;
    values[i / 2][i % 2 * 2 + 1] &= mask;
  }
}

// Both e4m3 values of the lower half of `bits`.
__device__ inline __half2 to_half2(uint32_t bits) {
  return __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<uint16_t>(bits), __NV_E4M3));
}

// Scores to rounded weights: words[2c + r] has row r's bytes 4 (lane % 4) to + 3 of chunk c.
// Returns as RowState::move().
__device__ inline bool round_weights(float (&s)[32], const float (&scale)[2], RowState& state,
                                     uint32_t (&words)[8], float (&factor)[2]) {
  const bool moved = state.move(s, scale, kLead, kSlack, factor);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float offset = state.used_offset(r);
    __half2 totals[4];  // at most 4 * 2^8, and exact to 2^-11
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[i] = exp2_fast(fmaf(s[8 * c + i / 2 * 4 + 2 * r + i % 2], scale[r], -offset));
      }
      const uint32_t word = to_e4m3x4(weights[0], weights[1], weights[2], weights[3]);
      words[2 * c + r] = word;
      totals[c] = __hadd2(to_half2(word), to_half2(word >> 16));
    }
    const float2 sums =
        __half22float2(__hadd2(__hadd2(totals[0], totals[1]), __hadd2(totals[2], totals[3])));
    state.sum[r] += sums.x + sums.y;
  }
  return moved;
}

// A warp's 16 rows of weights to a box of 64 x 64.
__device__ inline void store_weights(const uint32_t (&words)[8], uint32_t box) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int c = 0; c < 4; c += 2) {
    store_matrices(box + narrow_chunk(row, c + lane / 16), words[2 * c], words[2 * c + 1],
                   words[2 * c + 2], words[2 * c + 3]);
  }
}

__device__ inline float2 load_pair(uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(address)
               : "memory");
  return pair;
}

// Outputs follow the rows' offsets.
__device__ inline void rescale(Outputs& o, const Fp8Shared& shared, int stage) {
  uint32_t moved;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(moved) : "r"(shared.moved(stage)) : "memory");
  if (moved == 0) return;
  const uint32_t factors = shared.factors(stage) + threadIdx.x % 4 * 8;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 factor = load_pair(factors + i * 32);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      o[m][4 * i] *= factor.x;
      o[m][4 * i + 1] *= factor.y;
      o[m][4 * i + 2] *= factor.x;
      o[m][4 * i + 3] *= factor.y;
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
