// From accumulators to out. A thread's sums are of rows l / 4 and l / 4 + 8 of the left operand's
// 16 of its warp, columns 2 (l % 4) and the next of every 8 of the right operand's (l: its lane).
#pragma once

#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/wgmma.cuh"

namespace deepflight::gemm_fp8 {

using namespace device;  // NOLINT: headers of this kernel

template <bool kF32>
__device__ inline void store_one(const Params& p, int64_t at, float value) {
  if constexpr (kF32) {
    static_cast<float*>(p.out)[at] = value;
  } else {
    static_cast<uint16_t*>(p.out)[at] = static_cast<uint16_t>(pack_bf16(value, 0.0f));
  }
}

// Two neighbours in a row; `column` is even.
template <bool kF32>
__device__ inline void store_pair(const Params& p, int64_t row, int column, float a, float b) {
  const int64_t at = row * p.out_stride + column;
  if (p.out_alignment >= (kF32 ? 8 : 4) && column < p.n) {
    if constexpr (kF32) {
      *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = make_float2(a, b);
    } else {
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.out) + at) = pack_bf16(a, b);
    }
    return;
  }
  if (column < p.n) store_one<kF32>(p, at, a);
  if (column + 1 < p.n) store_one<kF32>(p, at + 1, b);
}

// `row` and `column` are the first of this warp's 16 rows and of the tile's columns.
template <Config kConfig>
__device__ __forceinline__ void store_rows(const Params& p, const Tile& tile, int row,
                                           const float (&sums)[kConfig.right() / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kGroups = kConfig.columns / 8;
  constexpr int kVectors = kConfig.out_f32 ? 0 : kGroups / 4;
  const bool vectors = p.out_alignment >= 16;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t out_row = row + lane / 4 + 8 * r;
    const bool valid = out_row >= tile.begin_row && out_row < tile.end_row;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (4 * v + i) + 2 * r;
        pairs[i] = pack_bf16(sums[at], sums[at + 1]);
      }
      const uint4 packed = transpose_quad(pairs);
      const int column = tile.first_column + 32 * v + lane % 4 * 8;
      if (!valid || column >= p.n) continue;
      uint16_t* out = static_cast<uint16_t*>(p.out) + out_row * p.out_stride + column;
      if (vectors) {
        *reinterpret_cast<uint4*>(out) = packed;
      } else {
        const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (column + i < p.n) out[i] = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
        }
      }
    }
    if (!valid) continue;
#pragma unroll
    for (int i = 4 * kVectors; i < kGroups; ++i) {
      store_pair<kConfig.out_f32>(p, out_row, tile.first_column + 8 * i + lane % 4 * 2,
                                  sums[4 * i + 2 * r], sums[4 * i + 2 * r + 1]);
    }
  }
}

// The same into `staging`, boxes of a warpgroup's 64 rows x 64 columns in shared memory.
template <Config kConfig>
__device__ __forceinline__ void stage_rows(uint32_t staging,
                                           const float (&sums)[kConfig.right() / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int i = 0; i < kConfig.columns / 8; i += 2) {  // 16 columns
    // Of the 16 bytes whose place this lane tells.
    const uint32_t at = i / 8 * kConfig.staged_box_bytes() + chunk_of_128(row, i % 8 + lane / 16);
    store_matrices(staging + at, pack_bf16(sums[4 * i], sums[4 * i + 1]),
                   pack_bf16(sums[4 * i + 2], sums[4 * i + 3]),
                   pack_bf16(sums[4 * i + 4], sums[4 * i + 5]),
                   pack_bf16(sums[4 * i + 6], sums[4 * i + 7]));
  }
}

// A warp's 16 staged rows, `row` the first of the warpgroup's: those of the tile's group.
template <Config kConfig>
__device__ __forceinline__ void copy_rows(const Params& p, const Tile& tile, int row,
                                          uint32_t staging) {
  constexpr int kChunks = kConfig.columns / 8;  // of 16 bytes, in a row
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
  const int begin = max(tile.begin_row - row, first), end = min(tile.end_row - row, first + 16);
  for (int i = begin * kChunks + lane; i < end * kChunks; i += 32) {
    const int local = i / kChunks, chunk = i % kChunks;
    const uint32_t at =
        staging + chunk / 8 * kConfig.staged_box_bytes() + chunk_of_128(local, chunk % 8);
    const int column = tile.first_column + chunk * 8;
    if (column >= p.n) continue;
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.out) + (row + local) * p.out_stride +
                              column) = load_shared_vector(at);
  }
}

