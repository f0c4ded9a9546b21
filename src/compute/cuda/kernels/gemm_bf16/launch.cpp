// cuBLASLt where it has a kernel for shape and alignment.
#include "compute/cuda/kernels/gemm_bf16/launch.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "base/check.h"
#include "compute/cuda/kernels/gemm_bf16/kernels.h"
#include "compute/cuda/runtime/cublaslt.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

// Everything that an algorithm may depend on: shape, strides and the alignment of the pointers.
using Key = std::array<int64_t, 12>;

int64_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address % 16 == 0 ? 16 : address % 8 == 0 ? 8 : address % 4 == 0 ? 4 : 2;
}

Key key_of(const Bf16GemmProblem& p) {
  const int64_t pointers = alignment(p.x) * 10000 + alignment(p.w) * 100 + alignment(p.out);
  return {p.m,
          p.n,
          p.k,
          p.batch,
          p.x_stride,
          p.w_stride,
          p.out_stride,
          p.x_batch_stride,
          p.w_batch_stride,
          p.out_batch_stride,
          p.out_f32,
          pointers};
}

CublasltPlan matrices_of(const Bf16GemmProblem& p) {
  return {.w = {CUDA_R_16BF, p.n, p.k, p.w_stride, p.batch, p.w_batch_stride},
          .x = {CUDA_R_16BF, p.m, p.k, p.x_stride, p.batch, p.x_batch_stride},
          .out = {p.out_f32 ? CUDA_R_32F : CUDA_R_16BF, p.m, p.n, p.out_stride, p.batch,
                  p.out_batch_stride}};
}

}  // namespace

struct Bf16Gemm::Impl {
  Impl() {
    // Split sums only through the workspace, never by atomics: the same bits every time.
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    products.prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  }

  const CublasltPlan& plan_of(const Bf16GemmProblem& problem) {
    return plans.find(products, key_of(problem), [&] { return matrices_of(problem); });
  }

  CublasltProducts products{kWorkspaceBytes};
  CublasltPlans<Key> plans;
};

namespace {

// Whether the tensor core kernel takes these sizes and row strides. Alike for every m.
bool mma_fits(int64_t n, int64_t k, std::initializer_list<int64_t> in_strides,
              std::initializer_list<int64_t> out_strides) {
  constexpr int64_t kMaxDim = int64_t{1} << 30;
  return n % 2 == 0 && k % 8 == 0 && n < kMaxDim && k < kMaxDim &&
         std::ranges::all_of(in_strides, [](int64_t stride) { return stride % 8 == 0; }) &&
         std::ranges::all_of(out_strides, [](int64_t stride) { return stride % 2 == 0; });
}

void launch_batch_invariant(const Bf16GemmProblem& p, cudaStream_t stream) {
  const bool fits = mma_fits(p.n, p.k, {p.x_stride, p.w_stride, p.x_batch_stride, p.w_batch_stride},
                             {p.out_stride, p.out_batch_stride}) &&
                    p.m < (int64_t{1} << 22) && alignment(p.x) == 16 && alignment(p.w) == 16 &&
                    alignment(p.out) >= (p.out_f32 ? 8 : 4);
  if (fits) {
    CUDA_CHECK(gemm_bf16::launch_mma(p, stream));
  } else {
    gemm_bf16::launch_generic(p, stream);
    CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace

void launch_grouped_bf16(const Bf16GroupedProblem& p, cudaStream_t stream) {
  CHECK(p.m >= 0 && p.n > 0 && p.k > 0 && p.num_groups > 0, p.m, p.n, p.k, p.num_groups);
  if (p.m == 0) return;
  const bool fits = mma_fits(p.n, p.k, {p.x_stride}, {p.out_stride}) && p.m < (1 << 30) &&
                    alignment(p.x) == 16 && alignment(p.w) == 16 && alignment(p.out) >= 4;
  if (fits) {
    CUDA_CHECK(gemm_bf16::launch_grouped_mma(p, stream));
  } else {
    gemm_bf16::launch_generic_grouped(p, stream);
    CUDA_CHECK(cudaGetLastError());
  }
}

Bf16Gemm::Bf16Gemm() : impl_(std::make_unique<Impl>()) {}
Bf16Gemm::~Bf16Gemm() = default;

void Bf16Gemm::launch(const Bf16GemmProblem& p, void* workspace, cudaStream_t stream) {
  CHECK(p.m >= 0 && p.n > 0 && p.k > 0 && p.batch > 0, p.m, p.n, p.k, p.batch);
  if (p.m == 0) return;
  if (p.batch_invariant) return launch_batch_invariant(p, stream);
  // Below 16 bytes cuBLASLt has only slow kernels or none; such shapes are small models'.
  const bool aligned = p.k % 8 == 0 && p.n % 8 == 0 && p.x_stride % 8 == 0 && p.w_stride % 8 == 0 &&
                       p.out_stride % 8 == 0 && alignment(p.x) == 16 && alignment(p.w) == 16 &&
                       alignment(p.out) == 16 && p.x_batch_stride % 8 == 0 &&
                       p.w_batch_stride % 8 == 0 && p.out_batch_stride % 8 == 0;
  const CublasltPlan* plan = aligned ? &impl_->plan_of(p) : nullptr;
  if (plan == nullptr || !plan->supported) {
    gemm_bf16::launch_generic(p, stream);
    CUDA_CHECK(cudaGetLastError());
    return;
  }
  impl_->products.launch(*plan, p.w, p.x, p.out, workspace, stream);
}

}  // namespace deepflight
