// Results of the e4m3 kernel: a segment's transposed sums, times their rows' factors, through
// shared memory to where their rows go. Included by attend_fp8.cu alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_fp8.cuh"

namespace deepflight::cuda_mla_decode {

// Results leave through a page's place, but for its weights, which may still be on their way: of
// both warpgroups that sum, rows of 128 columns, 16 chunks, so swizzled that what a warp stores at
// a time lies in different banks.
constexpr int kResultStride = 128 * 2;
constexpr int kResultBytes = kTileRows * kResultStride;
static_assert(2 * kResultBytes == kFp8RopeOffset);
__device__ inline uint32_t result_chunk(int row, int chunk) {
  return row * kResultStride + (chunk ^ (row & 6)) * 16;
}

// Zeros for a segment without pages, by a warp.
__device__ inline void store_zeros(const Inputs& in, const Segment& segment, int lane) {
#pragma unroll 1
  for (int row = 0; row < kTileRows; ++row) {
    uint8_t* out = row_results(in, segment, row);
    if (out == nullptr) continue;
    reinterpret_cast<uint4*>(out)[lane] = uint4{};
    reinterpret_cast<uint4*>(out)[lane + 32] = uint4{};
  }
  if (segment.partial < 0) return;
  float* const lse = in.lse + int64_t{segment.partial} * kTileRows + lane;
  lse[0] = lse[32] = -INFINITY;
}

// Two blocks of a warpgroup's sums, times its row's factor each, to rows of 128 columns in shared
// memory.
template <bool kPartial>
__device__ inline void write_results(uint32_t rows, uint32_t factors, int thread,
                                     const float (&a)[32], const float (&b)[32]) {
  rows += result_chunk(thread % 4 * 2, thread / 16) + thread / 4 % 4 * 4;
  factors += thread % 4 * 8;
  float2 by_rows[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) by_rows[i] = load_shared_pair(factors + i * 32);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 factor = by_rows[i];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int at = i * 4 + odd;
      const float by = odd == 0 ? factor.x : factor.y;
      const uint32_t row = rows + (i * 8 + odd) * kResultStride;
      store_shared_word(row, pack_results(a[at] * by, a[at + 2] * by, kPartial));
      store_shared_word(row + 128, pack_results(b[at] * by, b[at + 2] * by, kPartial));
    }
  }
}

// Rows of 128 columns from shared memory to `at` bytes past where `table` says that each goes, 16
// threads a row.
__device__ inline void copy_results(uint32_t rows, uint32_t table, int thread, int64_t at) {
  constexpr int kStep = kWarpgroup / 16, kBatch = 4;
  rows += result_chunk(thread / 16, thread % 16);
  table += thread / 16 * 8;
#pragma unroll
  for (int first = 0; first < kTileRows; first += kBatch * kStep) {
    uint4 results[kBatch];
    uint8_t* out[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      results[i] = load_shared_vector(rows + (first + i * kStep) * kResultStride);
      out[i] = load_shared_pointer(table + (first + i * kStep) * 8);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (out[i] == nullptr) continue;
      *reinterpret_cast<uint4*>(out[i] + at + thread % 16 * 16) = results[i];
    }
  }
}

// Sums of a segment to results: the outputs if the tile is whole, else a slot of partial ones. They
// go through the place of its last page, which is free then, so that a warp stores whole lines of
// two rows. A warpgroup has 256 columns from box `box` on; in a pair 128, of both blocks' rows.
template <bool kPair>
__device__ inline void store_outputs(const Fp8Shared& shared, const Turn& turn, int box, int place,
                                     const Outputs& o) {
  const int thread = this_thread();
  const int half = kPair ? box % 2 : box / 2;  // of the block's two warpgroups
  const uint32_t rows = shared.page(place) + half * kResultBytes;
  const uint32_t table = shared.result_rows(turn.index);
  const Fp8Shared::Told told = shared.told_of(turn.index);
  const bool is_partial = told.is_partial != 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool other = kPair && i == 1;
    if (other) barrier_wait(shared.other_counted(turn.index), turn.parity);
    const uint32_t factors = shared.result_factors(turn.index, other);
    if (is_partial) {
      write_results<true>(rows, factors, thread, o[2 * i], o[2 * i + 1]);
    } else {
      write_results<false>(rows, factors, thread, o[2 * i], o[2 * i + 1]);
    }
    named_sync<kWarpgroup>(kOwn + 1 + half);
    if (i == 0) wait_for_previous_kernel();
    const int64_t at = !kPair ? i * 256 : other ? told.to_other : 0;
    copy_results(rows, table, thread, box * 256 + at);
    if (i == 0) named_sync<kWarpgroup>(kOwn + 1 + half);
  }
  warp_arrive(shared.empty(place));
}

}  // namespace deepflight::cuda_mla_decode
