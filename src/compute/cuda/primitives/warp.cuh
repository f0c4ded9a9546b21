// Reductions over a warp and a block, of which every thread gets the result; which thread this is.
#pragma once

namespace deepflight::device {

inline constexpr int kWarpSize = 32;

// threadIdx.x, asked for anew: what follows from it is not kept in registers.
__device__ inline int thread_anew() {
  int thread;
  asm volatile("mov.u32 %0, %tid.x;" : "=r"(thread));
  return thread;
}

template <int kWidth = kWarpSize>
__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

template <int kWidth = kWarpSize>
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// All threads of the block take part; blockDim.x is a multiple of 32. `scratch` is shared memory of
// 32 floats; it may be used again after the next __syncthreads().
__device__ inline float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int i = 0; i < num_warps; ++i) sum += scratch[i];
  return sum;
}

__device__ inline float block_max(float value, float* scratch) {
  value = warp_max(value);
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float maximum = scratch[0];
  for (int i = 1; i < num_warps; ++i) maximum = fmaxf(maximum, scratch[i]);
  return maximum;
}

}  // namespace deepflight::device