// A warpgroup's rows of a tile that is staged: 64 of the tile's group by the copy engine, while the
// warpgroup goes on, others by their warps. `warp`: of the warpgroup.
template <Config kConfig>
__device__ __forceinline__ void store_staged(
    const Params& p, const Tile& tile, uint32_t staging, int warpgroup, int warp, int active,
    const float (&sums)[kConfig.repeats()][kConfig.right() / 2]) {
  constexpr int kRepeats = kConfig.repeats();
  constexpr int kBoxes = kConfig.columns / 64;
  constexpr int kBytes = kBoxes * kConfig.staged_box_bytes();  // of a repeat
  staging += warpgroup * kRepeats * kBytes;
  const auto row_of = [&](int repeat) {
    return tile.first_row + warpgroup * 64 + repeat * kConfig.repeat_rows();
  };
  // What the copy engine must not write: rows of other groups. It knows the ends of out itself.
  const auto is_whole = [&](int repeat) {
    return !kConfig.grouped ||
           (row_of(repeat) >= tile.begin_row && row_of(repeat) + 64 <= tile.end_row);
  };
  if (warp == 0 && elect_lane()) wait_for_box_reads();  // the last tile's
  named_sync<128>(kStaging + warpgroup);
#pragma unroll
  for (int r = 0; r < kRepeats; ++r) {
    if (r < active) stage_rows<kConfig>(staging + r * kBytes, sums[r]);
  }
  async_proxy_fence();
  named_sync<128>(kStaging + warpgroup);
#pragma unroll
  for (int r = 0; r < kRepeats; ++r) {
    if (r < active && !is_whole(r)) {
      copy_rows<kConfig>(p, tile, row_of(r), staging + r * kBytes);
    }
  }
  if (warp > 0 || !elect_lane()) return;
#pragma unroll
  for (int r = 0; r < kRepeats; ++r) {
    if (r >= active || !is_whole(r)) continue;
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      store_box(staging + r * kBytes + box * kConfig.staged_box_bytes(), &p.out_map,
                tile.first_column + box * 64, row_of(r));
    }
  }
  commit_boxes();
}

// The same where the left operand's rows are columns of out, from `column` on.
template <Config kConfig>
__device__ __forceinline__ void store_columns(const Params& p, const Tile& tile, int column,
                                              const float (&sums)[kConfig.right() / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kConfig.rows / 8; ++i) {
    if (tile.first_row + 8 * i >= tile.end_row) return;
    if constexpr (kConfig.out_f32) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t row = tile.first_row + 8 * i + lane % 4 * 2 + j % 2;
        const int at = column + lane / 4 + j / 2 * 8;
        if (row >= tile.begin_row && row < tile.end_row && at < p.n) {
          store_one<true>(p, row * p.out_stride + at, sums[4 * i + j]);
        }
      }
    } else {
      const int64_t row = tile.first_row + 8 * i + lane / 4;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t pair =
            transpose_8x8(pack_bf16(sums[4 * i + 2 * r], sums[4 * i + 2 * r + 1]));
        const int at = column + 8 * r + lane % 4 * 2;
        if (row < tile.begin_row || row >= tile.end_row || at >= p.n) continue;
        uint16_t* out = static_cast<uint16_t*>(p.out) + row * p.out_stride + at;
        if (p.out_alignment >= 4) {
          *reinterpret_cast<uint32_t*>(out) = pair;
        } else {
          out[0] = static_cast<uint16_t>(pair);
          if (at + 1 < p.n) out[1] = static_cast<uint16_t>(pair >> 16);
        }
      }
    }
  }
}

// A split tile's sums into this block's shared memory, rows of partial_stride() floats. `left`: the
// first row of the left operand's 16 of this warp.
template <Config kConfig>
__device__ __forceinline__ void put_partial(uint32_t partial, int left,
                                            const float (&sums)[kConfig.right() / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kConfig.right() / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int l = left + lane / 4 + j / 2 * 8, r = 8 * i + lane % 4 * 2 + j % 2;
      const int at =
          kConfig.swapped ? r * kConfig.partial_stride() + l : l * kConfig.partial_stride() + r;
      store_shared(partial + at * 4, sums[4 * i + j]);
    }
  }
}

// This block's share of a split tile: partial sums of all blocks, added in the blocks' order.
template <Config kConfig>
__device__ __forceinline__ void store_split(const Params& p, const Tile& tile, int rank,
                                            uint32_t partial) {
  constexpr int kRowVectors = kConfig.columns / 4;
  constexpr int kThreads = kConfig.warpgroups * 128;
  const int num_rows = min(kConfig.rows, tile.end_row - tile.first_row);
  for (int i = rank * kThreads + static_cast<int>(threadIdx.x); i < num_rows * kRowVectors;
       i += kConfig.split_k * kThreads) {
    const int row = i / kRowVectors, column = i % kRowVectors * 4;
    const uint32_t at = partial + (row * kConfig.partial_stride() + column) * 4;
    float4 parts[kConfig.split_k];
#pragma unroll
    for (int s = 0; s < kConfig.split_k; ++s) {
      parts[s] = load_cluster_float4(address_in_block(at, s));
    }
    float4 sum = parts[0];
#pragma unroll
    for (int s = 1; s < kConfig.split_k; ++s) {
      sum.x += parts[s].x;
      sum.y += parts[s].y;
      sum.z += parts[s].z;
      sum.w += parts[s].w;
    }
    const int64_t out_row = tile.first_row + row;
    const int out_column = tile.first_column + column;
    if (!kConfig.out_f32 && p.out_alignment >= 8) {
      if (out_column >= p.n) continue;
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + out_row * p.out_stride +
                                out_column) =
          make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
    } else {
      store_pair<kConfig.out_f32>(p, out_row, out_column, sum.x, sum.y);
      store_pair<kConfig.out_f32>(p, out_row, out_column + 2, sum.z, sum.w);
    }
  }
}

}  // namespace deepflight::gemm_fp8
