// Uploader: weights from a mapped file to the device, as fast as the slower of disk and PCIe. Each
// thread takes a slice, writes it to one of its own pinned blocks (that is where a file is read and
// where formats are converted), sends it off and takes the next: nothing waits but for a block that
// is still on its way. Used by packing.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"

namespace deepflight {

class Uploader {
 public:
  static constexpr int64_t kSliceBytes = int64_t{1} << 20;  // what a core keeps in its cache
  static constexpr int kBlocksPerThread = 3;

  // Writes bytes [begin, begin + count) of what goes to the device to `to`. Called on several
  // threads at once; `begin` is a multiple of 256.
  using Produce = std::function<void(int64_t begin, int64_t count, char* to)>;

  struct Piece {
    void* device = nullptr;
    const void* source = nullptr;  // of what is copied as it is; else null
    int64_t size_bytes = 0;
    Produce produce;  // without a source
  };

  // For the device that is current now. The pinned blocks are allocated at the first copy.
  explicit Uploader(int num_threads, int64_t slice_bytes = kSliceBytes,
                    int blocks_per_thread = kBlocksPerThread);

  // On return the sources are no longer needed; the device has the bytes once finish() has
  // returned, or, on stream(), from here on. Many pieces in one call are faster than one by one.
  void copy(std::span<const Piece> pieces);
  void copy(void* device, const void* source, int64_t size_bytes);
  void copy(void* device, int64_t size_bytes, Produce produce);
  void finish();

  const Stream& stream() const { return stream_; }

 private:
  struct Block {
    Buffer memory;
    Event sent;  // its last copy to the device
  };
  // The blocks of one thread, which takes turns on them.
  struct Lane {
    std::vector<std::unique_ptr<Block>> blocks;
    size_t next = 0;
  };
  struct Slice {
    const Piece* piece;
    int64_t begin;
    int64_t count;
  };

  void send(Lane& lane, const Slice& slice);

  const int64_t slice_bytes_;
  const int blocks_per_thread_;
  int device_ = 0;
  ThreadPool threads_;
  Stream stream_;
  std::vector<Lane> lanes_;
};

}  // namespace deepflight
