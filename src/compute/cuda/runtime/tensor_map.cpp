#include "compute/cuda/runtime/tensor_map.h"

#include <cuda_runtime_api.h>

namespace deepflight {
namespace {

using TensorMapEncoder = decltype(&cuTensorMapEncodeTiled);

// Looked up once, at run time: linking to libcuda would keep the binary from starting where there
// is no driver. Null where it does not have it.
TensorMapEncoder tensor_map_encoder() {
  static const TensorMapEncoder encoder = []() -> TensorMapEncoder {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) return nullptr;
    return reinterpret_cast<TensorMapEncoder>(entry);
  }();
  return encoder;
}

}  // namespace

CUresult encode_tensor_map(CUtensorMap& map, CUtensorMapDataType type, int rank, const void* base,
                           const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion) {
  const cuuint32_t steps[3] = {1, 1, 1};
  const TensorMapEncoder encoder = tensor_map_encoder();
  if (encoder == nullptr) return CUDA_ERROR_NOT_FOUND;
  return encoder(&map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(base), dims, strides,
                 box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, promotion,
                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

}  // namespace deepflight
