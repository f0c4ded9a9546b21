// Arithmetic that the hardware does in one instruction and C++ has no name for.
#pragma once

namespace deepflight::device {

// 2^x to about 2 units in the last place; results too small to be normal become 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace deepflight::device
