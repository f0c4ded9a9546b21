// What all of cuBLASLt's products share. It is column-major, so the transpose of a product of
// row-major matrices is asked for: out^T = w * x^T, with w [n, k], x [m, k] and out [m, n].
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

namespace deepflight {

// Throws DeviceError where a call of cuBLASLt failed: `what` it was about.
void check_cublaslt(cublasStatus_t status, const char* what);

// A matrix of `rows` rows of `columns` elements, `stride` elements apart, or a batch of them.
class CublasltLayout {
 public:
  CublasltLayout(cudaDataType type, int64_t rows, int64_t columns, int64_t stride,
                 int64_t batch = 1, int64_t batch_stride = 0);
  CublasltLayout(CublasltLayout&& other) noexcept
      : layout_(std::exchange(other.layout_, nullptr)) {}
  CublasltLayout& operator=(CublasltLayout&&) = delete;
  ~CublasltLayout() {
    if (layout_ != nullptr) cublasLtMatrixLayoutDestroy(layout_);
  }

  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

// The matrices of a product, and what CublasltProducts::plan() has found for them.
struct CublasltPlan {
  CublasltLayout w, x, out;
  bool supported = false;
  cublasLtMatmulAlgo_t algo{};
};

// Products with sums in F32 that may use `workspace_bytes` of device memory.
class CublasltProducts {
 public:
  explicit CublasltProducts(size_t workspace_bytes);
  CublasltProducts(const CublasltProducts&) = delete;
  CublasltProducts& operator=(const CublasltProducts&) = delete;
  ~CublasltProducts();

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check_cublaslt(cublasLtMatmulDescSetAttribute(product_, attribute, &value, sizeof(value)),
                   "product");
  }
  template <typename T>
  void prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    check_cublaslt(
        cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)),
        "preference");
  }

  // Asks for an algorithm.
  void plan(CublasltPlan& plan) const;
  // plan.supported. `workspace`: nothing else uses it while the product runs.
  void launch(const CublasltPlan& plan, const void* w, const void* x, void* out, void* workspace,
              cudaStream_t stream) const;

 private:
  const size_t workspace_bytes_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

// The plans of all shapes met so far. Key: everything that an algorithm may depend on.
template <typename Key>
class CublasltPlans {
 public:
  // `matrices()` makes a plan that has none yet.
  template <typename Matrices>
  const CublasltPlan& find(const CublasltProducts& products, const Key& key,
                           const Matrices& matrices) {
    if (const auto known = plans_.find(key); known != plans_.end()) return known->second;
    CublasltPlan& plan = plans_.emplace(key, matrices()).first->second;
    products.plan(plan);
    return plan;
  }

 private:
  std::map<Key, CublasltPlan> plans_;
};

}  // namespace deepflight
