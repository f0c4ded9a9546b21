// Slices, dealt out to the lanes as they come free.
#include "compute/cuda/runtime/uploader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace deepflight {

Uploader::Uploader(int num_threads, int64_t slice_bytes, int blocks_per_thread)
    : slice_bytes_(slice_bytes), blocks_per_thread_(blocks_per_thread), threads_(num_threads) {
  CHECK(slice_bytes > 0 && slice_bytes % 256 == 0 && blocks_per_thread > 0, slice_bytes,
        blocks_per_thread);
  CUDA_CHECK(cudaGetDevice(&device_));
}

void Uploader::copy(void* device, const void* source, int64_t size_bytes) {
  const Piece piece{.device = device, .source = source, .size_bytes = size_bytes, .produce = {}};
  copy({&piece, 1});
}

void Uploader::copy(void* device, int64_t size_bytes, Produce produce) {
  const Piece piece{
      .device = device, .source = nullptr, .size_bytes = size_bytes, .produce = std::move(produce)};
  copy({&piece, 1});
}

void Uploader::copy(std::span<const Piece> pieces) {
  std::vector<Slice> slices;
  for (const Piece& piece : pieces) {
    for (int64_t begin = 0; begin < piece.size_bytes; begin += slice_bytes_) {
      slices.push_back({&piece, begin, std::min(slice_bytes_, piece.size_bytes - begin)});
    }
  }
  lanes_.resize(static_cast<size_t>(threads_.num_threads()));
  std::atomic<size_t> next{0};
  const auto num_lanes = std::min(lanes_.size(), slices.size());
  threads_.parallel_for(static_cast<int64_t>(num_lanes), [&](int64_t lane) {
    CUDA_CHECK(cudaSetDevice(device_));
    for (size_t i = next.fetch_add(1); i < slices.size(); i = next.fetch_add(1)) {
      send(lanes_[static_cast<size_t>(lane)], slices[i]);
    }
  });
}

void Uploader::send(Lane& lane, const Slice& slice) {
  if (lane.next == lane.blocks.size() &&
      lane.blocks.size() < static_cast<size_t>(blocks_per_thread_)) {
    lane.blocks.push_back(std::make_unique<Block>());
    lane.blocks.back()->memory = allocate_pinned(slice_bytes_);
  }
  lane.next %= lane.blocks.size();
  Block& block = *lane.blocks[lane.next++];
  block.sent.wait();
  char* to = static_cast<char*>(block.memory.data());
  const Piece& piece = *slice.piece;
  if (piece.source != nullptr) {
    std::memcpy(to, static_cast<const char*>(piece.source) + slice.begin,
                static_cast<size_t>(slice.count));
  } else {
    piece.produce(slice.begin, slice.count, to);
  }
  CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(piece.device) + slice.begin, to,
                             static_cast<size_t>(slice.count), cudaMemcpyHostToDevice,
                             stream_.get()));
  block.sent.record(stream_);
}

void Uploader::finish() { stream_.synchronize(); }

}  // namespace deepflight
