// RMS norms, with the residual sum before and FP8 rows after, and the plain sum. A row stays in
// registers between the two passes over it. The weight, which no kernel writes, is asked for before
// the kernel in front is done.
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_norm_rope {
namespace {

using namespace deepflight::device;

constexpr int kBlock = 128;  // columns of an FP8 block: 16 lanes times 8 values
constexpr int kBlockLanes = 16;
constexpr int kGenericThreads = 256;

__device__ inline const __nv_bfloat16* bf16(const uint16_t* bits) {
  return reinterpret_cast<const __nv_bfloat16*>(bits);
}
__device__ inline __nv_bfloat16* bf16(uint16_t* bits) {
  return reinterpret_cast<__nv_bfloat16*>(bits);
}

__device__ inline float rounded(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

// The FP8 form of 8 values of a row; the 16 lanes of a 1x128 block take part, with zeros beyond the
// row's end.
__device__ inline void store_fp8(const Fp8Rows& fp8, int64_t row, int64_t column, bool active,
                                 const float (&values)[8]) {
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(values[j]));
  largest = warp_max<kBlockLanes>(largest);
  if (!active) return;
  const float factor = e4m3_block_factor(largest);
  uint2 packed;
  packed.x =
      to_e4m3x4(values[0] * factor, values[1] * factor, values[2] * factor, values[3] * factor);
  packed.y =
      to_e4m3x4(values[4] * factor, values[5] * factor, values[6] * factor, values[7] * factor);
  *reinterpret_cast<uint2*>(fp8.values + row * fp8.value_stride + column) = packed;
  if (column % kBlock == 0) {
    fp8.scales[column / kBlock * fp8.scale_stride + row] = e4m3_block_scale(largest);
  }
}

template <int kVectors, bool kAdd>
__global__ void __launch_bounds__(1024)
    norm_vector_kernel(const __grid_constant__ NormParts parts) {
  __shared__ float scratch[32];
  const NormProblem& p = parts.part[blockIdx.y];
  const int64_t row = blockIdx.x;
  const auto width = static_cast<int>(p.width);
  float values[kVectors][8];
  float weights[kVectors][8];
  allow_next_kernel();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 8;
    if (column >= width) continue;
    const float4 low = __ldg(reinterpret_cast<const float4*>(p.weight + column));
    const float4 high = __ldg(reinterpret_cast<const float4*>(p.weight + column + 4));
    weights[i][0] = low.x, weights[i][1] = low.y, weights[i][2] = low.z, weights[i][3] = low.w;
    weights[i][4] = high.x, weights[i][5] = high.y, weights[i][6] = high.z, weights[i][7] = high.w;
  }
  wait_for_previous_kernel();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j) values[i][j] = 0.0f;
    if (column >= width) continue;
    load8(bf16(p.x) + row * p.x_stride + column, values[i]);
    if constexpr (kAdd) {
      float sums[8];
      load8(bf16(p.residual) + row * p.residual_stride + column, sums);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[i][j] = rounded(sums[j] + values[i][j]);
    }
  }
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if constexpr (kAdd) {
      const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 8;
      if (column < width) {
        store8(bf16(p.residual) + row * p.residual_stride + column, values[i]);
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += values[i][j] * values[i][j];
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(width);
  const float factor = rsqrtf(mean + p.eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 8;
    const bool active = column < width;
    if (active) {
#pragma unroll
      for (int j = 0; j < 8; ++j) values[i][j] = rounded(values[i][j] * factor * weights[i][j]);
      if (p.out != nullptr) store8(bf16(p.out) + row * p.out_stride + column, values[i]);
    }
    if (p.fp8.values != nullptr) store_fp8(p.fp8, row, column, active, values[i]);
  }
}

// Any width and alignment: a warp takes a 1x128 block at a time, a lane every 32nd value of it, in
// both passes the same.
__global__ void __launch_bounds__(kGenericThreads)
    norm_generic_kernel(const __grid_constant__ NormParts parts) {
  __shared__ float scratch[32];
  const NormProblem& p = parts.part[blockIdx.y];
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t first = static_cast<int64_t>(threadIdx.x / kWarpSize) * kBlock;
  constexpr int64_t kStep = kGenericThreads / kWarpSize * kBlock;
  const __nv_bfloat16* x = bf16(p.x) + row * p.x_stride;
  __nv_bfloat16* residual =
      p.residual == nullptr ? nullptr : bf16(p.residual) + row * p.residual_stride;
  float squares = 0.0f;
  for (int64_t begin = first; begin < p.width; begin += kStep) {
    for (int j = 0; j < 4; ++j) {
      const int64_t column = begin + lane + j * kWarpSize;
      if (column >= p.width) continue;
      float value = __bfloat162float(x[column]);
      if (residual != nullptr) {
        value = rounded(__bfloat162float(residual[column]) + value);
        residual[column] = __float2bfloat16_rn(value);
      }
      squares += value * value;
    }
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(p.width);
  const float factor = rsqrtf(mean + p.eps);
  for (int64_t begin = first; begin < p.width; begin += kStep) {
    float values[4];
    float largest = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t column = begin + lane + j * kWarpSize;
      values[j] = 0.0f;
      if (column >= p.width) continue;
      const float value = __bfloat162float(residual != nullptr ? residual[column] : x[column]);
      values[j] = rounded(value * factor * p.weight[column]);
      if (p.out != nullptr) {
        bf16(p.out)[row * p.out_stride + column] = __float2bfloat16_rn(values[j]);
      }
      largest = fmaxf(largest, fabsf(values[j]));
    }
    if (p.fp8.values == nullptr) continue;
    largest = warp_max(largest);
    const float to_grid = e4m3_block_factor(largest);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t column = begin + lane + j * kWarpSize;
      if (column < p.width) {
        p.fp8.values[row * p.fp8.value_stride + column] = to_e4m3(values[j] * to_grid);
      }
    }
    if (lane == 0) {
      p.fp8.scales[begin / kBlock * p.fp8.scale_stride + row] = e4m3_block_scale(largest);
    }
  }
}

