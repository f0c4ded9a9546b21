// cuBLASLt is column-major, so the transpose of the product is asked for: out^T = w * x^T.
#include "compute/cuda/kernels/gemm/cublaslt.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <string>

#include "base/check.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

constexpr int64_t kCublasltBytes = int64_t{32} << 20;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusName(status));
  }
}

// What an algorithm depends on; alignments are all the same.
using Key = std::array<int64_t, 6>;  // m, n, k, strides of x and out, F32

struct Plan {
  explicit Plan(const Fp8GemmProblem& p) {
    check(cublasLtMatrixLayoutCreate(&w, CUDA_R_8F_E4M3, p.k, p.n, p.k), "layout");
    check(cublasLtMatrixLayoutCreate(&x, CUDA_R_8F_E4M3, p.k, p.m, p.x.value_stride), "layout");
    check(cublasLtMatrixLayoutCreate(&out, p.out_f32 ? CUDA_R_32F : CUDA_R_16BF, p.n, p.m,
                                     p.out_stride),
          "layout");
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(w);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(out);
  }

  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
  bool supported = false;
  cublasLtMatmulAlgo_t algo{};
};

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
    check(cublasLtCreate(&handle), "handle");
    check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
    check(cublasLtMatmulPreferenceCreate(&preference), "preference");
    const size_t workspace = kCublasltBytes;
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof(workspace)),
          "preference");
  }
  ~Impl() {
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(handle);
  }

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) const {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "product");
  }

  const Plan& plan_of(const Fp8GemmProblem& p) {
    const Key key = {p.m, p.n, p.k, p.x.value_stride, p.out_stride, p.out_f32};
    const auto known = plans.find(key);
    if (known != plans.end()) return *known->second;
    auto plan = std::make_unique<Plan>(p);
    cublasLtMatmulHeuristicResult_t result{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, product, plan->w, plan->x, plan->out, plan->out, preference, 1, &result, &count);
    plan->supported = status == CUBLAS_STATUS_SUCCESS && count > 0;
    plan->algo = result.algo;
    return *plans.emplace(key, std::move(plan)).first->second;
  }

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans;
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
  impl_->set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scales);
  impl_->set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
  const Plan& plan = impl_->plan_of(p);
  if (!plan.supported) return false;
  if (x_scales == packed) {
    CUDA_CHECK(cudaMemcpy2DAsync(packed, p.m * sizeof(float), p.x.scales,
                                 p.x.scale_stride * sizeof(float), p.m * sizeof(float), p.k / 128,
                                 cudaMemcpyDeviceToDevice, stream));
  }
  const float one = 1.0f, zero = 0.0f;
  check(cublasLtMatmul(impl_->handle, impl_->product, &one, p.w, plan.w, p.x.values, plan.x, &zero,
                       p.out, plan.out, p.out, plan.out, &plan.algo, workspace, kCublasltBytes,
                       stream),
        "product");
  return true;
}

}  // namespace deepflight
