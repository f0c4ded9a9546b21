// The e4m3 kernel's side of a tile: products of a page as it lies, weights rounded to e4m3, and
// transposed outputs. Included by its other parts alone.
#pragma once

#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/load_fp8.cuh"
#include "compute/cuda/primitives/warp.cuh"
#include "compute/cuda/primitives/wgmma_fp8.cuh"

namespace deepflight::cuda_mla_decode {

// A row's largest weight is between 2^5 and 2^8.75: e4m3 ends at 448, and below 2^-6 bits are lost.
constexpr float kLead = 5.0f, kSlack = 3.75f;

// Of a warpgroup: four blocks of 64 columns. A thread holds of block m columns 64 m + 16 warp + 2
// (lane / 4) and, in [4i + 2] and [4i + 3], the next; rows 8i + 2 (lane % 4) and, in odd ones, the
// next.
using Block = float[32];
using Outputs = Block[4];

// Left operands of a block: [32 keys][4].
using Values = uint32_t[2][4];

using WeightMatrix = Matrices<16, 512, Swizzle::k64>;

// A page, or the queries, as operands: rows of 128 and of 64 bytes.
struct Fp8Operands {
  Matrices<16, 1024> wide;
  __device__ explicit Fp8Operands(uint32_t page) : wide(page) {}
  __device__ WeightMatrix rope() const { return wide.as<512, Swizzle::k64>(kFp8RopeOffset); }
};

// Scores are 18 products of 32 columns. Some take the queries out of registers, all that there are:
// shared memory, which is busy nearly all the time, is read the less.
constexpr int kHeldStep = 2, kHeld = 16 / kHeldStep;
using HeldQueries = uint32_t[kHeld][4];
__device__ inline void hold_queries(HeldQueries& held, uint32_t queries) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int k = i * kHeldStep;
    ldmatrix_x4(held[i], queries + k / 4 * kBoxBytes + chunk_of_128(row, k % 4 * 2 + lane / 16));
  }
}

// Half of a page's scores, as a group: nine products.
template <int kPart>
__device__ inline void issue_scores(float (&s)[32], const HeldQueries& held,
                                    const Fp8Operands& queries, const Fp8Operands& pages,
                                    int stage) {
  if (kPart == 0) pin(s);
  wgmma_fence();
#pragma unroll
  for (int k = kPart * 9; k < kPart * 9 + 9; ++k) {
    if (k < 16) {
      const int at = k / 4 * kBoxBytes + k % 4 * 32;
      const uint64_t keys = pages.wide.at(stage, kFp8PageBytes, at);
      if (k % kHeldStep == 0) {
        wgmma_e4m3_n64(s, held[k / kHeldStep], keys, k > 0);
      } else {
        WgmmaE4m3<64>::multiply(s, queries.wide.at(at), keys, 1);
      }
    } else {
      const int at = (k - 16) * 32;
      WgmmaE4m3<64>::multiply(s, queries.rope().at(at), pages.rope().at(stage, kFp8PageBytes, at),
                              1);
    }
  }
  wgmma_commit();
}

// A block of a page's outputs. `weights`: of place 0.
__device__ inline void issue_outputs(float (&sum)[32], const Values& values,
                                     const WeightMatrix& weights, int stage) {
  pin(sum);
  wgmma_fence();
  wgmma_e4m3_n64(sum, values[0], weights.at(stage, kFp8PageBytes, 0), 0);
  wgmma_e4m3_n64(sum, values[1], weights.at(stage, kFp8PageBytes, 32), 1);
  wgmma_commit();
}

// This thread of its warpgroup; registers are few while pages are summed.
__device__ inline int this_thread() { return thread_anew() % kWarpgroup; }

// Zeros over keys from `first` on, in kBoxes boxes of a page: they are undefined, NaN too, which a
// weight of zero would not silence. By the warpgroup that sums them.
template <int kBoxes>
__device__ inline void clear_keys(uint32_t boxes, int first) {
  const int thread = this_thread();
#pragma unroll 1
  for (int at = first * 128 + thread * 16; at < kBoxBytes; at += kWarpgroup * 16) {
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      store_shared_vector(boxes + box * kBoxBytes + at, uint4{});
    }
  }
}

// Where in a page this lane's values begin, of columns from a box on.
__device__ inline uint32_t values_offset(int box) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  return box * kBoxBytes + chunk_of_128(lane, warp);
}
// Columns of a block of a page, this warp's: pairs, at keys 8 i + 2 (lane % 4) and the next.
// `offset`: values_offset().
__device__ inline void load_values(Values& values, uint32_t page, uint32_t offset, int block) {
  const uint32_t base = (offset ^ block % 2 * 64) + (page + block / 2 * kBoxBytes);
#pragma unroll
  for (int k = 0; k < 2; ++k) ldmatrix_x4_trans(values[k], base + k * 32 * 128);
}
// Pairs of columns to four keys of each: behind additions, under which the loads come.
__device__ inline void part_columns(Values& values) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    pin(values[k]);
#pragma unroll
    for (int h = 0; h < 4; h += 2) {
      const uint32_t even = values[k][h], odd = values[k][h + 1];
      values[k][h] = __byte_perm(even, odd, 0x6420);
      values[k][h + 1] = __byte_perm(even, odd, 0x7531);
    }
  }
}

