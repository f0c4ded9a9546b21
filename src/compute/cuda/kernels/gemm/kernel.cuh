// FP8 block-scaled product on Hopper: threads copy blocks of 128 of k through a ring in shared
// memory (load.cuh), one to three warpgroups multiply (multiply.cuh) and store (store.cuh). Blocks
// are persistent: the ring runs on from tile to tile (schedule.cuh). config.h says what varies.
#pragma once

#include "compute/cuda/kernels/gemm/activate.cuh"
#include "compute/cuda/kernels/gemm/config.h"
#include "compute/cuda/kernels/gemm/feed.cuh"
#include "compute/cuda/kernels/gemm/load.cuh"
#include "compute/cuda/kernels/gemm/multiply.cuh"
#include "compute/cuda/kernels/gemm/params.h"
#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/kernels/gemm/store.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/tma.cuh"

namespace deepflight::gemm_fp8 {

// The rows of the left operand from `left` on.
template <Config kConfig>
__device__ __forceinline__ void store_part(const Params& p, const Tile& tile, int left,
                                           const float (&sums)[kConfig.right() / 2]) {
  if constexpr (kConfig.swapped) {
    store_columns<kConfig>(p, tile, tile.first_column + left, sums);
  } else {
    store_rows<kConfig>(p, tile, tile.first_row + left, sums);
  }
}

template <Config kConfig>
__device__ __forceinline__ void consume(const Params& p, const Shared<kConfig>& shared,
                                        const int32_t* before) {
  constexpr int kRepeats = kConfig.repeats();
  // The same for all lanes, as the compiler then knows.
  const int warp_idx = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int warpgroup = warp_idx / 4, warp = warp_idx % 4;
  const int first = kConfig.swiglu ? 0 : warpgroup * 64;  // of its rows of the left operand
  const int left = first + warp * 16;
  Tiles<kConfig, true> tiles(p, shared, before);
  const Schedule<kConfig>& schedule = tiles.schedule;
  Tile tile;
  float sums[kRepeats][kConfig.right() / 2];
  Multiplier<kConfig> multiplier(shared, warpgroup, left);
  Exchange exchange{shared.base, warpgroup};
  while (tiles.next(tile)) {
    const int active = active_repeats<kConfig>(tile, first);
    multiplier.run(tile, schedule.k_end() - schedule.k_begin(), active, sums);
    if constexpr (kConfig.swiglu) {
      store_activated<kConfig>(p, tile, left, exchange, sums[0]);
      if constexpr (kRepeats == 2) {
        if (active == 2)
          store_activated<kConfig>(p, tile, left + kConfig.repeat_rows(), exchange, sums[1]);
      }
    } else if constexpr (kConfig.split_k > 1) {
      // The stages have been read by all; a split kernel has no second tile to fill them.
      named_sync<kConfig.warpgroups * 128>(kAll);
#pragma unroll
      for (int r = 0; r < kRepeats; ++r) {
        put_partial<kConfig>(shared.base, left + r * kConfig.repeat_rows(), sums[r]);
      }
      cluster_sync();
      store_split<kConfig>(p, tile, schedule.rank(), shared.base);
      return;
    } else if (active == 0) {
      continue;
    } else if constexpr (kConfig.staged) {
      store_staged<kConfig>(p, tile, shared.base, warpgroup, warp, active, sums);
    } else {
      store_part<kConfig>(p, tile, left, sums[0]);
      if constexpr (kRepeats == 2) {
        if (active == 2) store_part<kConfig>(p, tile, left + kConfig.repeat_rows(), sums[1]);
      }
    }
  }
  if (kConfig.staged && elect_lane()) wait_for_box_reads();
  if constexpr (kConfig.split_k > 1) cluster_sync();  // as the blocks with a tile do
}

template <Config kConfig>
__device__ inline void start_barriers(const Shared<kConfig>& shared) {
  for (int stage = 0; stage < kConfig.stages; ++stage) {
    barrier_init(shared.full(stage), 2);
    barrier_init(shared.empty(stage), kConfig.multicast * kConfig.warpgroups * 4);
  }
  if constexpr (kConfig.grouped) Feed<kConfig>::start(shared);
  barrier_init_fence();
}

template <Config kConfig>
__device__ __forceinline__ void run(const Params& p) {
  extern __shared__ uint8_t memory[];
  const uint32_t start = shared_address(memory);
  const uint32_t aligned = (start + 1023) / 1024 * 1024;
  const Shared<kConfig> shared = {aligned};
  int32_t* before =
      reinterpret_cast<int32_t*>(memory + (aligned - start) + Shared<kConfig>::kBefore);
  if (threadIdx.x == 0) {
    prefetch_map(&p.x);
    prefetch_map(&p.w);
    prefetch_map(&p.x_scales);
    if (kConfig.staged) prefetch_map(&p.out_map);
    start_barriers(shared);
  }
  allow_next_kernel();
  if constexpr (kConfig.grouped) {
    wait_for_previous_kernel();
    if (threadIdx.x / 32 == 1) count_row_tiles<kConfig>(p, before);
  }
  // Feed's first words are written before others come.
  if constexpr (kConfig.cluster() > 1) {
    kConfig.grouped ? cluster_sync() : cluster_meet();
  }
  if constexpr (kConfig.cluster() == 1 || kConfig.grouped) __syncthreads();
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= kConfig.warpgroups * 4) {
    if constexpr (kConfig.warpgroups > 1) lower_registers<kConfig.copying_registers()>();
    if (warp == kConfig.warpgroups * 4) {
      if (elect_lane()) Producer<kConfig>{p, shared}.run(before);
    } else if (warp == kConfig.warpgroups * 4 + 1) {
      if (elect_lane()) load_weight_scales<kConfig>(p, shared, before);
    }
    __syncwarp();
    if constexpr (kConfig.split_k > 1) cluster_sync();
  } else {
    if constexpr (kConfig.warpgroups > 1) raise_registers<kConfig.multiplying_registers()>();
    wait_for_previous_kernel();
    consume<kConfig>(p, shared, before);
  }
  // Others may still read this block's sums.
  if constexpr (kConfig.split_k > 1) cluster_meet();
}

}  // namespace deepflight::gemm_fp8
