// From packed weights to the product kernels.
#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/gemm/autotune.h"

namespace deepflight {
namespace {

Fp8GemmProblem fp8_problem(const Rows& x, const cuda::DeviceMatrices& matrices,
                           const int32_t* offsets, const Buffer& next_tile) {
  Fp8GemmProblem problem;
  problem.x = fp8_rows(x);
  problem.w = static_cast<const uint8_t*>(matrices.values.data());
  problem.w_scales = static_cast<const float*>(matrices.scales.data());
  problem.m = x.dim(0);
  problem.n = matrices.n;
  problem.k = matrices.k;
  problem.num_groups = offsets == nullptr ? 0 : static_cast<int>(matrices.num_groups);
  problem.offsets = offsets;
  if (offsets != nullptr) problem.next_tile = static_cast<int32_t*>(next_tile.data());
  problem.weights_settled = true;  // nothing writes them after loading, which has been waited for
  return problem;
}

Bf16GroupedProblem grouped_problem(const Rows& x, const cuda::DeviceMatrices& matrices,
                                   const int32_t* offsets, const TensorView& out) {
  Bf16GroupedProblem problem;
  problem.x = bf16(x.values);
  problem.x_stride = x.values.stride(0);
  problem.w = matrices.values.data();
  problem.out = bf16(out);
  problem.out_stride = out.stride(0);
  problem.m = x.dim(0);
  problem.n = matrices.n;
  problem.k = matrices.k;
  problem.num_groups = static_cast<int>(matrices.num_groups);
  problem.offsets = offsets;
  return problem;
}

Bf16GemmProblem dense_problem(const Rows& x, const cuda::DeviceMatrices& matrices,
                              const TensorView& out) {
  Bf16GemmProblem problem;
  problem.x = bf16(x.values);
  problem.x_stride = x.values.stride(0);
  problem.w = matrices.values.data();
  problem.w_stride = matrices.k;
  problem.out = out.raw();
  problem.out_stride = out.stride(0);
  problem.out_f32 = out.dtype() == DType::kF32;
  problem.m = x.dim(0);
  problem.n = matrices.n;
  problem.k = matrices.k;
  return problem;
}

// A bar that begins with the first piece of work done, when it is told how many there are. From any
// thread.
struct LateBar {
  const char* title;
  const char* unit;
  std::mutex mutex = {};
  std::optional<ProgressBar> bar = {};

  void operator()(const std::string& note, int64_t total) {
    std::lock_guard lock(mutex);
    if (!bar) bar.emplace(title, total, unit);
    bar->advance(1, note);
  }
};

}  // namespace

void CudaBackend::prepare_kernels(int64_t max_tokens) {
  constexpr int64_t kMaxTopk = 8;  // experts a token of the models that there are
  std::vector<Fp8GemmUse> uses = impl_->fp8_uses;
  for (Fp8GemmUse& use : uses) {
    use.batch_invariant = impl_->config.batch_invariant;
    use.max_m = use.num_groups == 0
                    ? max_tokens
                    : std::min(max_tokens, impl_->config.moe_chunk_tokens) * kMaxTopk;
  }
  if (impl_->config.autotune) {
    LateBar bar{"tuning FP8 products", "shapes"};
    autotune_fp8_gemm(uses, std::ref(bar));
  }
  LateBar bar{"compiling FP8 products", "kernels"};
  warm_up_fp8_gemm(uses, std::ref(bar));
}

void CudaBackend::Impl::launch(Lane& lane, Bf16GemmProblem problem) {
  problem.batch_invariant = config.batch_invariant;
  bf16_gemm.launch(problem, lane.product.get(Bf16Gemm::kWorkspaceBytes), lane.stream.get());
}

void CudaBackend::Impl::launch(Lane& lane, const Fp8GemmProblem& problem) {
  if (cublaslt_fp8_gemm && problem.num_groups == 0) {
    void* workspace = lane.product.get(CublasltFp8Gemm::workspace_bytes(problem.m, problem.k));
    if (cublaslt_fp8_gemm->launch(problem, workspace, lane.stream.get())) return;
  }
  launch_fp8_gemm(problem, lane.stream.get());
}

void CudaBackend::Impl::multiply(Lane& lane, const Rows& x, const cuda::PackedMatrices& matrices,
                                 const int32_t* offsets, const TensorView& out) {
  if (x.dim(0) == 0) return;
  const Rows input = with_fp8(lane, x, matrices.parts.front().fp8);
  for (const auto& part : matrices.parts) {
    const TensorView target = out.slice(1, part.out_begin, part.n);
    if (part.fp8) {
      Fp8GemmProblem problem = fp8_problem(input, part, offsets, next_tile);
      problem.out = target.raw();
      problem.out_stride = target.stride(0);
      problem.out_f32 = target.dtype() == DType::kF32;
      problem.batch_invariant = config.batch_invariant;
      launch(lane, problem);
    } else if (offsets != nullptr) {
      launch_grouped_bf16(grouped_problem(input, part, offsets, target), lane.stream.get());
    } else {
      launch(lane, dense_problem(input, part, target));
    }
  }
}

bool CudaBackend::Impl::multiply_fused(Lane& lane, const Rows& x,
                                       const cuda::PackedMatrices& matrices, const int32_t* offsets,
                                       const Rows& activated) {
  if (matrices.parts.size() != 1 || !matrices.parts[0].fp8 || !activated.fp8 || activated.values) {
    return false;
  }
  if (cublaslt_fp8_gemm && offsets == nullptr) return false;
  if (x.dim(0) == 0) return true;
  Fp8GemmProblem problem = fp8_problem(x, matrices.parts[0], offsets, next_tile);
  problem.activated = fp8_rows(activated);
  problem.batch_invariant = config.batch_invariant;
  if (!fuses_fp8_swiglu(problem)) return false;
  launch_fp8_gemm(problem, lane.stream.get());
  return true;
}

}  // namespace deepflight
