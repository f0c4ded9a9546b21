// The product at any shape, on CUDA cores: a 32x32 tile a block, one k-slab at a time through
// shared memory. For shapes of small models; nothing here is tuned.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/gemm_bf16/kernels.h"

namespace deepflight::gemm_bf16 {
namespace {

constexpr int kTile = 32;

// A tile of 32 rows and 32 columns: out = x * w^T for rows [first_row, end_row).
template <typename Out>
__device__ void multiply_tile(const __nv_bfloat16* x, int64_t x_stride, const __nv_bfloat16* w,
                              int64_t w_stride, int64_t first_row, int64_t end_row, int64_t n,
                              int64_t size_k, Out* out, int64_t out_stride) {
  __shared__ float x_tile[kTile][kTile + 1];
  __shared__ float w_tile[kTile][kTile + 1];
  const int64_t first_column = int64_t{blockIdx.x} * kTile;
  const int column = static_cast<int>(threadIdx.x) % kTile;
  const int row = static_cast<int>(threadIdx.x) / kTile;  // and row + 8, + 16, + 24
  float sums[4] = {};
  for (int64_t k = 0; k < size_k; k += kTile) {
    const bool in_k = k + column < size_k;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t x_row = first_row + row + 8 * i;
      const int64_t w_row = first_column + row + 8 * i;
      x_tile[row + 8 * i][column] =
          in_k && x_row < end_row ? __bfloat162float(x[x_row * x_stride + k + column]) : 0.0f;
      w_tile[row + 8 * i][column] =
          in_k && w_row < n ? __bfloat162float(w[w_row * w_stride + k + column]) : 0.0f;
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
    const int64_t out_row = first_row + row + 8 * i;
    const int64_t out_column = first_column + column;
    if (out_row < end_row && out_column < n) {
      out[out_row * out_stride + out_column] = static_cast<Out>(sums[i]);
    }
  }
}

template <typename Out>
__global__ void __launch_bounds__(256) dense_kernel(const Bf16GemmProblem p) {
  const int64_t first_row = int64_t{blockIdx.y} * kTile;
  multiply_tile(static_cast<const __nv_bfloat16*>(p.x) + blockIdx.z * p.x_batch_stride, p.x_stride,
                static_cast<const __nv_bfloat16*>(p.w) + blockIdx.z * p.w_batch_stride, p.w_stride,
                first_row, min(first_row + kTile, p.m), p.n, p.k,
                static_cast<Out*>(p.out) + blockIdx.z * p.out_batch_stride, p.out_stride);
}

// Tiles are counted group by group; the grid has as many as there can be.
__global__ void __launch_bounds__(256) grouped_kernel(const Bf16GroupedProblem p) {
  int64_t tile = blockIdx.y;
  for (int64_t group = 0; group < p.num_groups; ++group) {
    const int64_t begin = p.offsets[group], end = p.offsets[group + 1];
    const int64_t num_tiles = (end - begin + kTile - 1) / kTile;
    if (tile < num_tiles) {
      multiply_tile(static_cast<const __nv_bfloat16*>(p.x), p.x_stride,
                    static_cast<const __nv_bfloat16*>(p.w) + group * p.n * p.k, p.k,
                    begin + tile * kTile, min(begin + (tile + 1) * kTile, end), p.n, p.k,
                    static_cast<__nv_bfloat16*>(p.out), p.out_stride);
      return;
    }
    tile -= num_tiles;
  }
}

}  // namespace

void launch_generic(const Bf16GemmProblem& problem, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((problem.n + kTile - 1) / kTile),
                  static_cast<unsigned>((problem.m + kTile - 1) / kTile),
                  static_cast<unsigned>(problem.batch));
  if (problem.out_f32) {
    dense_kernel<float><<<grid, 256, 0, stream>>>(problem);
  } else {
    dense_kernel<__nv_bfloat16><<<grid, 256, 0, stream>>>(problem);
  }
}

void launch_generic_grouped(const Bf16GroupedProblem& problem, cudaStream_t stream) {
  const int64_t num_tiles = (problem.m + kTile - 1) / kTile + problem.num_groups;
  const dim3 grid(static_cast<unsigned>((problem.n + kTile - 1) / kTile),
                  static_cast<unsigned>(num_tiles));
  grouped_kernel<<<grid, 256, 0, stream>>>(problem);
}

}  // namespace deepflight::gemm_bf16
