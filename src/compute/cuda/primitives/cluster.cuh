// Blocks of a cluster: ranks, barriers, and the shared memory of the others.
#pragma once

#include <cstdint>

namespace deepflight::device {

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks of the cluster; orders their memory accesses.
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The same without ordering memory accesses, and so without waiting for them: what a warp has read
// it has read, and what it has written others may not see yet.
__device__ inline void cluster_meet() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where `shared`, an address of this block, lies in block `rank` of the cluster.
__device__ inline uint32_t address_in_block(uint32_t shared, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

// Takes an address_in_block(). Orders nothing for the other block but what this thread has read.
__device__ inline void cluster_barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// To an address_in_block(); whoever polls the word there sees it some time.
__device__ inline void store_cluster_word(uint32_t address, uint32_t word) {
  asm volatile("st.relaxed.cluster.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(word)
               : "memory");
}

// The word at an address of this block's shared memory, once its highest bit is `bit`.
__device__ inline uint32_t wait_for_word(uint32_t shared, uint32_t bit) {
  uint32_t word;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      ".reg .u32 highest;\n"
      "again:\n"
      "ld.relaxed.cluster.shared::cta.u32 %0, [%1];\n"
      "shr.u32 highest, %0, 31;\n"
      "setp.eq.u32 done, highest, %2;\n"
      "@!done bra again;\n"
      "}\n"
      : "=&r"(word)
      : "r"(shared), "r"(bit)
      : "memory");
  return word;
}

// `bytes` of this block, a multiple of 16, to an address_in_block(), by the copy engine; they
// complete on a barrier there.
__device__ inline void copy_to_block(uint32_t target, uint32_t shared, uint32_t bytes,
                                     uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(target),
      "r"(shared), "r"(bytes), "r"(barrier)
      : "memory");
}

// A value to an address_in_block(), which counts as four bytes on a barrier there. (A release of
// plain stores to the cluster would wait for all of the thread's memory accesses.)
__device__ inline void send_to_block(uint32_t target, float value, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
          target),
      "f"(value), "r"(barrier)
      : "memory");
}

__device__ inline float4 load_cluster_float4(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

}  // namespace deepflight::device
