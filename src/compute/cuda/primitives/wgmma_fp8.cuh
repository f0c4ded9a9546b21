// FP8 products of a warpgroup: d (+)= a b for 64 rows of a, kN rows of b and 32 of k, e4m3 in
// shared memory, float accumulators. The tensor cores keep about 14 bits of a sum: start afresh
// (accumulate = 0) every 128 of k and add to floats elsewhere.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/wgmma.cuh"
#include "compute/cuda/primitives/wgmma_operands.cuh"

namespace deepflight::device {

template <int kN>
struct WgmmaE4m3;  // static void multiply(float (&d)[kN / 2], uint64_t a, uint64_t b, int
                   // accumulate)

#define DF_WGMMA_E4M3(n, a_index, b_index, p_index)                                     \
  template <>                                                                           \
  struct WgmmaE4m3<n> {                                                                 \
    static __device__ inline void multiply(float (&d)[(n) / 2], uint64_t a, uint64_t b, \
                                           int accumulate) {                            \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" p_index                         \
                   ", 0;\n"                                                             \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" DF_R##n \
                   "}, %" a_index ", %" b_index ", p, 1, 1;\n}\n"                       \
                   : DF_O##n                                                            \
                   : "l"(a), "l"(b), "r"(accumulate));                                  \
    }                                                                                   \
  };
DF_WGMMA_E4M3(8, "4", "5", "6")
DF_WGMMA_E4M3(16, "8", "9", "10")
DF_WGMMA_E4M3(24, "12", "13", "14")
DF_WGMMA_E4M3(32, "16", "17", "18")
DF_WGMMA_E4M3(40, "20", "21", "22")
DF_WGMMA_E4M3(48, "24", "25", "26")
DF_WGMMA_E4M3(56, "28", "29", "30")
DF_WGMMA_E4M3(64, "32", "33", "34")
DF_WGMMA_E4M3(72, "36", "37", "38")
DF_WGMMA_E4M3(80, "40", "41", "42")
DF_WGMMA_E4M3(88, "44", "45", "46")
DF_WGMMA_E4M3(96, "48", "49", "50")
DF_WGMMA_E4M3(104, "52", "53", "54")
DF_WGMMA_E4M3(112, "56", "57", "58")
DF_WGMMA_E4M3(120, "60", "61", "62")
DF_WGMMA_E4M3(128, "64", "65", "66")
DF_WGMMA_E4M3(136, "68", "69", "70")
DF_WGMMA_E4M3(144, "72", "73", "74")
DF_WGMMA_E4M3(152, "76", "77", "78")
DF_WGMMA_E4M3(160, "80", "81", "82")
DF_WGMMA_E4M3(168, "84", "85", "86")
DF_WGMMA_E4M3(176, "88", "89", "90")
DF_WGMMA_E4M3(184, "92", "93", "94")
DF_WGMMA_E4M3(192, "96", "97", "98")
#undef DF_WGMMA_E4M3

// d (+)= a b for 64 rows of b, with a in four registers: thread t holds of rows t / 32 * 16 + t %
// 32 / 4 and (a[1], a[3]) 8 more, bytes 4 (t % 4) to + 3 and (a[2], a[3]) 16 more.
__device__ inline void wgmma_e4m3_n64(float (&d)[32], const uint32_t* a, uint64_t b,
                                      int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" DF_R64
      "}, {%32, %33, %34, %35}, %36, p, 1, 1;\n}\n"
      : DF_O64
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}

// d = a b for 8 rows of b and 64 of k, `b` of the first 32 and of the others: d[0] and d[1] are of
// the thread's first row, d[2] and d[3] of the other.
__device__ inline void wgmma_e4m3_n8k64(float (&d)[4], const uint32_t (&a)[8], uint64_t first,
                                        uint64_t second) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {" DF_R8
               "}, {%4, %5, %6, %7}, %12, 0, 1, 1;\n"
               "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {" DF_R8
               "}, {%8, %9, %10, %11}, %13, 1, 1, 1;\n"
               : "=&f"(d[0]), "=&f"(d[1]), "=&f"(d[2]), "=&f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]),
                 "r"(a[7]), "l"(first), "l"(second));
}

}  // namespace deepflight::device
