// Checks, then the kernel.
#include "compute/cuda/kernels/gemm/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/gemm/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {

int64_t fp8_gemm_scratch_bytes(const Fp8GemmProblem&) { return 0; }

void launch_fp8_gemm(const Fp8GemmProblem& problem, cudaStream_t stream) {
  CHECK(problem.m >= 0 && problem.n > 0 && problem.k > 0, problem.m, problem.n, problem.k);
  CHECK((problem.num_groups == 0) == (problem.offsets == nullptr), problem.num_groups);
  if (problem.m == 0) return;
  gemm_fp8::launch_generic(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight
