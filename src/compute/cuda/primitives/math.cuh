// Arithmetic that C++ has no name for; compiles under NVRTC.
#pragma once

#include <cstdint>

namespace deepflight::device {

// 2^x to about 2 units in the last place; results too small to be normal become 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// As BF16 would keep it.
__device__ inline float round_to_bf16(float x) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(x), "f"(0.0f));
  return __uint_as_float(bits & 0xffff0000u);
}

// Four values to e4m3 with saturation, lowest address first.
__device__ inline uint32_t to_e4m3x4(float a, float b, float c, float d) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return low | (static_cast<uint32_t>(high) << 16);
}

// Scale of a block whose largest magnitude is `largest`, and the factor on its values before they
// are rounded: the arithmetic of round_to_f8e4m3_block. A block of zeros has scale 0. The bound on
// the factor keeps blocks of almost nothing (under 2e-36) from 0 * infinity.
__device__ inline float e4m3_block_scale(float largest) { return __fdiv_rn(largest, 448.0f); }
__device__ inline float e4m3_block_factor(float largest) {
  return fminf(__fdiv_rn(448.0f, largest), 3.402823466e+38f);
}

}  // namespace deepflight::device