// kElements values a thread: 8, or 1 where nothing is aligned.
template <int kElements>
__global__ void __launch_bounds__(kGenericThreads)
    add_kernel(const __grid_constant__ AddProblem p, int64_t items_per_row) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kGenericThreads + threadIdx.x;
  if (item >= p.num_rows * items_per_row) return;
  const int64_t row = item / items_per_row;
  const int64_t column = item % items_per_row * kElements;
  const __nv_bfloat16* delta = bf16(p.delta) + row * p.delta_stride + column;
  __nv_bfloat16* sum = bf16(p.sum) + row * p.sum_stride + column;
  if constexpr (kElements == 8) {
    float values[8], sums[8];
    load8(delta, values);
    load8(sum, sums);
#pragma unroll
    for (int j = 0; j < 8; ++j) sums[j] += values[j];
    store8(sum, sums);
  } else {
    *sum = __float2bfloat16_rn(__bfloat162float(*sum) + __bfloat162float(*delta));
  }
}

}  // namespace

void launch_norm_vector(const NormParts& parts, int vectors_per_thread, cudaStream_t stream) {
  int64_t width = parts.part[0].width;
  if (parts.num_parts == 2 && parts.part[1].width > width) width = parts.part[1].width;
  const int64_t vectors = (width / 8 + vectors_per_thread - 1) / vectors_per_thread;
  const auto threads = static_cast<unsigned int>((vectors + 31) / 32 * 32);
  const dim3 grid(static_cast<unsigned int>(parts.part[0].num_rows),
                  static_cast<unsigned int>(parts.num_parts));
  const bool add = parts.part[0].residual != nullptr;
  void (*kernel)(NormParts);
  if (vectors_per_thread == 1) {
    kernel = add ? &norm_vector_kernel<1, true> : &norm_vector_kernel<1, false>;
  } else {
    kernel = add ? &norm_vector_kernel<2, true> : &norm_vector_kernel<2, false>;
  }
  launch_early(kernel, grid, threads, stream, parts);
}

void launch_norm_generic(const NormParts& parts, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned int>(parts.part[0].num_rows),
                  static_cast<unsigned int>(parts.num_parts));
  norm_generic_kernel<<<grid, kGenericThreads, 0, stream>>>(parts);
}

void launch_add(const AddProblem& p, bool vector, cudaStream_t stream) {
  const int64_t items_per_row = vector ? p.width / 8 : p.width;
  const int64_t blocks = (p.num_rows * items_per_row + kGenericThreads - 1) / kGenericThreads;
  const auto grid = static_cast<unsigned int>(blocks);
  if (vector) {
    launch_early(&add_kernel<8>, grid, kGenericThreads, stream, p, items_per_row);
  } else {
    add_kernel<1><<<grid, kGenericThreads, 0, stream>>>(p, items_per_row);
  }
}

}  // namespace deepflight::cuda_norm_rope
