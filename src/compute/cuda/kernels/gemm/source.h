// The text that the run-time compiler gets for a configuration.
#pragma once

#include "compute/cuda/jit/source.h"
#include "compute/cuda/kernels/gemm/config.h"

namespace deepflight::gemm_fp8 {

JitSource source_of(const Config& config);

}  // namespace deepflight::gemm_fp8
