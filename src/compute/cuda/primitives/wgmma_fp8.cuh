// FP8 products of a warpgroup: d (+)= a b for 64 rows of a, kN rows of b and 32 of k, e4m3 in
// shared memory, float accumulators. The tensor cores keep about 14 bits of a sum: start afresh
// (accumulate = 0) every 128 of k and add to floats elsewhere.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/wgmma.cuh"

namespace deepflight::device {

template <int kN>
struct WgmmaE4m3;  // static void multiply(float (&d)[kN / 2], uint64_t a, uint64_t b, int
                   // accumulate)

// NOTE: an instruction's operands cannot be written as a loop. DF_Rn names registers 0 .. n - 1 of
// the template, DF_On binds them to d, and each width builds on the one before.
// clang-format off
#define DF_R8 "%0, %1, %2, %3"
#define DF_O8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define DF_R16 DF_R8 ", %4, %5, %6, %7"
#define DF_O16 DF_O8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define DF_R24 DF_R16 ", %8, %9, %10, %11"
#define DF_O24 DF_O16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define DF_R32 DF_R24 ", %12, %13, %14, %15"
#define DF_O32 DF_O24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define DF_R40 DF_R32 ", %16, %17, %18, %19"
#define DF_O40 DF_O32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define DF_R48 DF_R40 ", %20, %21, %22, %23"
#define DF_O48 DF_O40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define DF_R56 DF_R48 ", %24, %25, %26, %27"
#define DF_O56 DF_O48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define DF_R64 DF_R56 ", %28, %29, %30, %31"
#define DF_O64 DF_O56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define DF_R72 DF_R64 ", %32, %33, %34, %35"
#define DF_O72 DF_O64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define DF_R80 DF_R72 ", %36, %37, %38, %39"
#define DF_O80 DF_O72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define DF_R88 DF_R80 ", %40, %41, %42, %43"
#define DF_O88 DF_O80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define DF_R96 DF_R88 ", %44, %45, %46, %47"
#define DF_O96 DF_O88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define DF_R104 DF_R96 ", %48, %49, %50, %51"
#define DF_O104 DF_O96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define DF_R112 DF_R104 ", %52, %53, %54, %55"
#define DF_O112 DF_O104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define DF_R120 DF_R112 ", %56, %57, %58, %59"
#define DF_O120 DF_O112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define DF_R128 DF_R120 ", %60, %61, %62, %63"
#define DF_O128 DF_O120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define DF_R136 DF_R128 ", %64, %65, %66, %67"
#define DF_O136 DF_O128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define DF_R144 DF_R136 ", %68, %69, %70, %71"
#define DF_O144 DF_O136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define DF_R152 DF_R144 ", %72, %73, %74, %75"
#define DF_O152 DF_O144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define DF_R160 DF_R152 ", %76, %77, %78, %79"
#define DF_O160 DF_O152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define DF_R168 DF_R160 ", %80, %81, %82, %83"
#define DF_O168 DF_O160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define DF_R176 DF_R168 ", %84, %85, %86, %87"
#define DF_O176 DF_O168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define DF_R184 DF_R176 ", %88, %89, %90, %91"
#define DF_O184 DF_O176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define DF_R192 DF_R184 ", %92, %93, %94, %95"
#define DF_O192 DF_O184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
// clang-format on

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
#undef DF_R8
#undef DF_O8
#undef DF_R16
#undef DF_O16
#undef DF_R24
#undef DF_O24
#undef DF_R32
#undef DF_O32
#undef DF_R40
#undef DF_O40
#undef DF_R48
#undef DF_O48
#undef DF_R56
#undef DF_O56
#undef DF_R64
#undef DF_O64
#undef DF_R72
#undef DF_O72
#undef DF_R80
#undef DF_O80
#undef DF_R88
#undef DF_O88
#undef DF_R96
#undef DF_O96
#undef DF_R104
#undef DF_O104
#undef DF_R112
#undef DF_O112
#undef DF_R120
#undef DF_O120
#undef DF_R128
#undef DF_O128
#undef DF_R136
#undef DF_O136
#undef DF_R144
#undef DF_O144
#undef DF_R152
#undef DF_O152
#undef DF_R160
#undef DF_O160
#undef DF_R168
#undef DF_O168
#undef DF_R176
#undef DF_O176
#undef DF_R184
#undef DF_O184
#undef DF_R192
#undef DF_O192

}  // namespace deepflight::device
