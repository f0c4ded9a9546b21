// FP8 block-scaled product on Hopper. A warp copies, with the tensor copy engine, blocks of 128 of
// k through a ring in shared memory; one or two warpgroups multiply. Every block of k is summed by
// the tensor cores from zero and added to float sums under its scales. Blocks are persistent: the
// ring runs on from tile to tile. config.h says what varies.
#pragma once

#include "compute/cuda/kernels/gemm/config.h"
#include "compute/cuda/kernels/gemm/params.h"
#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/kernels/gemm/store.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/wgmma_fp8.cuh"

namespace deepflight::gemm_fp8 {

// Addresses in shared memory, stage by stage.
template <Config kConfig>
struct Shared {
  static constexpr int kX = kConfig.out_bytes();  // what leaves lies at the start
  static constexpr int kW = kX + kConfig.stages * kConfig.x_bytes();
  static constexpr int kXScales = kW + kConfig.stages * kConfig.w_bytes();
  static constexpr int kWScales = kXScales + kConfig.stages * kConfig.x_scale_bytes();
  static constexpr int kFull = kWScales + kConfig.stages * kConfig.w_scale_bytes();
  static constexpr int kEmpty = kFull + kConfig.stages * 8;
  static constexpr int kBefore = kEmpty + kConfig.stages * 8;

  uint32_t base;
  __device__ uint32_t x(int stage) const { return base + kX + stage * kConfig.x_bytes(); }
  __device__ uint32_t w(int stage) const { return base + kW + stage * kConfig.w_bytes(); }
  __device__ uint32_t x_scales(int stage) const {
    return base + kXScales + stage * kConfig.x_scale_bytes();
  }
  __device__ uint32_t w_scales(int stage) const {
    return base + kWScales + stage * kConfig.w_scale_bytes();
  }
  __device__ uint32_t full(int stage) const { return base + kFull + stage * 8; }
  __device__ uint32_t empty(int stage) const { return base + kEmpty + stage * 8; }
};

// A place in the ring.
template <Config kConfig>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kConfig.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ inline float load_shared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ inline float2 load_shared_pair(uint32_t address) {
  float2 value;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(value.x), "=f"(value.y)
               : "r"(address)
               : "memory");
  return value;
}

// One thread of a warp starts the copies.
template <Config kConfig>
struct Producer {
  static constexpr int kBoxRows = kConfig.x_box_rows();
  static constexpr uint16_t kAllBlocks = (1 << kConfig.multicast) - 1;
  static constexpr bool kHalves = kConfig.repeats() == 2;  // rows that no repeat needs stay away
  static constexpr int kScaleBytes = kConfig.rows * static_cast<int>(sizeof(float));

  const Params& p;
  const Shared<kConfig>& shared;

  __device__ __forceinline__ void load_weights(const Tile& tile, int k, int stage, int rank) const {
    const uint32_t full = shared.full(stage);
    const int x_bytes =
        kHalves ? active_repeats<kConfig>(tile) * (kConfig.x_bytes() / 2) : kConfig.x_bytes();
    barrier_arrive_expect(full, x_bytes + kConfig.w_bytes() + kScaleBytes);
    if constexpr (kConfig.shared_w) {
      constexpr int kColumns = kConfig.w_box_columns();
      load_box_multicast(shared.w(stage) + rank * kColumns * kBlockK, &p.w, full, k * kBlockK,
                         tile.first_column + rank * kColumns, tile.group, kAllBlocks);
    } else {
      load_box(shared.w(stage), &p.w, full, k * kBlockK, tile.first_column, tile.group);
    }
  }

  __device__ __forceinline__ void load_rows(const Tile& tile, int k, int stage, int rank) const {
    const uint32_t full = shared.full(stage);
    const uint32_t x = shared.x(stage);
    if constexpr (kConfig.multicast > 1 && !kConfig.shared_w) {
      if (!kHalves || rank < active_repeats<kConfig>(tile)) {
        load_box_multicast(x + rank * kBoxRows * kBlockK, &p.x, full, k * kBlockK,
                           tile.first_row + rank * kBoxRows, 0, kAllBlocks);
      }
    } else {
      load_box(x, &p.x, full, k * kBlockK, tile.first_row, 0);
      if (kHalves && active_repeats<kConfig>(tile) == 2) {
        load_box(x + kBoxRows * kBlockK, &p.x, full, k * kBlockK, tile.first_row + kBoxRows, 0);
      }
    }
    load_box(shared.x_scales(stage), &p.x_scales, full, tile.first_row, k);
  }

