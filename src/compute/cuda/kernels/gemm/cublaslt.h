// The same dense products by cuBLASLt: an oracle for tests, and what --fp8-products cublaslt takes.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "compute/cuda/kernels/gemm/problem.h"

namespace deepflight {

// Holds cuBLASLt's handle and the algorithm of every shape met so far. One thread at a time.
class CublasltFp8Gemm {
 public:
  CublasltFp8Gemm();
  ~CublasltFp8Gemm();

  // Device memory that launch() needs for at most max_m rows of k columns.
  static int64_t workspace_bytes(int64_t max_m, int64_t k);

  // False, and nothing done, where cuBLASLt has no kernel: groups, an activation, m no multiple of
  // 4, k / 128 no multiple of 4 (rows of the weights' scales lie that far apart, as it wants them),
  // pointers and strides off 16 bytes. `workspace`: of workspace_bytes(), which nothing else uses
  // while the product runs.
  bool launch(const Fp8GemmProblem& problem, void* workspace, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepflight
