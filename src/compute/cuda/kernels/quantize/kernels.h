// The launches of rows.cu; launch.cpp checks and chooses, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/quantize/problem.h"

namespace deepflight::cuda_quantize {

// Quantisation and SwiGLU are one kernel: the first has x as `gate` and no `up`.
struct RowsProblem {
  int64_t num_rows;
  int64_t width;
  const uint16_t* gate;
  const uint16_t* up;
  int64_t in_stride;
  uint16_t* out;
  int64_t out_stride;
  Fp8Rows fp8;
  const int32_t* num_valid;
};

// 16-byte accesses: width a multiple of 8, everything aligned. `blocks_in_flight` (1, 2 or 4) is
// the number of 1x128 blocks that a thread loads before it works on the first.
void launch_vector(const RowsProblem& problem, int blocks_in_flight, cudaStream_t stream);
void launch_generic(const RowsProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_quantize
