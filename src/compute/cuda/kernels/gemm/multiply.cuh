// The multiplying half: a warpgroup's products of a tile. Every block of k is summed by the tensor
// cores from zero and added to float sums under its scales.
#pragma once

#include "compute/cuda/kernels/gemm/ring.cuh"
#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/primitives/wgmma_fp8.cuh"

namespace deepflight::gemm_fp8 {

using namespace device;  // NOLINT: headers of this kernel

// Of the columns of a tile, in groups of 8: from which one the weights' second scale holds. Few
// values are possible where 32 divides columns; kept apart they cost the sums nothing.
template <Config kConfig>
struct Border {
  enum : int {
    kGroups = kConfig.columns / 8,
    kStep = 128 % kConfig.columns == 0  ? 16
            : kConfig.columns % 64 == 0 ? 8
            : kConfig.columns % 32 == 0 ? 4
                                        : 2,
    kLast = kGroups < 16 ? kGroups : 16,
    kDynamic = -1,
    kUp = 8  // swiglu: 64 columns of gate, then of up
  };
  enum : bool { kKnown = kConfig.column_scales() == 2 && kStep >= 4 };
  static __device__ __forceinline__ int of(const Tile& tile) {
    return (128 - tile.first_column % 128) / 8;
  }
};

// sums += product of one block of k, scaled. `left`: the product's first row of the left operand
// that this warp has. `kBorder`: where the compiler knows it.
template <Config kConfig, int kBorder>
struct Scales {
  enum : bool {
    // Scales of x along the right operand are many: past this they are read when they are used.
    kLate = kConfig.swapped && kConfig.right() > (kConfig.blocks_per_sm == 1 ? 64 : 32),
    kTwo = !kConfig.swapped && kConfig.column_scales() == 2 &&
           (kBorder < 0 || kBorder < Border<kConfig>::kGroups)
  };
  enum : int { kRight = kConfig.right(), kCount = !kConfig.swapped ? 2 : kLate ? 1 : kRight / 4 };

  float x[kCount];             // with the weights' first scale in it, but where kLate
  float second[kTwo ? 2 : 1];  // with their second
  float w;
  uint32_t address;
  int border;

