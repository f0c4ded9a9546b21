#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_prefill/testing/test_product.h"

namespace deepflight::cuda_mla_prefill {
namespace {

constexpr int kTile = 32;

__global__ void product_kernel(const __nv_bfloat16* x, int64_t x_stride,
                               const __nv_bfloat16* weight, __nv_bfloat16* out, int64_t out_stride,
                               int64_t num_rows, int64_t num_columns, int64_t k) {
  __shared__ float xs[kTile][kTile + 1], ws[kTile][kTile + 1];
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile;
  float sums[4] = {};
  for (int64_t begin = 0; begin < k; begin += kTile) {
    for (int i = ty; i < kTile; i += 8) {
      const bool in_k = begin + tx < k;
      xs[i][tx] = in_k && row + i < num_rows
                      ? __bfloat162float(x[(row + i) * x_stride + begin + tx])
                      : 0.0f;
      ws[i][tx] = in_k && column + i < num_columns
                      ? __bfloat162float(weight[(column + i) * k + begin + tx])
                      : 0.0f;
    }
    __syncthreads();
    for (int j = 0; j < kTile; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += xs[ty + 8 * i][j] * ws[tx][j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = row + ty + 8 * i;
    if (r < num_rows && column + tx < num_columns) {
      out[r * out_stride + column + tx] = __float2bfloat16_rn(sums[i]);
    }
  }
}

// The sum of twelve uniforms of a counter-based hash.
__global__ void random_kernel(__nv_bfloat16* out, int64_t count, float deviation, uint32_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint64_t state = (static_cast<uint64_t>(seed) << 40) + static_cast<uint64_t>(i);
    float sum = 0.0f;
    for (int j = 0; j < 3; ++j) {
      state += 0x9e3779b97f4a7c15ull;
      uint64_t z = state;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
      z ^= z >> 31;
      for (int part = 0; part < 4; ++part) {
        sum += static_cast<float>((z >> (16 * part)) & 0xffff) / 65536.0f;
      }
    }
    out[i] = __float2bfloat16_rn((sum - 6.0f) * deviation);
  }
}

}  // namespace

void launch_test_product(const void* x, int64_t x_stride, const void* weight, void* out,
                         int64_t out_stride, int64_t num_rows, int64_t num_columns, int64_t k,
                         cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((num_columns + kTile - 1) / kTile),
                  static_cast<unsigned>((num_rows + kTile - 1) / kTile));
  product_kernel<<<grid, dim3(kTile, 8), 0, stream>>>(
      static_cast<const __nv_bfloat16*>(x), x_stride, static_cast<const __nv_bfloat16*>(weight),
      static_cast<__nv_bfloat16*>(out), out_stride, num_rows, num_columns, k);
}

void launch_test_random(void* out, int64_t count, float deviation, uint32_t seed,
                        cudaStream_t stream) {
  random_kernel<<<1024, 256, 0, stream>>>(static_cast<__nv_bfloat16*>(out), count, deviation, seed);
}

}  // namespace deepflight::cuda_mla_prefill
