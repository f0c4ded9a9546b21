// FP8 block-scaled products for every shape.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <span>
#include <string>

#include "compute/cuda/kernels/gemm/problem.h"

namespace deepflight {

// The kernel may be compiled here, if warm_up_fp8_gemm() has not seen its shape. A step may be
// captured: the grid depends on m and the number of groups, not on the offsets.
void launch_fp8_gemm(const Fp8GemmProblem& problem, cudaStream_t stream);

// Whether one kernel for problem.activated (set) should be faster than a product to BF16 and
// swiglu() of it; false where there is none for the problem.
bool fuses_fp8_swiglu(const Fp8GemmProblem& problem);

// Products that a model will ask for: a matrix, or num_groups of them, and rows up to max_m.
struct Fp8GemmUse {
  int64_t n = 0;
  int64_t k = 0;
  int num_groups = 0;
  bool out_f32 = false;
  bool swiglu = false;  // perhaps with the activation behind it
  int64_t max_m = 0;
  bool batch_invariant = false;
};

// Compiles every kernel that the uses can need, on all cores, and loads it on the current device,
// so that nothing is compiled while serving. `progress`: called after each kernel that the disk did
// not have, from any thread, with its name and their number.
void warm_up_fp8_gemm(
    std::span<const Fp8GemmUse> uses,
    const std::function<void(const std::string& name, int64_t total)>& progress = {});

}  // namespace deepflight