  __device__ __forceinline__ void run(const int32_t* before) const {
    Schedule<kConfig> schedule(p, before);
    Ring<kConfig> ring;
    Tile tile;
    bool more = schedule.next(tile);
    int early = 0;  // stages that have their weights
    if constexpr (!kConfig.grouped) {
      if (p.weights_settled && more) {
        early = min(kConfig.stages, schedule.k_end() - schedule.k_begin());
        for (int i = 0; i < early; ++i)
          load_weights(tile, schedule.k_begin() + i, i, schedule.rank());
      }
      wait_for_previous_kernel();
    }
    for (; more; more = schedule.next(tile)) {
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
  Schedule<kConfig> schedule(p, before);
  Ring<kConfig> ring;
  Tile tile;
  while (schedule.next(tile)) {
    // Columns past n have no scale of their own; what stands there meets zeros.
    const int n_block = tile.first_column / 128;
    const int64_t row =
        static_cast<int64_t>(tile.group) * p.n_blocks + min(n_block, p.n_blocks - 1);
    const float* scales = p.w_scales + row * p.k_blocks;
    const int second = n_block + 1 < p.n_blocks ? p.k_blocks : 0;
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

// Of the columns of a tile, in groups of 8: from which one the weights' second scale holds. Few
// values are possible where 32 divides columns; kept apart they cost the sums nothing.
template <Config kConfig>
struct Border {
  static constexpr int kGroups = kConfig.columns / 8;
  static constexpr int kStep = 128 % kConfig.columns == 0  ? 16
                               : kConfig.columns % 64 == 0 ? 8
                               : kConfig.columns % 32 == 0 ? 4
                                                           : 2;
  static constexpr int kLast = kGroups < 16 ? kGroups : 16;
  static constexpr bool kKnown = kConfig.column_scales() == 2 && kStep >= 4;
  static constexpr int kDynamic = -1;
  static __device__ __forceinline__ int of(const Tile& tile) {
    return (128 - tile.first_column % 128) / 8;
  }
};

// sums += product of one block of k, scaled. `left`: this warp's first row of the left operand,
// with another 16 kConfig.warpgroups * 64 rows on where repeats() is 2. `kBorder`: where the
// compiler knows it.
template <Config kConfig, int kBorder>
struct Scales {
  static constexpr int kRight = kConfig.right();
  // Scales of x along the right operand are many: past this they are read when they are used.
  static constexpr bool kLate = kConfig.swapped && kRight > (kConfig.blocks_per_sm == 1 ? 64 : 32);
  static constexpr bool kTwo = !kConfig.swapped && kConfig.column_scales() == 2 &&
                               (kBorder < 0 || kBorder < Border<kConfig>::kGroups);
  static constexpr int kRows = 2 * kConfig.repeats();
  static constexpr int kCount = kConfig.swapped ? (kLate ? 1 : kRight / 4) : kRows;

  float x[kCount];                 // with the weights' first scale in it, but where kLate
  float second[kTwo ? kRows : 1];  // with their second
  float w;
  uint32_t address;
  int border;

  __device__ __forceinline__ void load(uint32_t x_scales, uint32_t w_scales, int left,
                                       const Tile& tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    w = load_shared(w_scales);
    if constexpr (kConfig.swapped) {
      address = x_scales + lane % 4 * 8;
      if constexpr (!kLate) {
#pragma unroll
        for (int i = 0; i < kRight / 8; ++i) {
          const float2 pair = load_shared_pair(address + i * 32);
          x[2 * i] = pair.x * w;
          x[2 * i + 1] = pair.y * w;
        }
      }
    } else {
      const float other = kTwo ? load_shared(w_scales + 4) : 0.0f;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = left + i / 2 * 64 * kConfig.warpgroups + i % 2 * 8 + lane / 4;
        const float scale = load_shared(x_scales + row * 4);
        x[i] = scale * w;
        if constexpr (kTwo) second[i] = scale * other;
      }
      border = kBorder < 0 ? Border<kConfig>::of(tile) : kBorder;
    }
  }

  __device__ __forceinline__ void add(float (&sums)[kRight / 2], const float (&product)[kRight / 2],
                                      int repeat) const {
#pragma unroll
    for (int i = 0; i < kRight / 8; ++i) {
      float a, b, c, d;  // of the four sums of a group of 8
      if constexpr (kConfig.swapped) {
        if constexpr (kLate) {
          const float2 pair = load_shared_pair(address + i * 32);
          a = c = pair.x * w;
          b = d = pair.y * w;
        } else {
          a = c = x[2 * i];
          b = d = x[2 * i + 1];
        }
      } else {
        a = b = x[2 * repeat];
        c = d = x[2 * repeat + 1];
        if constexpr (kTwo) {
          if (i >= border) {
            a = b = second[2 * repeat];
            c = d = second[2 * repeat + 1];
          }
        }
      }
      sums[4 * i] += a * product[4 * i];
      sums[4 * i + 1] += b * product[4 * i + 1];
      sums[4 * i + 2] += c * product[4 * i + 2];
      sums[4 * i + 3] += d * product[4 * i + 3];
    }
  }
};

template <Config kConfig>
__device__ inline void release(const Shared<kConfig>& shared, int stage) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncwarp();
  if constexpr (kConfig.multicast > 1) {
    if (lane < kConfig.multicast) {
      cluster_barrier_arrive(address_in_block(shared.empty(stage), lane));
    }
  } else if (lane == 0) {
    barrier_arrive(shared.empty(stage));
  }
}

// What one warpgroup does to its rows of the left operand.
template <Config kConfig>
struct Multiplier {
  static constexpr int kRepeats = kConfig.repeats(), kRight = kConfig.right();
  // Of a stage.
  static constexpr int kLeftBytes = kConfig.swapped ? kConfig.w_bytes() : kConfig.x_bytes();
  static constexpr int kRightBytes = kConfig.swapped ? kConfig.x_bytes() : kConfig.w_bytes();

  using Product = float[kRight / 2];

  const Shared<kConfig>& shared;
  const int left;                                        // this warp's first row
  const Matrices<16, 1024> left_operand, right_operand;  // of stage 0
  Ring<kConfig> ring{};
  Ring<kConfig> done{};  // the block whose products are scaled next, where pipelined

  __device__ Multiplier(const Shared<kConfig>& memory, int warpgroup, int first_row)
      : shared(memory),
        left(first_row),
        left_operand((kConfig.swapped ? memory.w(0) : memory.x(0)) + warpgroup * 64 * kBlockK),
        right_operand(kConfig.swapped ? memory.x(0) : memory.w(0)) {}

  __device__ __forceinline__ void issue(int stage, int repeat, Product& product) const {
    const int left_at = stage * kLeftBytes + repeat * kConfig.warpgroups * 64 * kBlockK;
    const int right_at = stage * kRightBytes;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kBlockK / 32; ++i) {
      WgmmaE4m3<kRight>::multiply(product, left_operand.at(left_at + i * 32),
                                  right_operand.at(right_at + i * 32), i > 0);
    }
    wgmma_commit();
  }

  template <int kBorder>
  __device__ __forceinline__ void load_scales(Scales<kConfig, kBorder>& scales, int stage,
                                              const Tile& tile) const {
    scales.load(shared.x_scales(stage), shared.w_scales(stage), left, tile);
  }
  __device__ __forceinline__ void wait_for_stage() const {
    barrier_wait(shared.full(ring.stage), ring.parity);
  }

  // Pipelined: starts on the next block of k.
  __device__ __forceinline__ void begin_block(Product& product) {
    wait_for_stage();
    issue(ring.stage, 0, product);
    ring.advance();
  }

  // Pipelined: takes in the oldest, with kPending behind it.
  template <int kPending, int kBorder>
  __device__ __forceinline__ void end_block(const Tile& tile, Product& product, Product& sums) {
    Scales<kConfig, kBorder> scales;
    load_scales(scales, done.stage, tile);
    wgmma_wait<kPending>();
    pin(product);
    if (!scales.kLate) release<kConfig>(shared, done.stage);
    scales.add(sums, product, 0);
    if (scales.kLate) release<kConfig>(shared, done.stage);
    done.advance();
  }

  template <int kBorder>
  __device__ __forceinline__ void run_pipelined(const Tile& tile, int k_blocks, Product& sums) {
    Product even, odd;
    begin_block(even);
    int k = 1;
    for (; k + 1 < k_blocks; k += 2) {
      begin_block(odd);
      end_block<1, kBorder>(tile, even, sums);
      begin_block(even);
      end_block<1, kBorder>(tile, odd, sums);
    }
    if (k < k_blocks) {
      begin_block(odd);
      end_block<1, kBorder>(tile, even, sums);
      end_block<0, kBorder>(tile, odd, sums);
    } else {
      end_block<0, kBorder>(tile, even, sums);
    }
  }

  // One product at a time: the other warpgroup's stand in the tensor cores' queue meanwhile. What
  // can wait is done while it is multiplied: this block's scales are read, the next block is waited
  // for. `kActive`: repeats that have rows of the tile.
  template <int kActive, int kBorder>
  __device__ __forceinline__ void run_one_by_one(const Tile& tile, int k_blocks,
                                                 Product (&sums)[kRepeats]) {
    wait_for_stage();
#pragma unroll kRepeats
    for (int k = 0; k < k_blocks; ++k) {
      const int stage = ring.stage;
      ring.advance();
      Scales<kConfig, kBorder> scales;
#pragma unroll
      for (int r = 0; r < kActive; ++r) {
        Product product;
        issue(stage, r, product);
        if (r == 0) load_scales(scales, stage, tile);
        if (r == kActive - 1 && k + 1 < k_blocks) wait_for_stage();
        wgmma_wait<0>();
        pin(product);
        if (r == kActive - 1 && !scales.kLate) release<kConfig>(shared, stage);
        scales.add(sums[r], product, r);
      }
      if (scales.kLate) release<kConfig>(shared, stage);
    }
  }

  template <int kBorder>
  __device__ __forceinline__ void run_with(const Tile& tile, int k_blocks, int active,
                                           Product (&sums)[kRepeats]) {
    if constexpr (kConfig.pipelined()) {
      run_pipelined<kBorder>(tile, k_blocks, sums[0]);
    } else if (active == kRepeats) {
      run_one_by_one<kRepeats, kBorder>(tile, k_blocks, sums);
    } else {
      run_one_by_one<1, kBorder>(tile, k_blocks, sums);
    }
  }

  // The border as a constant, one of kTried and those past it.
  template <int kTried>
  __device__ __forceinline__ void run_at_border(const Tile& tile, int k_blocks, int active,
                                                Product (&sums)[kRepeats]) {
    if constexpr (kTried >= Border<kConfig>::kLast) {
      run_with<kTried>(tile, k_blocks, active, sums);
    } else if (Border<kConfig>::of(tile) == kTried) {
      run_with<kTried>(tile, k_blocks, active, sums);
    } else {
      run_at_border<kTried + Border<kConfig>::kStep>(tile, k_blocks, active, sums);
    }
  }

  // `active`: as above.
  __device__ __forceinline__ void run(const Tile& tile, int k_blocks, int active,
                                      Product (&sums)[kRepeats]) {
#pragma unroll
    for (int r = 0; r < kRepeats; ++r) {
#pragma unroll
      for (int i = 0; i < kRight / 2; ++i) sums[r][i] = 0.0f;
    }
    if constexpr (Border<kConfig>::kKnown && !kConfig.swapped) {
      run_at_border<Border<kConfig>::kStep>(tile, k_blocks, active, sums);
    } else {
      run_with<Border<kConfig>::kDynamic>(tile, k_blocks, active, sums);
    }
  }
};

// The rows of the left operand from `left` on. `staging`: this warp's place in shared memory for
// them, where out is staged.
template <Config kConfig>
__device__ __forceinline__ void store_part(const Params& p, const Tile& tile, int left,
                                           uint32_t staging,
                                           const float (&sums)[kConfig.right() / 2]) {
  if constexpr (kConfig.staged) {
    const int row = tile.first_row + left;
    // What the copy engine must not write: rows of other groups. It knows the ends of out itself.
    const bool whole = !kConfig.grouped || (row >= tile.begin_row && row + 16 <= tile.end_row);
    if (whole && p.out_alignment == 16) {
      stage_rows<kConfig>(p, tile, row, staging, sums);
    } else {
      store_rows<kConfig>(p, tile, row, sums);
    }
  } else if constexpr (kConfig.swapped) {
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
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int left = warpgroup * 64 + warp * 16;
  constexpr int kNextLeft = 64 * kConfig.warpgroups;  // rows from one repeat to the next
  constexpr int kStagedBytes = 16 * kConfig.columns * 2;
  const uint32_t staging = shared.base + (warpgroup * 4 + warp) * kRepeats * kStagedBytes;
  Schedule<kConfig> schedule(p, before);
  Tile tile;
  float sums[kRepeats][kConfig.right() / 2];
  Multiplier<kConfig> multiplier(shared, warpgroup, left);
  while (schedule.next(tile)) {
    const int active = active_repeats<kConfig>(tile);
    multiplier.run(tile, schedule.k_end() - schedule.k_begin(), active, sums);
    if constexpr (kConfig.split_k > 1) {
      // The stages have been read by all; a split kernel has no second tile to fill them.
      named_sync<kConfig.warpgroups * 128>(1);
#pragma unroll
      for (int r = 0; r < kRepeats; ++r) {
        put_partial<kConfig>(shared.base, left + r * kNextLeft, sums[r]);
      }
      cluster_sync();
      store_split<kConfig>(p, tile, schedule.rank(), shared.base);
      return;
    } else {
      if constexpr (kConfig.staged) {  // the last tile's have been read
        if (elect_lane()) wait_for_box_reads();
        __syncwarp();
      }
      store_part<kConfig>(p, tile, left, staging, sums[0]);
      if constexpr (kRepeats == 2) {
        if (active == 2) {
          store_part<kConfig>(p, tile, left + kNextLeft, staging + kStagedBytes, sums[1]);
        }
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
    if (kConfig.staged && p.out_alignment == 16) prefetch_map(&p.out_map);
    start_barriers(shared);
  }
  allow_next_kernel();
  if constexpr (kConfig.grouped) {
    wait_for_previous_kernel();
    if (threadIdx.x / 32 == 1) count_row_tiles<kConfig>(p, before);
  }
  if constexpr (kConfig.cluster() > 1) cluster_meet();
  if constexpr (kConfig.cluster() == 1 || kConfig.grouped) __syncthreads();
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= kConfig.warpgroups * 4) {
    if constexpr (kConfig.warpgroups == 2) lower_registers<kConfig.blocks_per_sm == 1 ? 40 : 24>();
    if (warp == kConfig.warpgroups * 4) {
      if (elect_lane()) Producer<kConfig>{p, shared}.run(before);
    } else if (warp == kConfig.warpgroups * 4 + 1) {
      if (elect_lane()) load_weight_scales<kConfig>(p, shared, before);
    }
    __syncwarp();
    if constexpr (kConfig.split_k > 1) cluster_sync();
  } else {
    // With the producers' as many as the block was launched with: 168 (80) for each thread.
    if constexpr (kConfig.warpgroups == 2) {
      raise_registers<kConfig.blocks_per_sm == 1 ? 232 : 104>();
    }
    wait_for_previous_kernel();
    consume<kConfig>(p, shared, before);
  }
  if constexpr (kConfig.split_k > 1) cluster_meet();  // others may still read this block's sums
}

}  // namespace deepflight::gemm_fp8
