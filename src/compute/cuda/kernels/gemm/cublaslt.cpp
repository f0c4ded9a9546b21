#include "compute/cuda/kernels/gemm/cublaslt.h"

#include <array>

#include "base/check.h"
#include "compute/cuda/runtime/cublaslt.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

constexpr int64_t kCublasltBytes = int64_t{32} << 20;

// What an algorithm depends on; alignments are all the same.
using Key = std::array<int64_t, 6>;  // m, n, k, strides of x and out, F32

CublasltPlan matrices_of(const Fp8GemmProblem& p) {
  return {.w = {CUDA_R_8F_E4M3, p.n, p.k, p.k},
          .x = {CUDA_R_8F_E4M3, p.m, p.k, p.x.value_stride},
          .out = {p.out_f32 ? CUDA_R_32F : CUDA_R_16BF, p.m, p.n, p.out_stride}};
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool fits(const Fp8GemmProblem& p) {
  return p.num_groups == 0 && p.activated.values == nullptr && p.m % 4 == 0 && p.k % 512 == 0 &&
         p.n % 16 == 0 && p.x.value_stride % 16 == 0 && p.out_stride % 16 == 0 &&
         aligned(p.x.values) && aligned(p.x.scales) && aligned(p.w) && aligned(p.w_scales) &&
         aligned(p.out);
}

}  // namespace

struct CublasltFp8Gemm::Impl {
  Impl() {
    products.set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
    products.set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
  }

  const CublasltPlan& plan_of(const Fp8GemmProblem& p) {
    const Key key = {p.m, p.n, p.k, p.x.value_stride, p.out_stride, p.out_f32};
    return plans.find(products, key, [&] { return matrices_of(p); });
  }

  CublasltProducts products{kCublasltBytes};
  CublasltPlans<Key> plans;
};

CublasltFp8Gemm::CublasltFp8Gemm() : impl_(std::make_unique<Impl>()) {}
CublasltFp8Gemm::~CublasltFp8Gemm() = default;

int64_t CublasltFp8Gemm::workspace_bytes(int64_t max_m, int64_t k) {
  return kCublasltBytes +
         Fp8Rows::num_scale_blocks(k) * max_m * static_cast<int64_t>(sizeof(float));
}

bool CublasltFp8Gemm::launch(const Fp8GemmProblem& p, void* workspace, cudaStream_t stream) {
  CHECK(p.m >= 0 && p.n > 0 && p.k > 0, p.m, p.n, p.k);
  if (p.m == 0) return true;
  if (!fits(p)) return false;
  // It knows no stride for x's scales: each block of k has m of them.
  const float* x_scales = p.x.scales;
  float* packed = reinterpret_cast<float*>(static_cast<uint8_t*>(workspace) + kCublasltBytes);
  if (p.x.scale_stride != p.m) x_scales = packed;
  impl_->products.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scales);
  impl_->products.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
  const CublasltPlan& plan = impl_->plan_of(p);
  if (!plan.supported) return false;
  if (x_scales == packed) {
    CUDA_CHECK(cudaMemcpy2DAsync(packed, p.m * sizeof(float), p.x.scales,
                                 p.x.scale_stride * sizeof(float), p.m * sizeof(float), p.k / 128,
                                 cudaMemcpyDeviceToDevice, stream));
  }
  impl_->products.launch(plan, p.w, p.x.values, p.out, workspace, stream);
  return true;
}

}  // namespace deepflight
