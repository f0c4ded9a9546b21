// Four neighbouring lanes hold pairs of columns as the tensor cores leave them: these give each
// lane columns that lie together, so that a store is of 16 bytes.
#pragma once

#include <cstdint>

namespace deepflight::device {

// BF16 of both, `low` at the lower address.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// pairs[i] of lane l (of four) becomes the result's [l] of lane i: a transposition of 4 x 4.
__device__ inline uint4 transpose_quad(const uint32_t (&pairs)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool odd = lane & 1, high = lane & 2;
  const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? pairs[0] : pairs[1], 1);
  const uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? pairs[2] : pairs[3], 1);
  const uint32_t t0 = odd ? a : pairs[0], t1 = odd ? pairs[1] : a;
  const uint32_t t2 = odd ? b : pairs[2], t3 = odd ? pairs[3] : b;
  const uint32_t c = __shfl_xor_sync(0xffffffffu, high ? t0 : t2, 2);
  const uint32_t d = __shfl_xor_sync(0xffffffffu, high ? t1 : t3, 2);
  return high ? make_uint4(c, d, t2, t3) : make_uint4(t0, t1, c, d);
}

// Four 8x8 matrices as they are held below, to shared memory: lane l gives the address of row l % 8
// of matrix l / 8, 16 bytes.
__device__ inline void store_matrices(uint32_t shared, uint32_t a, uint32_t b, uint32_t c,
                                      uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// The 8x8 matrix of 16-bit elements that a warp holds (lane l: row l / 4, columns 2 (l % 4) and the
// next), transposed.
__device__ inline uint32_t transpose_8x8(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

}  // namespace deepflight::device
