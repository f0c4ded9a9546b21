// Which tile a number stands for. Tiles are numbered group by group; in a group, by bands of rows
// of x that stay in L2 while the weights pass; in a band, the rows of one strip of columns first.
// All warps of a block follow the same numbers: dense tiles, all of one length, are dealt to the
// blocks in turns, those of groups are handed out (feed.cuh). Only the device knows the groups'
// sizes.
#pragma once

#include "compute/cuda/kernels/gemm/config.h"
#include "compute/cuda/kernels/gemm/params.h"

namespace deepflight::gemm_fp8 {

// Named barriers. 0 is __syncthreads().
enum : int {
  kAll = 1,     // of the warps that multiply
  kStaging = 2  // of a warpgroup; the next one's is the next
};

// NOTE: the copy engine takes x's scales only from 16-byte boundaries, so a group's tiles start up
// to three rows before it. Those rows are computed and not stored.
struct Tile {
  int group;
  int first_row;
  int begin_row, end_row;  // of the group; past first_row + rows where the tile is full
  int first_column;
};

// Repeats of a warpgroup that have rows of the tile; `first`: of its rows, in the tile.
template <Config kConfig>
__device__ __forceinline__ int active_repeats(const Tile& tile, int first) {
  if constexpr (kConfig.swapped) return kConfig.repeats();
  const int rows = tile.end_row - tile.first_row - first;
  return rows <= 0 ? 0 : kConfig.repeats() == 2 && rows > kConfig.repeat_rows() ? 2 : 1;
}

// Tiles of rows before each group, at `before[0 .. num_groups]`. One warp.
template <Config kConfig>
__device__ inline void count_row_tiles(const Params& p, int32_t* before) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int total = 0;
  for (int first = 0; first < p.num_groups; first += 32) {
    const int group = first + lane;
    int count = 0;
    if (group < p.num_groups) {
      const int begin = p.offsets[group], end = p.offsets[group + 1];
      if (begin < end) {
        count = (end - begin / 4 * 4 + kConfig.cluster_rows() - 1) / kConfig.cluster_rows();
      }
    }
    int sum = count;  // inclusive
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += other;
    }
    if (group < p.num_groups) before[group] = total + sum - count;
    total += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane == 0) before[p.num_groups] = total;
}

template <Config kConfig>
class Schedule {
 public:
  __device__ Schedule(const Params& p, const int32_t* before) : p_(p), before_(before) {
    strips_ = (p.n + kConfig.cluster_columns() - 1) / kConfig.cluster_columns();
    next_ = static_cast<int>(blockIdx.x) / kConfig.cluster();
    step_ = static_cast<int>(gridDim.x) / kConfig.cluster();
    rank_ = static_cast<int>(blockIdx.x) % kConfig.cluster();
  }

  // Dense: this cluster's turn.
  __device__ bool next(Tile& tile) {
    const int number = next_;
    next_ += step_;
    return locate(number, tile);
  }

  // Numbers must rise from call to call. False past the last tile.
  __device__ bool locate(int number, Tile& tile) {
    constexpr int kRows = kConfig.cluster_rows();
    constexpr int kBand = kRows > kBandRows ? 1 : kBandRows / kRows;
    int begin_row = 0, end_row = p_.m, tiles = (p_.m + kRows - 1) / kRows;
    if constexpr (kConfig.grouped) {
      while (group_ < p_.num_groups && before_[group_ + 1] * strips_ <= number) {
        ++group_;
        band_ = 0;
        band_begin_ = before_[group_] * strips_;
      }
      if (group_ == p_.num_groups) return false;
      begin_row = p_.offsets[group_];
      end_row = p_.offsets[group_ + 1];
      tiles = before_[group_ + 1] - before_[group_];
    } else if (number >= tiles * strips_) {
      return false;
    }
    while (number - band_begin_ >= kBand * strips_) {
      band_ += kBand;
      band_begin_ += kBand * strips_;
    }
    const int local = number - band_begin_;
    // Dividing by what the compiler knows is short, and most bands are whole.
    const int band_tiles = min(kBand, tiles - band_);
    const int strip = band_tiles == kBand ? local / kBand : local / band_tiles;
    tile.group = group_;
    tile.first_row = begin_row / 4 * 4 + (band_ + local - strip * band_tiles) * kRows;
    tile.begin_row = begin_row;
    tile.end_row = end_row;
    tile.first_column = strip * kConfig.cluster_columns();
    if constexpr (kConfig.shared_w) {
      tile.first_row += rank_ * kConfig.rows;
    } else if constexpr (kConfig.multicast > 1) {
      tile.first_column += rank_ * kConfig.columns;
    }
    return true;
  }

  // This block's part of k.
  __device__ int k_begin() const {
    return kConfig.split_k == 1 ? 0 : p_.k_blocks * rank_ / kConfig.split_k;
  }
  __device__ int k_end() const {
    return kConfig.split_k == 1 ? p_.k_blocks : p_.k_blocks * (rank_ + 1) / kConfig.split_k;
  }
  __device__ int rank() const { return rank_; }

  __device__ int first() const { return next_; }
  __device__ int num_clusters() const { return step_; }
  __device__ int num_tiles() const { return before_[p_.num_groups] * strips_; }  // where grouped

 private:
  const Params& p_;
  const int32_t* before_;
  int strips_, next_, step_, rank_;
  int group_ = 0;
  int band_ = 0, band_begin_ = 0;  // its first tile of rows in the group, its first tile
};

}  // namespace deepflight::gemm_fp8
