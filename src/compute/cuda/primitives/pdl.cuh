// Programmatic dependent launch: a kernel may start while the one before it drains. Whoever is
// launched with the attribute must wait before it touches what earlier kernels wrote.
#pragma once

#ifndef __CUDACC_RTC__
#include <cuda_runtime_api.h>
#endif

namespace deepflight::device {

// Returns when all kernels before this one in the stream have finished and their writes are seen.
// Without the launch attribute it does nothing.
__device__ inline void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel's blocks be scheduled from now on.
__device__ inline void allow_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#ifndef __CUDACC_RTC__
// On the host: kernel<<<grid, block, shared_bytes, stream>>>(args...) with the attribute, in
// clusters of so many blocks. The error, if any, is cudaGetLastError()'s.
template <typename... Parameters, typename... Args>
inline void launch_early_clusters(void (*kernel)(Parameters...), unsigned cluster, dim3 grid,
                                  dim3 block, size_t shared_bytes, cudaStream_t stream,
                                  const Args&... args) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, Parameters(args)...);
}
template <typename... Parameters, typename... Args>
inline void launch_early_shared(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                size_t shared_bytes, cudaStream_t stream, const Args&... args) {
  launch_early_clusters(kernel, 1, grid, block, shared_bytes, stream, args...);
}
template <typename... Parameters, typename... Args>
inline void launch_early(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                         const Args&... args) {
  launch_early_shared(kernel, grid, block, 0, stream, args...);
}
#endif

}  // namespace deepflight::device
