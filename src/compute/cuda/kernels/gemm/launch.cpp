// Checks, then the kernel.
#include "compute/cuda/kernels/gemm/launch.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "compute/cuda/jit/compiler.h"
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

namespace {

// What launches of `uses` will run, each once.
std::vector<gemm_fp8::Config> configs_of(std::span<const Fp8GemmUse> uses, ThreadPool& pool) {
  std::vector<gemm_fp8::Shape> shapes;
  for (const Fp8GemmUse& use : uses) {
    for (const int64_t m : gemm_fp8::row_steps(use.max_m)) {
      gemm_fp8::Shape shape{m, use.n, use.k, use.num_groups, use.out_f32};
      shape.batch_invariant = use.batch_invariant;
      shapes.push_back(shape);
      shape.swiglu = use.swiglu;
      if (shape.swiglu) shapes.push_back(shape);
    }
  }
  std::vector<std::optional<gemm_fp8::Config>> chosen(shapes.size());
  pool.parallel_for(std::ssize(shapes) + 1, [&](int64_t i) {
    if (i == 0) {
      jit_compiler_version();  // for later: loading the compiler's library takes longest
      return;
    }
    const gemm_fp8::Shape& shape = shapes[i - 1];
    if (!shape.swiglu || gemm_fp8::swiglu_pays(shape, gemm_fp8::current_machine())) {
      chosen[i - 1] = gemm_fp8::chosen_config(shape);
    }
  });
  std::vector<gemm_fp8::Config> configs;
  for (const auto& config : chosen) {
    if (config && std::find(configs.begin(), configs.end(), *config) == configs.end()) {
      configs.push_back(*config);
    }
  }
  return configs;
}

}  // namespace

void warm_up_fp8_gemm(std::span<const Fp8GemmUse> uses,
                      const std::function<void(const std::string& name, int64_t total)>& progress) {
  const int64_t start_us = monotonic_us();
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  // More threads would take longer to begin than they save.
  const int num_threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 8);
  ThreadPool pool(num_threads, [device] { CUDA_CHECK(cudaSetDevice(device)); });
  const std::vector<gemm_fp8::Config> configs = configs_of(uses, pool);
  std::vector<JitSource> sources;
  for (const gemm_fp8::Config& config : configs) sources.push_back(gemm_fp8::source_of(config));
  std::vector<char> is_stored(sources.size());
  pool.parallel_for(std::ssize(sources),
                    [&](int64_t i) { is_stored[i] = is_jit_stored(sources[i]); });
  std::vector<JitSource> missing;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (!is_stored[i]) missing.push_back(std::move(sources[i]));
  }
  if (!missing.empty()) {
    ThreadPool compilers(0);
    compilers.parallel_for(std::ssize(missing), [&](int64_t i) {
      jit_cubin(missing[i]);
      if (progress) progress(missing[i].name, std::ssize(missing));
    });
  }
  pool.parallel_for(std::ssize(configs), [&](int64_t i) { gemm_fp8::prepare(configs[i]); });
  spdlog::info("FP8 products: {} kernels, {} of them compiled, in {:.1f} ms", configs.size(),
               missing.size(), static_cast<double>(monotonic_us() - start_us) * 1e-3);
}

}  // namespace deepflight
