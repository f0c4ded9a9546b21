// Tiles handed out as blocks become free, where they differ in length (groups of rows): those that
// run at a time are neighbours then, and what they share they find in L2. One thread of a cluster
// draws their numbers from a counter in device memory and passes them on to all that walk the tiles
// in its blocks.
#pragma once

#include "compute/cuda/kernels/gemm/ring.cuh"
#include "compute/cuda/kernels/gemm/schedule.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"

namespace deepflight::gemm_fp8 {

using namespace device;  // NOLINT: headers of this kernel

// Two places for numbers in the shared memory of each block of the cluster. A number's highest bit
// tells whether its place has been used an even or an odd number of times, so whoever waits for it
// needs no barrier and cannot take an older one. (A barrier that counted the bytes of st.async,
// waited for as the block's own, let through warps to which the place still showed the number
// before: once in some 25,000 launches.) Barriers in the first block's shared memory tell that all
// have taken a place's number.
template <Config kConfig>
class Feed {
 public:
  enum : int {
    kSlots = 2,
    // The warps that multiply and the thread of the scales in each block, and the copying threads
    // of the others.
    kTakers = kConfig.cluster() * (kConfig.warpgroups * 4 + 1) + kConfig.cluster() - 1
  };

  __device__ explicit Feed(const Shared<kConfig>& shared) : base_(shared.base) {}

  __device__ static void start(const Shared<kConfig>& shared) {
    const Feed feed(shared);
    for (int slot = 0; slot < kSlots; ++slot) {
      store_shared_word(feed.place(slot), kOdd);
      barrier_init(feed.empty(slot), kTakers);
    }
  }

  // The copying thread of the first block: to all blocks.
  __device__ __forceinline__ void publish(int number) {
    barrier_wait(empty(slot_), parity_ ^ 1);
    const uint32_t word = static_cast<uint32_t>(number) | (parity_ != 0 ? kOdd : 0);
    if constexpr (kConfig.cluster() == 1) {
      store_shared_word(place(slot_), word);
    } else {
#pragma unroll
      for (int rank = 0; rank < kConfig.cluster(); ++rank) {
        store_cluster_word(address_in_block(place(slot_), rank), word);
      }
    }
    advance();
  }

  // The same, behind the last number: until all blocks have taken it. Their arrivals must find this
  // block's barriers, so it may not end before.
  __device__ __forceinline__ void drain() {
    for (int i = 0; i < kSlots; ++i) {
      barrier_wait(empty(slot_), parity_ ^ 1);
      advance();
    }
  }

  __device__ __forceinline__ int take_by_thread() {
    const uint32_t word = wait_for_word(place(slot_), parity_);
    arrive_empty();
    advance();
    return static_cast<int>(word & ~kOdd);
  }

  __device__ __forceinline__ int take_by_warp() {
    // The same for all lanes, as the compiler then knows.
    const uint32_t word = __shfl_sync(0xffffffffu, wait_for_word(place(slot_), parity_), 0);
    if (threadIdx.x % 32 == 0) arrive_empty();
    advance();
    return static_cast<int>(word & ~kOdd);
  }

 private:
  enum : uint32_t { kOdd = 1u << 31 };

  __device__ uint32_t empty(int slot) const { return base_ + Shared<kConfig>::kFeed + slot * 8; }
  __device__ uint32_t place(int slot) const {
    return base_ + Shared<kConfig>::kFeed + kSlots * 8 + slot * 4;
  }
  __device__ __forceinline__ void arrive_empty() const {
    if constexpr (kConfig.cluster() == 1) {
      barrier_arrive(empty(slot_));
    } else {
      cluster_barrier_arrive(address_in_block(empty(slot_), 0));
    }
  }
  __device__ __forceinline__ void advance() {
    if (++slot_ == kSlots) {
      slot_ = 0;
      parity_ ^= 1;
    }
  }

  uint32_t base_;
  int slot_ = 0;
  uint32_t parity_ = 0;
};

// The tiles of a block one after the other, for a warp or a thread that only follows.
template <Config kConfig, bool kWarp>
class Tiles {
 public:
  __device__ Tiles(const Params& p, const Shared<kConfig>& shared, const int32_t* before)
      : schedule(p, before), feed_(shared) {}
  __device__ __forceinline__ bool next(Tile& tile) {
    if constexpr (kConfig.grouped) {
      return schedule.locate(kWarp ? feed_.take_by_warp() : feed_.take_by_thread(), tile);
    } else {
      return schedule.next(tile);
    }
  }

  Schedule<kConfig> schedule;

 private:
  Feed<kConfig> feed_;
};

// The same for the copying thread, which hands them out.
template <Config kConfig>
class TileSource {
 public:
  __device__ TileSource(const Params& p, const Shared<kConfig>& shared, const int32_t* before)
      : schedule(p, before), p_(p), feed_(shared), number_(schedule.first()) {}
  __device__ __forceinline__ bool next(Tile& tile) {
    if constexpr (!kConfig.grouped) {
      return schedule.next(tile);
    } else if (kConfig.cluster() > 1 && schedule.rank() > 0) {
      return schedule.locate(feed_.take_by_thread(), tile);
    } else {
      feed_.publish(number_);
      if (!schedule.locate(number_, tile)) return false;
      // Of the next tile: it comes while this one is copied. Every tile draws one number, so
      // whoever draws the last leaves the counter as it was found.
      const int drawn = atomicAdd(p_.next_tile, 1);
      if (drawn == schedule.num_tiles() - 1) *p_.next_tile = 0;
      number_ = drawn + schedule.num_clusters();
      return true;
    }
  }
  // Behind the last tile.
  __device__ __forceinline__ void drain() {
    if (kConfig.grouped && kConfig.cluster() > 1 && schedule.rank() == 0) feed_.drain();
  }

  Schedule<kConfig> schedule;

 private:
  const Params& p_;
  Feed<kConfig> feed_;
  int number_;
};

}  // namespace deepflight::gemm_fp8
