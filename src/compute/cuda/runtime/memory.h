// Device and pinned memory, and the scratch of ops.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "tensor/buffer.h"

namespace deepflight {

// cudaMalloc; throws DeviceError when there is no such piece.
Buffer allocate_device(int64_t size_bytes);
// The same in the order of a stream: freed once the work put on the stream until then is done. The
// stream must live longer.
Buffer allocate_on_stream(int64_t size_bytes, cudaStream_t stream);
// Page-locked host memory.
Buffer allocate_pinned(int64_t size_bytes);
// Free bytes of the current device, all processes counted.
int64_t free_device_bytes();

// One piece of device memory that every op on a stream uses in turn: ops of a stream run one after
// the other, so an op may take all of it. It grows to the largest demand, until freeze(): from then
// on its address is part of captured graphs, and a larger demand is a broken invariant.
class ScratchArena {
 public:
  // Memory of at least size_bytes, 256-byte aligned; contents are undefined.
  void* get(int64_t size_bytes);
  void freeze() { frozen_ = true; }
  int64_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  Buffer buffer_;
  bool frozen_ = false;
};

}  // namespace deepflight
