// Kernels compiled at run time. A kernel is looked for in this process, then on disk, and then it
// is compiled; once got, it serves every device and thread.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "compute/cuda/jit/source.h"

namespace deepflight {

// Machine code from the disk or the compiler, without a GPU. Fills the cache for later.
std::string jit_cubin(const JitSource& source);

// Whether it need not be compiled; reads it, for jit_kernel().
bool is_jit_stored(const JitSource& source);

// Safe to call from many threads, each compiling another kernel. Throws DeviceError.
cudaKernel_t jit_kernel(const JitSource& source);

// Allows `kernel` its dynamic shared memory on the current device.
void allow_shared_memory(cudaKernel_t kernel, int bytes);

struct JitLaunch {
  int blocks = 1;
  int threads = 1;
  int shared_bytes = 0;
  int cluster = 1;  // blocks
  cudaStream_t stream = nullptr;
};

// With one parameter, `params`, that the kernel takes by value. It may start while the kernel
// before it in the stream drains (primitives/pdl.cuh).
void launch_jit(cudaKernel_t kernel, const JitLaunch& launch, void* params);

}  // namespace deepflight
