// The ring of pinned blocks.
#include "compute/cuda/runtime/uploader.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace deepflight {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kSliceBytes = int64_t{1} << 20;  // that one thread writes at a time

}  // namespace

Uploader::Uploader(int num_threads, int64_t block_bytes, int num_blocks)
    : block_bytes_(block_bytes), num_blocks_(num_blocks), threads_(num_threads) {
  CHECK(block_bytes > 0 && block_bytes % kAlignment == 0 && num_blocks > 0, block_bytes,
        num_blocks);
}

Uploader::Block& Uploader::block_with_room() {
  if (blocks_.empty()) {
    for (int i = 0; i < num_blocks_; ++i) {
      blocks_.push_back(std::make_unique<Block>());
      blocks_.back()->memory = allocate_pinned(block_bytes_);
    }
  } else if (used_bytes_ == block_bytes_) {
    blocks_[current_]->sent.record(stream_);
    current_ = (current_ + 1) % blocks_.size();
    blocks_[current_]->sent.wait();
    used_bytes_ = 0;
  }
  return *blocks_[current_];
}

void Uploader::copy(void* device, const void* source, int64_t size_bytes) {
  copy(device, size_bytes, [source](int64_t begin, int64_t count, char* to) {
    std::memcpy(to, static_cast<const char*>(source) + begin, static_cast<size_t>(count));
  });
}

void Uploader::copy(void* device, int64_t size_bytes, const Produce& produce) {
  for (int64_t begin = 0; begin < size_bytes;) {
    const Block& block = block_with_room();
    char* to = static_cast<char*>(block.memory.data()) + used_bytes_;
    const int64_t count = std::min(block_bytes_ - used_bytes_, size_bytes - begin);
    threads_.parallel_for((count + kSliceBytes - 1) / kSliceBytes, [&](int64_t slice) {
      const int64_t offset = slice * kSliceBytes;
      produce(begin + offset, std::min(kSliceBytes, count - offset), to + offset);
    });
    CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(device) + begin, to, static_cast<size_t>(count),
                               cudaMemcpyHostToDevice, stream_.get()));
    begin += count;
    used_bytes_ =
        std::min(block_bytes_, (used_bytes_ + count + kAlignment - 1) / kAlignment * kAlignment);
  }
}

void Uploader::finish() { stream_.synchronize(); }

}  // namespace deepflight
