// The copying half of the tensor core kernel: its shared memory, and the warps that fill it with
// pages and queries. Pages come box by box (64 columns), each with its own barrier, so that scores
// begin with the first. Included by attend_wgmma.cu alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_bf16.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 384;
constexpr int kSharedBytes = kStatsOffset + 6 * kTileRows * 4 + 1024;  // and room to align

struct Params {
  CUtensorMap pool;  // [page][64][576], boxes of 64 x 64
  Inputs in;
};

// Shared memory addresses. A half is 4 boxes of a page; the box of rope, and of weights later, is
// freed with the half that the other warpgroup uses.
struct Shared {
  uint32_t base;
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t page(int odd) const { return base + (1 + odd) * kPageBytes; }
  __device__ uint32_t weights(int odd) const { return page(odd) + kRopeBox * kBoxBytes; }
  __device__ uint32_t full(int odd, int box) const {
    return base + kBarrierOffset + (odd * kBoxes + box) * 8;
  }
  __device__ uint32_t empty(int odd, int half) const {
    return base + kBarrierOffset + (2 * kBoxes + odd * 2 + half) * 8;
  }
  __device__ uint32_t query_full() const { return base + kBarrierOffset + (2 * kBoxes + 4) * 8; }
  __device__ uint32_t query_empty() const { return query_full() + 8; }
  __device__ uint32_t offsets(int odd) const { return base + kStatsOffset + odd * kTileRows * 4; }
  __device__ uint32_t sums(int half, int turn) const {
    return base + kStatsOffset + (2 + 2 * turn + half) * kTileRows * 4;
  }
};

// The k-th box of a page in the order in which they become free and are used.
__device__ inline int box_in_order(int odd, int k) {
  return k == kRopeBox ? k : k ^ odd * kHalfBoxes;
}

// One warp: the pages.
__device__ inline void load_pages(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t parities = 3;  // a bit for each of the two pages
  Segments segments(p.in);
  Segment segment;
  const auto load_boxes = [&](int odd, int first, int end, int page) {
#pragma unroll 1
    for (int k = first; k < end; ++k) {
      const int box = box_in_order(odd, k);
      const uint32_t barrier = shared.full(odd, box);
      barrier_arrive_expect(barrier, kBoxBytes);
      load_box(shared.page(odd) + box * kBoxBytes, &p.pool, barrier, box * 64, 0, page);
    }
  };
  while (segments.next(segment)) {
    const int32_t* table = p.in.page_table +
                           int64_t{max(segment.slot_id, 0)} * p.in.page_table_stride +
                           segment.first_page;
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
        barrier_wait(shared.empty(odd, odd), parity);
        load_boxes(odd, 0, kHalfBoxes, page);
        barrier_wait(shared.empty(odd, 1 - odd), parity);
        load_boxes(odd, kHalfBoxes, kBoxes, page);
      }
      __syncwarp();
    }
  }
}

// Three warps: a segment's queries, swizzled; rows past the end become zeros.
__device__ inline void load_queries(const Inputs& in, const Shared& shared,
                                    const Segment& segment) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup - 32;
  // Eight threads read 128 bytes of a row; a step of 12 rows.
  const int column = thread % 8;
#pragma unroll 1
  for (int row = thread / 8; row < kTileRows; row += kOtherWarps * 4) {
    const int packed = segment.first_row() + row;
    const int token = packed / in.num_heads, head = packed - token * in.num_heads;
    const bool valid = token < segment.num_queries;
    const __nv_bfloat16* source = valid
                                      ? in.q + int64_t{segment.first_token + token} * in.q_stride +
                                            head * in.q_head_stride + column * 8
                                      : in.q;
    const uint32_t target = shared.query() + row * 128 + ((column ^ (row & 7)) << 4);
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      cp_async_16(target + box * kBoxBytes, source + (valid ? box * 64 : 0), valid);
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
  async_proxy_fence();
  __syncwarp();
  if (elect_lane()) barrier_arrive(shared.query_full());
}

// Three warps: the queries of every segment.
__device__ inline void load_queries(const Params& p, const Shared& shared) {
  uint32_t query_parity = 1;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    barrier_wait(shared.query_empty(), query_parity);
    query_parity ^= 1;
    load_queries(p.in, shared, segment);
  }
}

}  // namespace deepflight::cuda_mla_decode
