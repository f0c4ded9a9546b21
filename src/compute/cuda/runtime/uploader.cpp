// The ring of pinned blocks.
#include "compute/cuda/runtime/uploader.h"

#include <algorithm>
#include <cstring>

namespace deepflight {

Uploader::Uploader(int num_threads) : threads_(num_threads) {
  for (int i = 0; i < kNumBlocks; ++i) {
    blocks_.push_back(std::make_unique<Block>());
    blocks_.back()->memory = allocate_pinned(kBlockBytes);
  }
}

void Uploader::copy(void* device, const void* source, int64_t size_bytes) {
  constexpr int64_t kSliceBytes = int64_t{1} << 20;  // of one thread's memcpy
  for (int64_t begin = 0; begin < size_bytes; begin += kBlockBytes) {
    Block& block = *blocks_[next_block_];
    next_block_ = (next_block_ + 1) % kNumBlocks;
    block.sent.wait();
    const int64_t count = std::min(kBlockBytes, size_bytes - begin);
    const char* from = static_cast<const char*>(source) + begin;
    char* to = static_cast<char*>(block.memory.data());
    const auto copy_slice = [&](int64_t slice) {
      const int64_t offset = slice * kSliceBytes;
      std::memcpy(to + offset, from + offset,
                  static_cast<size_t>(std::min(kSliceBytes, count - offset)));
    };
    const int64_t num_slices = (count + kSliceBytes - 1) / kSliceBytes;
    if (num_slices == 1) {
      copy_slice(0);
    } else {
      threads_.parallel_for(num_slices, copy_slice);
    }
    CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(device) + begin, to, static_cast<size_t>(count),
                               cudaMemcpyHostToDevice, stream_.get()));
    block.sent.record(stream_);
  }
}

void Uploader::finish() { stream_.synchronize(); }

}  // namespace deepflight
