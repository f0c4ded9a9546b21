#include "compute/cuda/runtime/cublaslt.h"

#include <string>

#include "compute/cuda/runtime/device.h"

namespace deepflight {

void check_cublaslt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusName(status));
}

CublasltLayout::CublasltLayout(cudaDataType type, int64_t rows, int64_t columns, int64_t stride,
                               int64_t batch, int64_t batch_stride) {
  check_cublaslt(cublasLtMatrixLayoutCreate(&layout_, type, columns, rows, stride), "layout");
  if (batch <= 1) return;
  const auto count = static_cast<int32_t>(batch);
  check_cublaslt(cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                  &count, sizeof(count)),
                 "batch");
  check_cublaslt(
      cublasLtMatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                       &batch_stride, sizeof(batch_stride)),
      "batch");
}

CublasltProducts::CublasltProducts(size_t workspace_bytes) : workspace_bytes_(workspace_bytes) {
  check_cublaslt(cublasLtCreate(&handle_), "handle");
  check_cublaslt(cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  check_cublaslt(cublasLtMatmulPreferenceCreate(&preference_), "preference");
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes_);
}

CublasltProducts::~CublasltProducts() {
  cublasLtMatmulPreferenceDestroy(preference_);
  cublasLtMatmulDescDestroy(product_);
  cublasLtDestroy(handle_);
}

void CublasltProducts::plan(CublasltPlan& plan) const {
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, product_, plan.w.get(), plan.x.get(), plan.out.get(),
                                     plan.out.get(), preference_, 1, &result, &count);
  plan.supported = status == CUBLAS_STATUS_SUCCESS && count > 0;
  plan.algo = result.algo;
}

void CublasltProducts::launch(const CublasltPlan& plan, const void* w, const void* x, void* out,
                              void* workspace, cudaStream_t stream) const {
  const float one = 1.0f, zero = 0.0f;
  check_cublaslt(cublasLtMatmul(handle_, product_, &one, w, plan.w.get(), x, plan.x.get(), &zero,
                                out, plan.out.get(), out, plan.out.get(), &plan.algo, workspace,
                                workspace_bytes_, stream),
                 "product");
}

}  // namespace deepflight
