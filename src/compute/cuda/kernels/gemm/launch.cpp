// Checks, then the kernel.
#include "compute/cuda/kernels/gemm/launch.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/kernels/gemm/kernels.h"
#include "compute/cuda/kernels/gemm/source.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {

void launch_fp8_gemm(const Fp8GemmProblem& problem, cudaStream_t stream) {
  CHECK(problem.m >= 0 && problem.n > 0 && problem.k > 0, problem.m, problem.n, problem.k);
  CHECK((problem.num_groups == 0) == (problem.offsets == nullptr), problem.num_groups);
  CHECK((problem.num_groups == 0) == (problem.next_tile == nullptr), problem.num_groups);
  if (problem.m == 0) return;
  if (gemm_fp8::fast_kernel_fits(problem)) {
    gemm_fp8::launch_chosen(problem, stream);
    return;
  }
  CHECK(problem.activated.values == nullptr, problem.n, problem.k);
  gemm_fp8::launch_generic(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

bool fuses_fp8_swiglu(const Fp8GemmProblem& problem) { return gemm_fp8::fuses_swiglu(problem); }

void warm_up_fp8_gemm(std::span<const Fp8GemmUse> uses,
                      const std::function<void(const std::string& name, int64_t total)>& progress) {
  const int64_t start_us = monotonic_us();
  std::vector<gemm_fp8::Config> configs;
  const auto add = [&](const gemm_fp8::Shape& shape) {
    const gemm_fp8::Config config = gemm_fp8::chosen_config(shape);
    if (std::find(configs.begin(), configs.end(), config) == configs.end()) {
      configs.push_back(config);
    }
  };
  for (const Fp8GemmUse& use : uses) {
    for (const int64_t m : gemm_fp8::row_steps(use.max_m)) {
      gemm_fp8::Shape shape{m, use.n, use.k, use.num_groups, use.out_f32};
      shape.batch_invariant = use.batch_invariant;
      add(shape);
      shape.swiglu = use.swiglu;
      if (shape.swiglu && gemm_fp8::swiglu_pays(shape, gemm_fp8::current_machine())) add(shape);
    }
  }
  std::vector<JitSource> missing;
  for (const gemm_fp8::Config& config : configs) {
    JitSource source = gemm_fp8::source_of(config);
    if (!is_jit_stored(source)) missing.push_back(std::move(source));
  }
  if (!missing.empty()) {
    ThreadPool pool(0);
    pool.parallel_for(std::ssize(missing), [&](int64_t i) {
      jit_cubin(missing[i]);
      if (progress) progress(missing[i].name, std::ssize(missing));
    });
  }
  for (const gemm_fp8::Config& config : configs) gemm_fp8::prepare(config);
  spdlog::info("FP8 products: {} kernels, {} of them compiled, in {:.1f} ms", configs.size(),
               missing.size(), static_cast<double>(monotonic_us() - start_us) * 1e-3);
}

}  // namespace deepflight
