// The 16-bit kernel's shared memory, and the two warps that fill it with BF16 pages and queries by
// the copy engine. Included by load_group.cuh alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_16bit.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
// Parts in which a page comes, in the order of its boxes: waiting for each of nine makes a step up
// to 5 % longer.
constexpr int kParts = 2;
__device__ inline constexpr int part_of(int k) { return k < kHalfBoxes ? 0 : 1; }
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 128;
constexpr int kSharedBytes = kStatsOffset + 6 * kTileRows * 4 + 1024;  // to align too

// Two warpgroups multiply, a warp copies pages, another queries.
constexpr int kThreads = 3 * kWarpgroup;

struct Params {
  CUtensorMap pool;     // [page][64][token], boxes of 64 x 64; of e4m3 groups the rope's alone
  CUtensorMap queries;  // [token, head][576], boxes of 64 x 64
  Inputs in;
  const uint8_t* pages;  // of this layer, for e4m3 groups
  int64_t page_stride_bytes;
};

// Shared memory addresses. A half is 4 boxes of a page; the box of rope, and of weights later, is
// freed with the half that the other warpgroup uses.
struct Shared {
  uint32_t base;
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t page(int odd) const { return base + (1 + odd) * kPageBytes; }
  __device__ uint32_t weights(int odd) const { return page(odd) + kRopeBox * kBoxBytes; }
  __device__ uint32_t full(int odd, int part) const { return barrier(odd * kParts + part); }
  __device__ uint32_t empty(int odd, int half) const { return barrier(4 + odd * 2 + half); }
  __device__ uint32_t query_full() const { return barrier(8); }
  __device__ uint32_t query_empty() const { return barrier(9); }
  __device__ uint32_t query_raw() const { return barrier(10); }  // e4m3 groups: latents as BF16
  __device__ uint32_t offsets(int odd) const { return base + kStatsOffset + odd * kTileRows * 4; }
  __device__ uint32_t sums(int half, int turn) const {
    return base + kStatsOffset + (2 + 2 * turn + half) * kTileRows * 4;
  }

 private:
  __device__ uint32_t barrier(int index) const { return base + kBarrierOffset + index * 8; }
};

// The k-th box of a page in the order in which they become free and are used.
__device__ inline constexpr int box_in_order(int odd, int k) {
  return k == kRopeBox ? k : k ^ odd * kHalfBoxes;
}

// One warp: the pages, the settled ones before the kernel before this one has ended.
__device__ void load_pages(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint64_t policy = evict_first_policy();
  uint32_t parities = 3;  // a bit for each of the two pages
  Segments segments(p.in);
  Segment segment;
  const auto load_part = [&](int odd, int part, int page) {
    const int first = part * kHalfBoxes, end = part == 0 ? kHalfBoxes : kBoxes;
    barrier_arrive_expect(shared.full(odd, part), (end - first) * kBoxBytes);
#pragma unroll 1
    for (int k = first; k < end; ++k) {
      const int box = box_in_order(odd, k);
      load_box(shared.page(odd) + box * kBoxBytes, &p.pool, shared.full(odd, part), box * 64, 0,
               page, policy);
    }
  };
  while (segments.next(segment)) {
    const int32_t* table = segment.page_ids(p.in);
    int ids = lane < segment.num_pages ? table[lane] : 0, next_ids = 0;
#pragma unroll 1
    for (int i = 0; i < segment.num_pages; ++i) {
      if (i % 32 == 0) {
        if (i > 0) ids = next_ids;
        next_ids = i + 32 + lane < segment.num_pages ? table[i + 32 + lane] : 0;
      }
      const int page = __shfl_sync(0xffffffffu, ids, i % 32);
      if (elect_lane()) {
        const int odd = i % 2;
        const uint32_t parity = parities >> odd & 1;
        parities ^= 1u << odd;
        if (i >= segment.settled_pages()) wait_for_previous_kernel();
        barrier_wait(shared.empty(odd, odd), parity);
        load_part(odd, 0, page);
        barrier_wait(shared.empty(odd, 1 - odd), parity);
        load_part(odd, 1, page);
      }
      __syncwarp();
    }
  }
}

// One warp: the queries. Rows past a segment's end are another's, or zeros.
__device__ void load_queries(const Params& p, const Shared& shared) {
  uint32_t parity = 1;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    wait_for_previous_kernel();
    if (elect_lane()) {
      barrier_wait(shared.query_empty(), parity);
      barrier_arrive_expect(shared.query_full(), kPageBytes);
      const int row = segment.first_token * p.in.num_heads + segment.first_row();
#pragma unroll 1
      for (int box = 0; box < kBoxes; ++box) {
        load_box(shared.query() + box * kBoxBytes, &p.queries, shared.query_full(), box * 64, row);
      }
    }
    __syncwarp();
    parity ^= 1;
  }
}

}  // namespace deepflight::cuda_mla_decode
