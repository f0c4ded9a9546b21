// From accumulators to rows of the next product: silu(gate) * up, quantised in 1x128 blocks. A
// warpgroup has 64 columns of gate and the same of up, and the other warpgroup the rest of the
// block: they tell each other the largest magnitude of each row.
#pragma once

#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"

namespace deepflight::gemm_fp8 {

using namespace device;  // NOLINT: headers of this kernel

// Magnitudes of 64 rows from each of two warpgroups, in shared memory twice: one warpgroup may be
// writing its next when the other has not yet read these.
struct Exchange {
  uint32_t base;
  int warpgroup;
  int turn = 0;
  __device__ uint32_t place(int of_warpgroup, int row) const {
    return base + ((turn * 2 + of_warpgroup) * 64 + row) * 4;
  }
};

// `left`: the first of this warp's 16 rows in the tile. The arithmetic, and so the bits, are those
// of a product to BF16 and cuda_quantize::swiglu() after it.
template <Config kConfig>
__device__ __forceinline__ void store_activated(const Params& p, const Tile& tile, int left,
                                                Exchange& exchange,
                                                const float (&sums)[kConfig.right() / 2]) {
  constexpr int kGroups = 8;  // of 8 columns of gate; as many of up behind them
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float values[2][2 * kGroups];
  float largest[2] = {0.0f, 0.0f};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) {
      const int at = 4 * (i / 2) + 2 * r + i % 2;
      const float gate = round_to_bf16(sums[at]), up = round_to_bf16(sums[at + 4 * kGroups]);
      values[r][i] = round_to_bf16(silu(gate) * up);
      largest[r] = fmaxf(largest[r], fabsf(values[r][i]));
    }
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 2));
    if (lane % 4 == 0) {
      store_shared(exchange.place(exchange.warpgroup, (left + lane / 4 + 8 * r) % 64), largest[r]);
    }
  }
  named_sync<256>(kAll);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = left + lane / 4 + 8 * r;
    const float other = load_shared(exchange.place(1 - exchange.warpgroup, row % 64));
    const float magnitude = fmaxf(largest[r], other);
    const float factor = e4m3_block_factor(magnitude);
    uint32_t words[4];  // two columns of a group of 8, and of the next group
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = to_e4m3x4(values[r][4 * i] * factor, values[r][4 * i + 1] * factor,
                           values[r][4 * i + 2] * factor, values[r][4 * i + 3] * factor);
    }
    const uint4 mine = transpose_quad(words);  // two groups whole, their columns in turns
    const int64_t out_row = tile.first_row + row;
    if (out_row < tile.begin_row || out_row >= tile.end_row || tile.first_column >= p.n) continue;
    const int block = tile.first_column / kConfig.columns;
    const int64_t column = block * 128 + exchange.warpgroup * 64 + lane % 4 * 16;
    *reinterpret_cast<uint4*>(p.activated + out_row * p.activated_stride + column) =
        make_uint4(__byte_perm(mine.x, mine.y, 0x5410), __byte_perm(mine.z, mine.w, 0x5410),
                   __byte_perm(mine.x, mine.y, 0x7632), __byte_perm(mine.z, mine.w, 0x7632));
    if (exchange.warpgroup == 0 && lane % 4 == 0) {
      p.activated_scales[block * p.activated_scale_stride + out_row] = e4m3_block_scale(magnitude);
    }
  }
  exchange.turn ^= 1;
}

}  // namespace deepflight::gemm_fp8
