// Sampling: one token a row, with log-probabilities where the slot asks for them. Two launches,
// the same whatever the slots ask for, so that a captured step serves any mix of requests.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/sample_verify/problem.h"

namespace deepflight::cuda_sample_verify {

// Of num_rows rows or fewer; 8-byte aligned.
int64_t sample_scratch_bytes(int64_t num_rows);

void sample(const SampleProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_sample_verify
