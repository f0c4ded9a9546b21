// The ring of blocks of k in shared memory: where a stage's operands, scales and barriers lie, and
// a place in the ring. load.cuh fills stages, multiply.cuh empties them.
#pragma once

#include <cstdint>

#include "compute/cuda/kernels/gemm/config.h"

namespace deepflight::gemm_fp8 {

// Addresses in shared memory, stage by stage.
template <Config kConfig>
struct Shared {
  enum : int {
    kX = kConfig.out_bytes(),  // what leaves lies at the start
    kW = kX + kConfig.stages * kConfig.x_bytes(),
    kXScales = kW + kConfig.stages * kConfig.w_bytes(),
    kWScales = kXScales + kConfig.stages * kConfig.x_scale_bytes(),
    kFull = kWScales + kConfig.stages * kConfig.w_scale_bytes(),
    kEmpty = kFull + kConfig.stages * 8,
    kFeed = kEmpty + kConfig.stages * 8,
    kBefore = kFeed + kConfig.feed_bytes()
  };

  uint32_t base;
  __device__ uint32_t x(int stage) const { return base + kX + stage * kConfig.x_bytes(); }
  __device__ uint32_t w(int stage) const { return base + kW + stage * kConfig.w_bytes(); }
  __device__ uint32_t x_scales(int stage) const {
    return base + kXScales + stage * kConfig.x_scale_bytes();
  }
  __device__ uint32_t w_scales(int stage) const {
    return base + kWScales + stage * kConfig.w_scale_bytes();
  }
  __device__ uint32_t full(int stage) const { return base + kFull + stage * 8; }
  __device__ uint32_t empty(int stage) const { return base + kEmpty + stage * 8; }
};

// A place in the ring.
template <Config kConfig>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    stage = stage == kConfig.stages - 1 ? 0 : stage + 1;
    parity ^= stage == 0;
  }
};

}  // namespace deepflight::gemm_fp8
