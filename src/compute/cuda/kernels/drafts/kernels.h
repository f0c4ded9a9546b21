// The launches of drafts.cu; launch.cpp checks, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/drafts/problem.h"

namespace deepflight::cuda_drafts {

// The vector form: width a multiple of 8, everything aligned to 16 bytes.
void launch_shift(const StatesProblem& problem, bool vector, cudaStream_t stream);
void launch_keep(const StatesProblem& problem, bool vector, cudaStream_t stream);
void launch_begin(const BeginProblem& problem, cudaStream_t stream);
void launch_take(const TakeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_drafts
