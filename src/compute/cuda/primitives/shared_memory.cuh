// Loads and stores at addresses of the shared window; compiles under NVRTC.
#pragma once

#include <cstdint>

namespace deepflight::device {

__device__ inline float load_shared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

__device__ inline uint32_t load_shared_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// Two neighbours; 8-byte aligned.
__device__ inline float2 load_shared_pair(uint32_t address) {
  float2 value;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(value.x), "=f"(value.y)
               : "r"(address)
               : "memory");
  return value;
}

// Four words; 16-byte aligned.
__device__ inline uint4 load_shared_vector(uint32_t address) {
  uint4 bits;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(address)
               : "memory");
  return bits;
}

__device__ inline void store_shared_word(uint32_t address, uint32_t word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}
__device__ inline void store_shared_byte(uint32_t address, uint32_t byte) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(address), "r"(byte) : "memory");
}
__device__ inline void store_shared_pointer(uint32_t address, const void* pointer) {
  asm volatile("st.shared.b64 [%0], %1;" ::"r"(address), "l"(pointer) : "memory");
}
__device__ inline uint8_t* load_shared_pointer(uint32_t address) {
  uint8_t* pointer;
  asm volatile("ld.shared.b64 %0, [%1];" : "=l"(pointer) : "r"(address) : "memory");
  return pointer;
}
__device__ inline void store_shared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// 16-byte aligned.
__device__ inline void store_shared_vector(uint32_t address, const uint4& bits) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(bits.x), "r"(bits.y),
               "r"(bits.z), "r"(bits.w)
               : "memory");
}

}  // namespace deepflight::device