  __device__ __forceinline__ void load(uint32_t x_scales, float2 w_scales, int left,
                                       const Tile& tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    w = w_scales.x;
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
      address = x_scales + (left + lane / 4) * 4;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float scale = load_shared(address + i * 32);
        x[i] = scale * w;
        if constexpr (kTwo) second[i] = scale * w_scales.y;
      }
      border = kBorder < 0 ? Border<kConfig>::of(tile) : kBorder;
    }
  }

  __device__ __forceinline__ void add(float (&sums)[kRight / 2],
                                      const float (&product)[kRight / 2]) const {
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
        a = b = x[0];
        c = d = x[1];
        if constexpr (kTwo) {
          if (i >= border) {
            a = b = second[0];
            c = d = second[1];
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

// What one warpgroup does to its rows of the left operand.
template <Config kConfig>
struct Multiplier {
  enum : int {
    kRepeats = kConfig.repeats(),
    kRight = kConfig.right(),
    // Of a stage.
    kLeftBytes = kConfig.swapped ? kConfig.w_bytes() : kConfig.x_bytes(),
    kRightBytes = kConfig.swapped ? kConfig.x_bytes() : kConfig.w_bytes()
  };

  using Product = float[kRight / 2];

  const Shared<kConfig>& shared;
  const int left;                                        // this warp's first row
  const Matrices<16, 1024> left_operand, right_operand;  // of stage 0
  const uint32_t empty;  // of stage 0, in the block that this lane tells
  Ring<kConfig> ring{};
  Ring<kConfig> done{};  // the block whose products are scaled next, where pipelined

  __device__ Multiplier(const Shared<kConfig>& memory, int warpgroup, int first_row)
      : shared(memory),
        left(first_row),
        left_operand((kConfig.swapped ? memory.w(0) : memory.x(0)) +
                     (kConfig.swiglu ? 0 : warpgroup * 64 * kBlockK)),
        right_operand((kConfig.swapped ? memory.x(0) : memory.w(0)) +
                      (kConfig.swiglu ? warpgroup * kRight * kBlockK : 0)),
        empty(kConfig.multicast > 1
                  ? address_in_block(memory.empty(0), threadIdx.x % kConfig.multicast)
                  : memory.empty(0)) {}

  __device__ __forceinline__ void issue(int stage, int repeat, Product& product) const {
    const int left_at = repeat * kConfig.repeat_rows() * kBlockK;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kBlockK / 32; ++i) {
      WgmmaE4m3<kRight>::multiply(product, left_operand.at(stage, kLeftBytes, left_at + i * 32),
                                  right_operand.at(stage, kRightBytes, i * 32), i > 0);
    }
    wgmma_commit();
  }

  // The weights' scales of a stage; the second one where the tile has columns of two.
  template <int kBorder>
  __device__ __forceinline__ float2 load_weight_scales(int stage) const {
    const uint32_t at = shared.w_scales(stage);
    constexpr bool kTwo = Scales<kConfig, kBorder>::kTwo;
    return make_float2(load_shared(at), kTwo ? load_shared(at + 4) : 0.0f);
  }
  __device__ __forceinline__ void wait_for_stage() const {
    barrier_wait(shared.full(ring.stage), ring.parity);
  }

  // Tells all blocks that fill it that this warp has read a stage.
  __device__ __forceinline__ void release(int stage) const {
    __syncwarp();
    if (threadIdx.x % 32 < kConfig.multicast) {
      if constexpr (kConfig.multicast > 1) {
        cluster_barrier_arrive(empty + stage * 8);
      } else {
        barrier_arrive(empty + stage * 8);
      }
    }
  }

  // Pipelined: starts on the next block of k.
  template <int kBorder>
  __device__ __forceinline__ void begin_block(const Tile& tile, Scales<kConfig, kBorder>& scales,
                                              Product& product) {
    wait_for_stage();
    scales.load(shared.x_scales(ring.stage), load_weight_scales<kBorder>(ring.stage), left, tile);
    issue(ring.stage, 0, product);
    ring.advance();
  }

  // Pipelined: takes in the oldest, with kPending behind it.
  template <int kPending, int kBorder>
  __device__ __forceinline__ void end_block(const Scales<kConfig, kBorder>& scales,
                                            Product& product, Product& sums) {
    wgmma_wait<kPending>();
    pin(product);
    if (!scales.kLate) release(done.stage);
    scales.add(sums, product);
    if (scales.kLate) release(done.stage);
    done.advance();
  }

  template <int kBorder>
  __device__ __forceinline__ void run_pipelined(const Tile& tile, int k_blocks, Product& sums) {
    Product even, odd;
    Scales<kConfig, kBorder> even_scales, odd_scales;
    begin_block(tile, even_scales, even);
    int k = 1;
    for (; k + 1 < k_blocks; k += 2) {
      begin_block(tile, odd_scales, odd);
      end_block<1>(even_scales, even, sums);
      begin_block(tile, even_scales, even);
      end_block<1>(odd_scales, odd, sums);
    }
    if (k < k_blocks) {
      begin_block(tile, odd_scales, odd);
      end_block<1>(even_scales, even, sums);
      end_block<0>(odd_scales, odd, sums);
    } else {
      end_block<0>(even_scales, even, sums);
    }
  }

  // One product at a time: the other warpgroup's stand in the tensor cores' queue meanwhile. A
  // product's scales are read ahead of it: behind its start they would wait for it. `kActive`:
  // repeats that have rows of the tile.
  template <int kActive, int kBorder>
  __device__ __forceinline__ void run_one_by_one(const Tile& tile, int k_blocks,
                                                 Product (&sums)[kRepeats]) {
    constexpr int kUnroll = kActive == 2 ? 8 : 4;
#pragma unroll kUnroll
    for (int k = 0; k < k_blocks; ++k) {
      wait_for_stage();
      const int stage = ring.stage;
      ring.advance();
      const float2 w_scales = load_weight_scales<kBorder>(stage);
#pragma unroll
      for (int r = 0; r < kActive; ++r) {
        Scales<kConfig, kBorder> scales;
        scales.load(shared.x_scales(stage), w_scales, left + r * kConfig.repeat_rows(), tile);
        Product product;
        issue(stage, r, product);
        wgmma_wait<0>();
        pin(product);
        if (!scales.kLate && r == kActive - 1) release(stage);
        scales.add(sums[r], product);
        if (scales.kLate && r == kActive - 1) release(stage);
      }
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

  // Passes over the blocks of a tile of which this warpgroup has no rows.
  __device__ __forceinline__ void pass(int k_blocks) {
    for (int k = 0; k < k_blocks; ++k) {
      wait_for_stage();
      release(ring.stage);
      ring.advance();
    }
    done = ring;
  }

  // `active`: as above.
  __device__ __forceinline__ void run(const Tile& tile, int k_blocks, int active,
                                      Product (&sums)[kRepeats]) {
#pragma unroll
    for (int r = 0; r < kRepeats; ++r) {
#pragma unroll
      for (int i = 0; i < kRight / 2; ++i) sums[r][i] = 0.0f;
    }
    if constexpr (kConfig.grouped) {
      // What the compiler no longer knows to be the same for all lanes, once it has seen what
      // stores a group's edge: left so, it derives each descriptor in a thread's registers (up to
      // 6%).
      ring.stage = static_cast<int>(uniform(ring.stage));
      ring.parity = uniform(ring.parity);
    }
    if (active == 0) {
      pass(k_blocks);
    } else if constexpr (kConfig.swiglu) {
      run_with<Border<kConfig>::kUp>(tile, k_blocks, active, sums);
    } else if constexpr (Border<kConfig>::kKnown && !kConfig.swapped) {
      run_at_border<Border<kConfig>::kStep>(tile, k_blocks, active, sums);
    } else {
      run_with<Border<kConfig>::kDynamic>(tile, k_blocks, active, sums);
    }
  }
};

}  // namespace deepflight::gemm_fp8
