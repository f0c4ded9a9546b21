// What MTP drafts need around the modules (compute/ops/backend.h): states one token on, and the
// chain of drafts. Asynchronous, one launch each.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/drafts/problem.h"

namespace deepflight::cuda_drafts {

void shift_states(const StatesProblem& problem, cudaStream_t stream);
void keep_states(const StatesProblem& problem, cudaStream_t stream);
void begin_drafts(const BeginProblem& problem, cudaStream_t stream);
void take_drafts(const TakeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_drafts
