// The launches of the .cu files; launch.cpp checks, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/step_state/problem.h"

namespace deepflight::cuda_step_state {

// The vector form: width a multiple of 8, everything aligned to 16 bytes.
void launch_gather(const GatherProblem& problem, bool vector, cudaStream_t stream);
void launch_prepare(const PrepareProblem& problem, cudaStream_t stream);
void launch_update(const UpdateProblem& problem, cudaStream_t stream);
void launch_deltas(const DeltasProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_step_state
