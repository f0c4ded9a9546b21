// BF16 products by cuBLASLt, or by a plain kernel where the shape or the alignment is not its.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "compute/cuda/kernels/gemm_bf16/problem.h"

namespace deepflight {

void launch_grouped_bf16(const Bf16GroupedProblem& problem, cudaStream_t stream);

// Holds cuBLASLt's handle and the algorithm of every shape met so far. One thread at a time.
class Bf16Gemm {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  Bf16Gemm();
  ~Bf16Gemm();

  // `workspace`: kWorkspaceBytes of device memory that nothing else uses while the product runs.
  void launch(const Bf16GemmProblem& problem, void* workspace, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepflight
