#include "compute/cuda/runtime/tensor_map.h"

#include <cuda_runtime_api.h>

namespace deepflight {

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

}  // namespace deepflight
