// Allocation.
#include "compute/cuda/runtime/memory.h"

#include <algorithm>

#include "base/check.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {

Buffer allocate_device(int64_t size_bytes) {
  void* data = nullptr;
  CUDA_CHECK(cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(size_bytes, 1))));
  return Buffer(data, size_bytes, [](void* memory, void*) { cudaFree(memory); });
}

Buffer allocate_on_stream(int64_t size_bytes, cudaStream_t stream) {
  void* data = nullptr;
  CUDA_CHECK(cudaMallocAsync(&data, static_cast<size_t>(std::max<int64_t>(size_bytes, 1)), stream));
  return Buffer(
      data, size_bytes,
      [](void* memory, void* context) {
        cudaFreeAsync(memory, static_cast<cudaStream_t>(context));
      },
      stream);
}

Buffer allocate_pinned(int64_t size_bytes) {
  void* data = nullptr;
  CUDA_CHECK(cudaHostAlloc(&data, static_cast<size_t>(std::max<int64_t>(size_bytes, 1)),
                           cudaHostAllocPortable));
  return Buffer(data, size_bytes, [](void* memory, void*) { cudaFreeHost(memory); });
}

int64_t free_device_bytes() {
  size_t free_bytes = 0, total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(free_bytes);
}

void* ScratchArena::get(int64_t size_bytes) {
  if (size_bytes > buffer_.size_bytes()) {
    CHECK(!frozen_, size_bytes, buffer_.size_bytes(),
          "an op needs more scratch than the warm-up steps did");
    CUDA_CHECK(cudaDeviceSynchronize());  // ops that still use the old piece
    buffer_ = Buffer();
    buffer_ = allocate_device(size_bytes);
  }
  return buffer_.data();
}

}  // namespace deepflight
