// Products of a warpgroup, 64 rows, BF16 or (kHalf) FP16 with float accumulators. Operand
// descriptors, fences and the layout of accumulators: wgmma.cuh.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/wgmma_operands.cuh"

namespace deepflight::device {

// d (+)= a b; 64 columns; k runs in the rows of both.
template <bool kHalf>
__device__ inline void wgmma_n64(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
#define DF_MULTIPLY(type)                                                     \
  asm volatile(                                                               \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                            \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" DF_R64 \
      "}, %32, %33, p, 1, 1, 0, 0;\n}\n"                                      \
      : DF_O64                                                                \
      : "l"(a), "l"(b), "r"(accumulate))
  if constexpr (kHalf) {
    DF_MULTIPLY("f16");
  } else {
    DF_MULTIPLY("bf16");
  }
#undef DF_MULTIPLY
}

// d += a b; 256 columns; k runs in the rows of a and along the rows of b (columns run in a row).
template <bool kHalf>
__device__ inline void wgmma_n256_rows(float (&d)[128], uint64_t a, uint64_t b) {
#define DF_MULTIPLY(type)                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" DF_R256 \
               "}, %128, %129, 1, 1, 1, 0, 1;\n"                                         \
               : DF_O256                                                                 \
               : "l"(a), "l"(b))
  if constexpr (kHalf) {
    DF_MULTIPLY("f16");
  } else {
    DF_MULTIPLY("bf16");
  }
#undef DF_MULTIPLY
}

// The same with a in four registers: the accumulator layout of a 64 x 16 block, packed in pairs.
template <bool kHalf>
__device__ inline void wgmma_n256_rows(float (&d)[128], const uint32_t* a, uint64_t b) {
#define DF_MULTIPLY(type)                                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" DF_R256 \
               "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;\n"                        \
               : DF_O256                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (kHalf) {
    DF_MULTIPLY("f16");
  } else {
    DF_MULTIPLY("bf16");
  }
#undef DF_MULTIPLY
}

}  // namespace deepflight::device
