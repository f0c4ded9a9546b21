// The copying half: one thread brings blocks of k of x, the weights and x's scales with the tensor
// copy engine, another the weights' scales.
#pragma once

#include "compute/cuda/kernels/gemm/feed.cuh"
#include "compute/cuda/kernels/gemm/params.h"
#include "compute/cuda/kernels/gemm/ring.cuh"
#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/tma.cuh"

namespace deepflight::gemm_fp8 {

using namespace device;  // NOLINT: headers of this kernel

// One thread of a warp starts the copies.
template <Config kConfig>
struct Producer {
  enum : int {
    kBoxRows = kConfig.x_box_rows(),
    kScaleBytes = kConfig.rows * static_cast<int>(sizeof(float)),
    // Stages that get their weights before the kernel before this one is done. Rows of x queue
    // behind them: where those are many (not swapped), some stages wait with them.
    kEarly = kConfig.swapped ? kConfig.stages : kConfig.stages * 5 / 8
  };
  enum : uint16_t { kAllBlocks = (1 << kConfig.multicast) - 1 };
  enum : bool {
    kHalves = kConfig.repeats() == 2,  // rows that no repeat needs stay away
    kAsksOnce = !kConfig.grouped && !kConfig.shared_w && kConfig.columns >= 64
  };

  const Params& p;
  const Shared<kConfig>& shared;
  const uint64_t once = kAsksOnce ? evict_first_policy() : 0;

  // Of the rows of x, that are brought; a block of a cluster without rows gets one all the same.
  static __device__ __forceinline__ int num_halves(const Tile& tile) {
    return kHalves && active_repeats<kConfig>(tile, 0) == 2 ? 2 : 1;
  }

  // Dense weights that no other tile of rows wants need not stay in L2: up to 5 % at 128 rows.
  // Those of groups had better, and where boxes are small the question takes longer than it saves
  // (10 %).
  __device__ __forceinline__ void load_weight_box(uint32_t to, uint32_t full, int k, int row,
                                                  int group) const {
    if (kAsksOnce && p.m <= kConfig.rows) {
      load_box(to, &p.w, full, k * kBlockK, row, group, once);
    } else {
      load_box(to, &p.w, full, k * kBlockK, row, group);
    }
  }

  __device__ __forceinline__ void load_weights(const Tile& tile, int k, int stage, int rank) const {
    const uint32_t full = shared.full(stage);
    const int x_bytes = num_halves(tile) * (kConfig.x_bytes() / (kHalves ? 2 : 1));
    barrier_arrive_expect(full, x_bytes + kConfig.w_bytes() + kScaleBytes);
    constexpr int kColumns = kConfig.w_box_columns();
    if constexpr (kConfig.swiglu) {
      // 64 of gate, the same of up, the next of gate, of up: a warpgroup's lie together.
      constexpr int kBoxes = 4 / (kConfig.shared_w ? kConfig.multicast : 1);
      const int first = kConfig.shared_w ? rank * kBoxes : 0;
#pragma unroll
      for (int i = 0; i < kBoxes; ++i) {
        const int box = first + i;
        const int row = tile.first_column / 2 + box / 2 * kColumns + box % 2 * (p.n / 2);
        const uint32_t to = shared.w(stage) + box * kColumns * kBlockK;
        if constexpr (kConfig.shared_w) {
          load_box_multicast(to, &p.w, full, k * kBlockK, row, tile.group, kAllBlocks);
        } else {
          load_weight_box(to, full, k, row, tile.group);
        }
      }
    } else if constexpr (kConfig.shared_w) {
      load_box_multicast(shared.w(stage) + rank * kColumns * kBlockK, &p.w, full, k * kBlockK,
                         tile.first_column + rank * kColumns, tile.group, kAllBlocks);
    } else {
      load_weight_box(shared.w(stage), full, k, tile.first_column, tile.group);
    }
  }

