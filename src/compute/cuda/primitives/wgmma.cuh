// What all products of a warpgroup share: operand descriptors, fences and waits.
//
// Accumulators: thread t of the warpgroup holds of row 16 (t / 32) + t % 32 / 4 (+ 8 in d[4i + 2]
// and d[4i + 3]) columns 8i + 2 (t % 4) and the next.
#pragma once

#include <cstdint>

namespace deepflight::device {

// How 16-byte chunks of a row are interleaved: rows of 128 bytes, chunk c of row r at c ^ r % 8, or
// of 64 bytes, at c ^ r / 2 % 4.
enum class Swizzle : uint64_t { k128 = 1, k64 = 2 };

// Where a chunk of a row lies in k128, and in k64.
__device__ constexpr uint32_t chunk_of_128(int row, int chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}
__device__ constexpr uint32_t chunk_of_64(int row, int chunk) {
  return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
}

// Of rows in a swizzle, groups of 8 rows `group_bytes` apart. For an operand whose rows run along
// k, `column_bytes` lie between blocks of 64 of its other dimension.
__device__ constexpr uint64_t matrix_descriptor(uint32_t shared, uint32_t column_bytes,
                                                uint32_t group_bytes,
                                                Swizzle swizzle = Swizzle::k128) {
  return static_cast<uint64_t>((shared & 0x3ffff) >> 4) |
         static_cast<uint64_t>(column_bytes >> 4) << 16 |
         static_cast<uint64_t>(group_bytes >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// A value that all lanes of a warp have, where the compiler knows it: in a uniform register.
__device__ inline uint32_t uniform(uint32_t value) { return __reduce_or_sync(0xffffffffu, value); }

// Descriptors of matrices at offsets from one place, the same for all lanes of a warp and opaque:
// what the compiler can derive it derives again before every product, in a chain of instructions
// that the tensor cores wait for.
template <uint32_t kColumnBytes, uint32_t kGroupBytes, Swizzle kSwizzle = Swizzle::k128>
class Matrices {
 public:
  __device__ explicit Matrices(uint32_t shared)
      : low_(uniform(static_cast<uint32_t>(matrix_descriptor(shared, kColumnBytes, kGroupBytes)))) {
  }
  // Of the matrix `bytes` on, a multiple of 16.
  __device__ uint64_t at(uint32_t bytes) const { return kHigh | (low_ + (bytes >> 4)); }
  // `offset` bytes into stage `stage` of `stage_bytes` each: where both are known, an addition
  // each.
  __device__ uint64_t at(uint32_t stage, uint32_t stage_bytes, uint32_t offset) const {
    return kHigh | (low_ + stage * (stage_bytes / 16) + offset / 16);
  }
  // What lies `bytes` on, in another swizzle.
  template <uint32_t kOtherGroupBytes, Swizzle kOther>
  __device__ Matrices<kColumnBytes, kOtherGroupBytes, kOther> as(uint32_t bytes) const {
    Matrices<kColumnBytes, kOtherGroupBytes, kOther> other;
    other.low_ = low_ + (bytes >> 4);
    return other;
  }

 private:
  template <uint32_t, uint32_t, Swizzle>
  friend class Matrices;
  Matrices() = default;

  // NOTE: an enumerator, for which NVRTC takes none of a module's memory (kernels/gemm/config.h).
  enum : uint64_t { kHigh = matrix_descriptor(0, kColumnBytes, kGroupBytes, kSwizzle) >> 32 << 32 };
  uint32_t low_;
};

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of registers over a wait, a fence or another pin: of
// accumulators, and of left operands.
template <int kCount>
__device__ inline void pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kCount>
__device__ inline void pin(uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

}  // namespace deepflight::device
