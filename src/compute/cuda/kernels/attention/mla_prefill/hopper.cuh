// The products of a warpgroup as this kernel uses them: 64 x 128 x 16, BF16 with float
// accumulators.
#pragma once

#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/wgmma.cuh"
#include "compute/cuda/primitives/wgmma_operands.cuh"

namespace deepflight::cuda_mla_prefill {

using namespace device;  // NOLINT: this header is the kernel's own

// d (+)= a b, both in shared memory, their rows along m and n (k runs in a row).
__device__ inline void wgmma_shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DF_R128
      "}, %64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : DF_O128
      : "l"(a), "l"(b), "r"(accumulate));
}

// d += a b, a in registers, b in shared memory with its rows along k (n runs in a row).
__device__ inline void wgmma_registers(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DF_R128
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : DF_O128
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

}  // namespace deepflight::cuda_mla_prefill
