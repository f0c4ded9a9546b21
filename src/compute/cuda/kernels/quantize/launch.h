// Rows to FP8 in 1x128 blocks, alone or as the end of SwiGLU. Value for value what the CPU's
// round_to_f8e4m3_block makes of the BF16 values. Asynchronous, fit for a captured graph.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/quantize/problem.h"

namespace deepflight::cuda_quantize {

void quantize(const QuantizeProblem& problem, cudaStream_t stream);
void swiglu(const SwigluProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_quantize
