// The driver's encoder of tensor maps, which describe an array to the copy engine. It is looked up
// at run time: linking to libcuda would keep the binary from starting where there is no driver.
#pragma once

#include <cuda.h>

namespace deepflight {

using TensorMapEncoder = decltype(&cuTensorMapEncodeTiled);

// Looked up once; null where the driver is absent or too old to have it.
TensorMapEncoder tensor_map_encoder();

}  // namespace deepflight
