// Copies of boxes between global and shared memory by the tensor copy engine. The tensor map is a
// __grid_constant__ parameter of the kernel; coordinates are in elements, innermost first. What a
// box has beyond the tensor's end reads as zeros, and counts on the barrier all the same.
#pragma once

#include <cstdint>

#include "compute/cuda/primitives/tensor_map.cuh"

namespace deepflight::device {

// True in one lane of a whole warp. The compiler knows that it is one: what such a lane alone does
// with the copy engine needs no loop over lanes.
__device__ inline bool elect_lane() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred chosen;\n"
      "elect.sync _|chosen, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, chosen;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// That L2 need not keep what a copy brings. (A policy that says evict_normal is not what copies
// have without one: products of groups take 2 to 4 % longer with it, e4m3 decode attention 5 %.)
__device__ inline uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of `map` to shared memory; its bytes complete on the barrier.
__device__ inline void load_box(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x,
                                int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ inline void load_box(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x,
                                int y, int z, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "l"(policy)
      : "memory");
}
__device__ inline void load_box(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x,
                                int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

// A box from shared memory to `map`, in a group of its thread: what it has beyond the tensor's end
// is not written. Shared memory that threads have written is first to be fenced, by each of them.
__device__ inline void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void store_box(uint32_t shared, const CUtensorMap* map, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(shared), "r"(x), "r"(y)
      : "memory");
}
__device__ inline void commit_boxes() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all of this thread's boxes have left shared memory.
__device__ inline void wait_for_box_reads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// To the same place in every block of the cluster that `blocks` (a bit each) names; the bytes
// complete on the barrier of that place in each.
__device__ inline void load_box_multicast(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                          int x, int y, int z, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(blocks)
      : "memory");
}
__device__ inline void load_box_multicast(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                          int x, int y, int z, uint16_t blocks, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(blocks), "l"(policy)
      : "memory");
}

// Four bytes by the loading thread itself, asynchronously (cp.async), and this thread's arrival on
// the barrier once all such loads of it have landed.
__device__ inline void load_word(uint32_t shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
}
__device__ inline void arrive_after_loads(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

}  // namespace deepflight::device
