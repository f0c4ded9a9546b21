// Copies of boxes between global and shared memory by the tensor copy engine. The tensor map is a
// __grid_constant__ parameter of the kernel; coordinates are in elements, innermost first.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace deepflight::device {

// A box of `map` to shared memory; its bytes complete on the barrier.
__device__ inline void load_box(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x,
                                int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

}  // namespace deepflight::device
