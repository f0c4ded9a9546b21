// A step's beginning and end on the device: deltas from the host, what the decode rows compute on,
// rows by index, and the state after sampling. Asynchronous; apply_deltas is two launches, the
// others one.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/step_state/problem.h"

namespace deepflight::cuda_step_state {

// Also the embedding: x is its table.
void gather_rows(const GatherProblem& problem, cudaStream_t stream);
void prepare_step(const PrepareProblem& problem, cudaStream_t stream);
void update_state(const UpdateProblem& problem, cudaStream_t stream);
void apply_deltas(const DeltasProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_step_state
