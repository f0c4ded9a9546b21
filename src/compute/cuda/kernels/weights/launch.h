// What packing.cpp does to weights on the device. Asynchronous.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/weights/problem.h"

namespace deepflight::cuda_weights {

// Bit for bit what fill_random and fill_random_scales (compute/ops/random_matrix.h) make.
void fill_random(const FillProblem& problem, cudaStream_t stream);
// Widens FP8, copies, and transposes W_UK of every head.
void split_kv_up(const KvUpProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_weights
