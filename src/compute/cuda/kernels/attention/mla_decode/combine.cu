// Joins the partial results of split groups: out = sum_i 2^(lse_i - max) out_i, normalised. A warp
// takes 256 columns of a row. Where the rows are few, as many as 8 warps of a block take them
// together, each with some of the splits, and add up in order. That follows from the schedule
// alone: the same bits every run.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / device::kWarpSize;
constexpr int kBlocksPerSm = 4;
constexpr int kLaneColumns = 8;
constexpr int kPieceColumns = kLaneColumns * device::kWarpSize;
constexpr int kPieces = kLatentDim / kPieceColumns;
constexpr int kChunks = kMaxParts / device::kWarpSize;
constexpr int kAhead = 4;  // splits whose results are asked for at once

struct CombineParams {
  const Schedule* schedule;
  const __half* partials;
  const float* lse;
  __nv_bfloat16* out;
  int64_t out_stride, out_head_stride;
  int num_heads;
};

// A warp's part of a piece of a row: every `team`-th split from `member` on.
struct Piece {
  const CombineParams& p;
  const Group& group;
  int num_lanes, lane_idx;  // of the group's tiles
  int local;                // row of the tile
  int column;               // of this thread: the first of eight

  // The first split is the second of its block's slots unless its part began with the group.
  __device__ int slot_of(int split) const {
    const int block = (group.first_part + split) * num_lanes + lane_idx;
    return 2 * block + (split == 0 && group.begins_part == 0 ? 1 : 0);
  }

  __device__ uint4 load(int split) const {
    return *reinterpret_cast<const uint4*>(
        p.partials + (int64_t{slot_of(split)} * kTileRows + local) * kLatentDim + column);
  }
  static __device__ void add(float (&sum)[kLaneColumns], float weight, const uint4& bits) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 pair = __half22float2(reinterpret_cast<const __half2&>(words[k]));
      sum[2 * k] += weight * pair.x;
      sum[2 * k + 1] += weight * pair.y;
    }
  }

  __device__ void sum_splits(int team, int member, float (&sum)[kLaneColumns]) const {
    const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
    // The first ones come while their weights are made.
    uint4 first[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int split = member + i * team;
      first[i] = split < group.num_splits ? load(split) : uint4{};
    }
    float weights[kChunks], largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int split = i * device::kWarpSize + lane;
      weights[i] = split < group.num_splits ? p.lse[slot_of(split) * kTileRows + local] : -INFINITY;
      largest = fmaxf(largest, weights[i]);
    }
    largest = device::warp_max(largest);
    if (largest == -INFINITY) largest = 0.0f;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      weights[i] = exp2f(weights[i] - largest);
      total += weights[i];
    }
    total = device::warp_sum(total);
    const float factor = total > 0.0f ? 1.0f / total : 0.0f;
    const auto weight_of = [&](int split) {
      float weight = 0.0f;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const float told = __shfl_sync(0xffffffffu, weights[i], split % device::kWarpSize);
        if (split / device::kWarpSize == i) weight = told;
      }
      return weight * factor;
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int split = member + i * team;
      if (split < group.num_splits) add(sum, weight_of(split), first[i]);
    }
#pragma unroll 4
    for (int split = member + kAhead * team; split < group.num_splits; split += team) {
      add(sum, weight_of(split), load(split));
    }
  }

  __device__ int row() const { return (group.first_tile + lane_idx) * kTileRows + local; }
  __device__ bool is_there() const {
    return lane_idx < group.num_tiles && row() < group.num_queries * p.num_heads;
  }
  __device__ void store(const float (&sum)[kLaneColumns]) const {
    const int token = row() / p.num_heads;
    device::store8(p.out + int64_t{group.first_token + token} * p.out_stride +
                       int64_t{row() - token * p.num_heads} * p.out_head_stride + column,
                   sum);
  }
};

__global__ void __launch_bounds__(kThreads, kBlocksPerSm) combine_kernel(const CombineParams p) {
  __shared__ float sums[kWarps][kPieceColumns];
  device::allow_next_kernel();
  // The schedule is older than the kernel before this one, its results are not.
  const int num_lanes = p.schedule->num_lanes, tile_rows = p.schedule->tile_rows;
  const int num_pieces = p.schedule->num_split_groups * num_lanes * tile_rows * kPieces;
  int team = 1;
  while (team < kWarps && 2 * team * num_pieces <= static_cast<int>(gridDim.x) * kWarps) team *= 2;
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / device::kWarpSize;
  const int member = warp % team;
  const int pieces_at_once = kWarps / team;
  for (int first = static_cast<int>(blockIdx.x) * pieces_at_once; first < num_pieces;
       first += static_cast<int>(gridDim.x) * pieces_at_once) {
    const int piece_idx = min(first + warp / team, num_pieces - 1);  // the last one twice, maybe
    const int row = piece_idx / kPieces, tile = row / tile_rows;
    const Group& group = p.schedule->split_groups[tile / num_lanes];
    const Piece piece = {p,
                         group,
                         num_lanes,
                         tile % num_lanes,
                         row % tile_rows,
                         piece_idx % kPieces * kPieceColumns + lane * kLaneColumns};
    device::wait_for_previous_kernel();
    float sum[kLaneColumns] = {};
    if (piece.is_there()) piece.sum_splits(team, member, sum);
    if (team > 1) {
#pragma unroll
      for (int k = 0; k < kLaneColumns; ++k) sums[warp][k * device::kWarpSize + lane] = sum[k];
      __syncthreads();
      for (int i = 1; i < team && member == 0; ++i) {
#pragma unroll
        for (int k = 0; k < kLaneColumns; ++k) {
          sum[k] += sums[warp + i][k * device::kWarpSize + lane];
        }
      }
      __syncthreads();
    }
    if (member == 0 && piece.is_there()) piece.store(sum);
  }
}

}  // namespace

cudaError_t launch_combine(const MlaDecodeProblem& problem, int num_sms, const __half* partials,
                           const float* lse, cudaStream_t stream) {
  const CombineParams p = {static_cast<const Schedule*>(problem.metadata),
                           partials,
                           lse,
                           static_cast<__nv_bfloat16*>(problem.out),
                           problem.out_stride,
                           problem.out_head_stride,
                           static_cast<int>(problem.num_heads)};
  device::launch_early(combine_kernel, dim3(static_cast<unsigned>(num_sms * kBlocksPerSm)),
                       dim3(kThreads), stream, p);
  return cudaGetLastError();
}

}  // namespace deepflight::cuda_mla_decode
