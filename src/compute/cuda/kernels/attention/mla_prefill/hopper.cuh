// The products of a warpgroup as this kernel uses them: 64 x 128 x 16 (or 64 x 64), BF16 with float
// accumulators; their left operands come out of registers.
#pragma once

#include "compute/cuda/kernels/attention/mla_prefill/layout.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/wgmma.cuh"
#include "compute/cuda/primitives/wgmma_operands.cuh"

namespace deepflight::cuda_mla_prefill {

using namespace device;  // NOLINT: headers of this kernel

// d (+)= a b for the first kColumns of d's 128, a in registers, b in shared memory with its rows
// along n (k runs in a row).
template <int kColumns>
__device__ inline void wgmma_scores(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                    int accumulate) {
  static_assert(kColumns == 128 || kColumns == 64);
  if constexpr (kColumns == 128) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DF_R128
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n"
        "}\n"
        : DF_O128
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DF_R64
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"
        "}\n"
        : DF_O64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
}

// d += a b, a in registers, b in shared memory with its rows along k (n runs in a row).
__device__ inline void wgmma_registers(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DF_R128
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : DF_O128
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// A warp's 16 query rows as left operands of the 12 products that scores are. Out of registers, as
// shared memory is busy nearly all the time, and what is not read takes no power.
using HeldQueries = uint32_t[12][4];
__device__ inline void hold_queries(HeldQueries& held, uint32_t queries) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < 12; ++k) {
    ldmatrix_x4(held[k], queries + k / 4 * kBoxBytes + chunk_of_128(row, k % 4 * 2 + lane / 16));
  }
}

// Scores of the first kKeys keys of a block.
template <int kKeys>
__device__ inline void issue_scores(float (&s)[64], const HeldQueries& held,
                                    const Matrices<16, 1024>& key, int stage) {
#pragma unroll
  for (int k = 0; k < 12; ++k) {
    wgmma_scores<kKeys>(s, held[k], key.at(stage, kKeyBytes, k / 4 * kBoxBytes + k % 4 * 32),
                        k > 0);
  }
}

__device__ inline void issue_outputs(float (&o)[64], const uint32_t (&weights)[32],
                                     const Matrices<kBoxBytes, 1024>& value, int stage) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    wgmma_registers(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3],
                    value.at(stage, kValueBytes, k * 16 * 128));
  }
}

}  // namespace deepflight::cuda_mla_prefill