  __device__ __forceinline__ void load_rows(const Tile& tile, int k, int stage, int rank) const {
    const uint32_t full = shared.full(stage);
    const uint32_t x = shared.x(stage);
    if constexpr (kConfig.multicast > 1 && !kConfig.shared_w) {
      if (!kHalves || rank < num_halves(tile)) {
        load_box_multicast(x + rank * kBoxRows * kBlockK, &p.x, full, k * kBlockK,
                           tile.first_row + rank * kBoxRows, 0, kAllBlocks);
      }
    } else {
      load_box(x, &p.x, full, k * kBlockK, tile.first_row, 0);
      if (num_halves(tile) == 2) {
        load_box(x + kBoxRows * kBlockK, &p.x, full, k * kBlockK, tile.first_row + kBoxRows, 0);
      }
    }
    load_box(shared.x_scales(stage), &p.x_scales, full, tile.first_row, k);
  }

  __device__ __forceinline__ void run(const int32_t* before) const {
    TileSource<kConfig> tiles(p, shared, before);
    const Schedule<kConfig>& schedule = tiles.schedule;
    Ring<kConfig> ring;
    Tile tile;
    bool more = tiles.next(tile);
    int early = 0;  // stages that have their weights
    if constexpr (!kConfig.grouped) {
      if (p.weights_settled && more) {
        early = min(kEarly, schedule.k_end() - schedule.k_begin());
        for (int i = 0; i < early; ++i)
          load_weights(tile, schedule.k_begin() + i, i, schedule.rank());
      }
      wait_for_previous_kernel();
    }
    for (; more; more = tiles.next(tile)) {
      for (int k = schedule.k_begin(); k < schedule.k_end(); ++k, ring.advance()) {
        barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
        if (early > 0) {
          --early;
        } else {
          load_weights(tile, k, ring.stage, schedule.rank());
        }
        load_rows(tile, k, ring.stage, schedule.rank());
      }
    }
    if constexpr (kConfig.multicast > 1) drain(ring);
    tiles.drain();
  }

  // Until the blocks of the cluster have read all stages: their arrivals must find this block's
  // barriers, so it may not end before.
  __device__ __forceinline__ void drain(Ring<kConfig> ring) const {
    for (int i = 0; i < kConfig.stages; ++i, ring.advance()) {
      barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
    }
  }
};

// One thread of another warp brings the scales of the weights: rows of them lie at any address,
// which the copy engine does not take.
template <Config kConfig>
__device__ __forceinline__ void load_weight_scales(const Params& p, const Shared<kConfig>& shared,
                                                   const int32_t* before) {
  if (!kConfig.grouped && !p.weights_settled) wait_for_previous_kernel();
  Tiles<kConfig, false> tiles(p, shared, before);
  const Schedule<kConfig>& schedule = tiles.schedule;
  Ring<kConfig> ring;
  Tile tile;
  while (tiles.next(tile)) {
    // Columns past n have no scale of their own; what stands there meets zeros.
    const int n_block = tile.first_column / (kConfig.swiglu ? 256 : 128);
    const int64_t row = static_cast<int64_t>(tile.group) * p.n_blocks +
                        min(n_block, (kConfig.swiglu ? p.n_blocks / 2 : p.n_blocks) - 1);
    const float* scales = p.w_scales + row * p.k_blocks;
    const int second = kConfig.swiglu             ? p.n_blocks / 2 * p.k_blocks
                       : n_block + 1 < p.n_blocks ? p.k_blocks
                                                  : 0;
    for (int k = schedule.k_begin(); k < schedule.k_end(); ++k, ring.advance()) {
      barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      load_word(shared.w_scales(ring.stage), scales + k);
      if constexpr (kConfig.column_scales() == 2) {
        load_word(shared.w_scales(ring.stage) + 4, scales + k + second);
      }
      arrive_after_loads(shared.full(ring.stage));
    }
  }
}

}  // namespace deepflight::gemm_fp8
