// Tensor maps, which describe an array to the copy engine.
#pragma once

#include <cuda.h>

namespace deepflight {

// Describes an array of `rank` dimensions, at most 3, the innermost first, by dense boxes; what is
// beyond the end is read as zeros. `strides`: bytes, of all dimensions but the first.
// CUDA_ERROR_NOT_FOUND where the driver is absent or too old to have them.
CUresult encode_tensor_map(CUtensorMap& map, CUtensorMapDataType type, int rank, const void* base,
                           const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                           CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B);

}  // namespace deepflight
