// 16-byte accesses and conversions between float and the reduced formats.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "compute/cuda/primitives/math.cuh"

namespace deepflight::device {

// Eight BF16 values, one 16-byte access.
struct alignas(16) Bf16x8 {
  __nv_bfloat162 pairs[4];
};

__device__ inline void load8(const __nv_bfloat16* source, float (&values)[8]) {
  const Bf16x8 packed = *reinterpret_cast<const Bf16x8*>(source);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(packed.pairs[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

__device__ inline void store8(__nv_bfloat16* destination, const float (&values)[8]) {
  Bf16x8 packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    packed.pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
  }
  *reinterpret_cast<Bf16x8*>(destination) = packed;
}

// e4m3 with saturation, as f32_to_f8e4m3 on the host.
__device__ inline unsigned char to_e4m3(float value) {
  return static_cast<unsigned char>(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3));
}

__device__ inline float2 from_e4m3x2(unsigned short bits) {
  const __half2 half = __half2(__nv_cvt_fp8x2_to_halfraw2(bits, __NV_E4M3));
  return __half22float2(half);
}

}  // namespace deepflight::device