// Offsets of a thread's two rows, as RowState, of all pages of a segment. They move, to kLead below
// a row's largest score, when one of the warp's rows has risen by kSlack: all rows then, as the
// next of them would not be long in coming.
struct RowOffsets {
  float offset[2] = {-INFINITY, -INFINITY};

  __device__ bool rises_to(const float (&next)[2]) const {
    return __any_sync(0xffffffffu, next[0] > offset[0] + kSlack || next[1] > offset[1] + kSlack);
  }
  // Whether these scores, of any columns, want other offsets: the row's other threads need not be
  // asked.
  __device__ bool rises(const float (&s)[32], const float (&scale)[2]) const {
    float next[2];
    wanted_offsets(s, scale, kLead, next);
    return rises_to(next);
  }
  // Moves if they do; true if older sums are to be multiplied by `factor`.
  __device__ bool move(const float (&s)[32], const float (&scale)[2], float (&factor)[2]) {
    float next[2];
    wanted_offsets(s, scale, kLead, next);
    if (!rises_to(next)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      next[r] = fmaxf(warp_max<4>(next[r]), offset[r]);
      factor[r] = next[r] == -INFINITY ? 1.0f : exp2_fast(offset[r] - next[r]);
      offset[r] = next[r];
    }
    return true;
  }
  // An exponent's subtrahend: the row may have seen no key yet.
  __device__ float used(int r) const { return offset[r] == -INFINITY ? 0.0f : offset[r]; }
};

// Two weights to e4m3.
__device__ inline uint16_t round_pair(float low, float high) {
  uint16_t bits;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
  return bits;
}

// Scores to rounded weights: words[2c + r] has row r's bytes 4 (lane % 4) to + 3 of chunk c.
__device__ inline void round_weights(const float (&s)[32], const float (&scale)[2],
                                     const RowOffsets& state, uint32_t (&words)[8]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float offset = state.used(r);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      uint16_t pairs[2];
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const float* at = s + 8 * c + 4 * b + 2 * r;
        pairs[b] = round_pair(exp2_fast(fmaf(at[0], scale[r], -offset)),
                              exp2_fast(fmaf(at[1], scale[r], -offset)));
      }
      asm("mov.b32 %0, {%1, %2};" : "=r"(words[2 * c + r]) : "h"(pairs[0]), "h"(pairs[1]));
    }
  }
}

// A page's rounded weights and their sums, products with ones. Four threads share two rows: even
// ones keep the sum of the first, odd ones of the other.
struct Counts {
  const bool is_odd = threadIdx.x % 2 != 0;
  float sums[4];
  uint32_t weights[8];

  __device__ float own(float first, float second) const { return is_odd ? second : first; }
  // With no other products under way: those of a stretch keep all their registers to its end.
  __device__ void issue(const WeightMatrix& ones) {
    pin(weights);
    wgmma_fence();
    wgmma_e4m3_n8k64(sums, weights, ones.at(0), ones.at(0));
    wgmma_commit();
  }
  __device__ void add_to(float& sum) {
    wgmma_wait<0>();
    pin(sums);
    pin(weights);
    sum += own(sums[0], sums[2]);
  }
};

// A warp's 16 rows of weights to a box of 64 x 64.
__device__ inline void store_weights(const uint32_t (&words)[8], uint32_t box) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
  const uint32_t first = box + chunk_of_64(row, lane / 16);
  store_matrices(first, words[0], words[1], words[2], words[3]);
  store_matrices(first ^ 2 * 16, words[4], words[5], words[6], words[7]);  // two chunks on
}

// Outputs follow the rows' offsets, 16 rows at a time: those of which a byte of `moved` speaks.
// kCount of a thread's blocks, from kFirst on.
template <int kFirst, int kCount>
__device__ inline void rescale(Outputs& o, uint32_t factors, uint32_t moved) {
  if (moved == 0) [[likely]]
    return;
#pragma unroll
  for (int warp = 0; warp < 4; ++warp) {
    if ((moved >> warp * 8 & 0xff) == 0) continue;
    const float2 factor[2] = {load_shared_pair(factors + warp * 64),
                              load_shared_pair(factors + warp * 64 + 32)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int m = kFirst; m < kFirst + kCount; ++m) {
        float* at = o[m] + warp * 8 + i * 4;
        at[0] *= factor[i].x, at[1] *= factor[i].y;
        at[2] *= factor[i].x, at[3] *= factor[i].y;
      }
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
