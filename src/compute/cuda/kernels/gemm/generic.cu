// The FP8 product at any shape, on CUDA cores: a tile of 32 rows of one group and 32 columns a
// block, one k-slab at a time through shared memory. For shapes of small models; nothing here is
// tuned.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "compute/cuda/kernels/gemm/kernels.h"

namespace deepflight::gemm_fp8 {
namespace {

constexpr int kTile = 32;

__device__ float from_e4m3(uint8_t bits) {
  __nv_fp8_e4m3 value;
  value.__x = bits;
  return static_cast<float>(value);
}

struct TileRows {
  int64_t group;
  int64_t begin;
  int64_t end;
};

// The rows of tile number `tile`, tiles counted group by group; an empty range past the last.
__device__ TileRows tile_rows(const Fp8GemmProblem& p, int64_t tile) {
  if (p.num_groups == 0) {
    const int64_t begin = tile * kTile;
    return {0, begin, min(begin + kTile, p.m)};
  }
  for (int64_t group = 0; group < p.num_groups; ++group) {
    const int64_t begin = p.offsets[group], end = p.offsets[group + 1];
    const int64_t num_tiles = (end - begin + kTile - 1) / kTile;
    if (tile < num_tiles) {
      return {group, begin + tile * kTile, min(begin + (tile + 1) * kTile, end)};
    }
    tile -= num_tiles;
  }
  return {0, 0, 0};
}

__global__ void __launch_bounds__(256) generic_kernel(const Fp8GemmProblem p) {
  __shared__ float x_tile[kTile][kTile + 1];
  __shared__ float w_tile[kTile][kTile + 1];
  const TileRows rows = tile_rows(p, blockIdx.y);
  if (rows.begin >= rows.end) return;
  const int64_t k_blocks = (p.k + 127) / 128;
  const int64_t n_blocks = (p.n + 127) / 128;
  const uint8_t* w = p.w + rows.group * p.n * p.k;
  const float* w_scales = p.w_scales + rows.group * n_blocks * k_blocks;
  const int64_t first_column = int64_t{blockIdx.x} * kTile;
  const int column = static_cast<int>(threadIdx.x) % kTile;
  const int row = static_cast<int>(threadIdx.x) / kTile;  // and row + 8, + 16, + 24
  float sums[4] = {};
  for (int64_t k = 0; k < p.k; k += kTile) {
    const int64_t at = k + column;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t x_row = rows.begin + row + 8 * i;
      const int64_t w_row = first_column + row + 8 * i;
      x_tile[row + 8 * i][column] = at < p.k && x_row < rows.end
                                        ? from_e4m3(p.x.values[x_row * p.x.value_stride + at]) *
                                              p.x.scales[at / 128 * p.x.scale_stride + x_row]
                                        : 0.0f;
      w_tile[row + 8 * i][column] =
          at < p.k && w_row < p.n
              ? from_e4m3(w[w_row * p.k + at]) * w_scales[w_row / 128 * k_blocks + at / 128]
              : 0.0f;
    }
    __syncthreads();
    for (int j = 0; j < kTile; ++j) {
      const float weight = w_tile[column][j];
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += x_tile[row + 8 * i][j] * weight;
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t out_row = rows.begin + row + 8 * i;
    const int64_t out_column = first_column + column;
    if (out_row >= rows.end || out_column >= p.n) continue;
    const int64_t at = out_row * p.out_stride + out_column;
    if (p.out_f32) {
      static_cast<float*>(p.out)[at] = sums[i];
    } else {
      static_cast<__nv_bfloat16*>(p.out)[at] = __float2bfloat16(sums[i]);
    }
  }
}

}  // namespace

void launch_generic(const Fp8GemmProblem& problem, cudaStream_t stream) {
  const int64_t num_tiles = (problem.m + kTile - 1) / kTile + problem.num_groups;
  const dim3 grid(static_cast<unsigned>((problem.n + kTile - 1) / kTile),
                  static_cast<unsigned>(num_tiles));
  generic_kernel<<<grid, 256, 0, stream>>>(problem);
}

}  // namespace deepflight::gemm_fp8
