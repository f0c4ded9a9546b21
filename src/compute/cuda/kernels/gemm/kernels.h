// Launches without checks of the problem; called by launch.cpp, tests and benches.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/gemm/choose.h"
#include "compute/cuda/kernels/gemm/problem.h"

namespace deepflight::gemm_fp8 {

// Any shape and alignment, on CUDA cores.
void launch_generic(const Fp8GemmProblem& problem, cudaStream_t stream);

// Whether the tensor copy engine can read the problem's operands.
bool fast_kernel_fits(const Fp8GemmProblem& problem);

// With a given configuration; compiles it if need be. The problem fits.
void launch_fast(const Fp8GemmProblem& problem, const Config& config, cudaStream_t stream);

// What the current device's table has measured as the fastest, if the shape may take it, else what
// choose() returns.
Config chosen_config(const Shape& shape);

// Whether problem.activated, which is set, is sooner had from one kernel than from a product to
// BF16 and swiglu() of it.
bool fuses_swiglu(const Fp8GemmProblem& problem);

// With chosen_config().
void launch_chosen(const Fp8GemmProblem& problem, cudaStream_t stream);

// Compiles and loads the kernel for the current device.
void prepare(const Config& config);

Shape shape_of(const Fp8GemmProblem& problem);
Machine current_machine();

}  // namespace deepflight::gemm_fp8
