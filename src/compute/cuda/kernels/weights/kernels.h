// The launches of fill.cu and kv_up.cu; launch.cpp checks, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/weights/problem.h"

namespace deepflight::cuda_weights {

void launch_fill_values(const FillProblem& problem, cudaStream_t stream);
void launch_fill_scales(const FillProblem& problem, cudaStream_t stream);
void launch_split_kv_up(const KvUpProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_weights
