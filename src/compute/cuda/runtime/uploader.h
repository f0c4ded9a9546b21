// Uploader: weights from a mapped file to the device, as fast as the slower of disk and PCIe. Host
// threads copy pieces of the source into a ring of pinned blocks (that is where the file is read),
// and each block goes to the device while the next ones fill.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"

namespace deepflight {

class Uploader {
 public:
  explicit Uploader(int num_threads);

  // Copies `size_bytes` to `device`. On return the source is no longer needed; the device has the
  // bytes once finish() has returned.
  void copy(void* device, const void* source, int64_t size_bytes);
  void finish();

 private:
  static constexpr int64_t kBlockBytes = int64_t{16} << 20;
  static constexpr int kNumBlocks = 4;

  struct Block {
    Buffer memory;
    Event sent;  // its last copy to the device
  };

  ThreadPool threads_;
  Stream stream_;
  std::vector<std::unique_ptr<Block>> blocks_;
  int next_block_ = 0;
};

}  // namespace deepflight
