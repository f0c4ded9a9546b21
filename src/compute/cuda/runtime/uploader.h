// Uploader: weights from a mapped file to the device, as fast as the slower of disk and PCIe. Host
// threads write pieces of the source into a ring of pinned blocks (that is where a file is read and
// where formats are converted), and each piece goes to the device while the next ones are written.
// Small pieces share a block. Used by packing.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"

namespace deepflight {

class Uploader {
 public:
  static constexpr int64_t kBlockBytes = int64_t{32} << 20;
  static constexpr int kNumBlocks = 4;

  // Writes bytes [begin, begin + count) of what goes to the device to `to`. Called on several
  // threads at once; `begin` is a multiple of 256.
  using Produce = std::function<void(int64_t begin, int64_t count, char* to)>;

  // The pinned blocks are allocated at the first copy.
  explicit Uploader(int num_threads, int64_t block_bytes = kBlockBytes,
                    int num_blocks = kNumBlocks);

  // Copies `size_bytes` to `device`. On return the source is no longer needed; the device has the
  // bytes once finish() has returned, or, on stream(), from here on.
  void copy(void* device, const void* source, int64_t size_bytes);
  void copy(void* device, int64_t size_bytes, const Produce& produce);
  void finish();

  const Stream& stream() const { return stream_; }

 private:
  struct Block {
    Buffer memory;
    Event sent;  // its last copy to the device
  };

  // The current block, with room in it.
  Block& block_with_room();

  const int64_t block_bytes_;
  const int num_blocks_;
  ThreadPool threads_;
  Stream stream_;
  std::vector<std::unique_ptr<Block>> blocks_;
  size_t current_ = 0;
  int64_t used_bytes_ = 0;  // of the current block, a multiple of kAlignment
};

}  // namespace deepflight
