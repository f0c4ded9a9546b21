// The type of a tensor map, for host and device code.
#pragma once

#ifdef __CUDACC_RTC__
// As cuda.h has it: NVRTC compiles without CUDA's headers.
struct alignas(64) CUtensorMap {
  unsigned long long opaque[16];
};
#else
#include <cuda.h>
#endif
