// The e4m3 kernel's shared memory, the warp that brings queries and pages into a ring by the copy
// engine, and the rounding of queries to e4m3, each row with a scale of its own. Included by
// tile_fp8.cuh alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"
#include "compute/cuda/primitives/cluster.cuh"
#include "compute/cuda/primitives/ld_st.cuh"

namespace deepflight::cuda_mla_decode {

// A page, and the queries: four boxes of 64 rows of 128 columns, and one of rope, 64 columns wide.
constexpr int kFp8RopeOffset = 4 * kBoxBytes;
constexpr int kFp8PageBytes = kFp8RopeOffset + kBoxBytes / 2;
constexpr int kStages = 5;
constexpr int kEarlyPages = 2;  // that come ahead of the queries
// Queries come through the ring too, as BF16: so many rows are as large as a page.
constexpr int kQueryRows = kTileRows / 2;
constexpr int kQueryBytes = kTokenDim * 2;
static_assert(kQueryRows * kQueryBytes == kFp8PageBytes);

struct Fp8Params {
  CUtensorMap wide, narrow;  // [page][64][576], boxes 128 and 64 columns wide
  Inputs in;
};

// Shared memory addresses: queries, the ring, barriers, and what is known of rows.
struct Fp8Shared {
  static constexpr int kBarriers = (1 + kStages) * kFp8PageBytes;
  static constexpr int kRows = kBarriers + 256;
  static constexpr int kRowBytes = kTileRows * 4;
  static constexpr int kTurns = 4;  // of so many segments; a ring holds three
  static constexpr int kMoved = kRows + (1 + kStages + 2 * kTurns) * kRowBytes;
  static constexpr int kBytes = kMoved + kStages * 4 + 1024;  // and room to align

  uint32_t base;
  __device__ uint32_t query() const { return base; }
  static constexpr int page_offset(int stage) { return (1 + stage) * kFp8PageBytes; }
  __device__ uint32_t page(int stage) const { return base + page_offset(stage); }
  // Of a page's weights, where its rope was: [64 rows][64 keys].
  __device__ uint32_t weights(int stage) const { return page(stage) + kFp8RopeOffset; }
  __device__ uint32_t full(int stage) const { return base + kBarriers + stage * 8; }
  __device__ uint32_t empty(int stage) const { return base + kBarriers + (kStages + stage) * 8; }
  // The page has its weights; completes for places of queries too, to stay in step.
  __device__ uint32_t weighed(int stage) const {
    return base + kBarriers + (2 * kStages + stage) * 8;
  }
  // The other block of a pair has room in this place.
  __device__ uint32_t ready(int stage) const {
    return base + kBarriers + (3 * kStages + kTurns + stage) * 8;
  }
  // The segment's sums are known.
  __device__ uint32_t counted(int turn) const {
    return base + kBarriers + (3 * kStages + turn) * 8;
  }
  __device__ uint32_t query_scales() const { return base + kRows; }
  // By which rows' offsets moved at this page. moved(): four bytes, one a warp: not zero if a
  // factor is not one.
  __device__ uint32_t factors(int stage) const { return base + kRows + (1 + stage) * kRowBytes; }
  __device__ uint32_t moved(int stage) const { return base + kMoved + stage * 4; }
  // Of a segment's rows.
  __device__ uint32_t sums(int turn) const {
    return base + kRows + (1 + kStages + turn) * kRowBytes;
  }
  __device__ uint32_t offsets(int turn) const {
    return base + kRows + (1 + kStages + kTurns + turn) * kRowBytes;
  }
};

// A place in the ring. A segment that has pages takes its queries' places, then its pages'.
struct Stage {
  int index = 0;
  uint32_t parity = 0;
  __device__ Stage next(int count = 1) const {  // count <= kStages
    const bool wraps = index + count >= kStages;
    return {wraps ? index + count - kStages : index + count, wraps ? parity ^ 1 : parity};
  }
};

__device__ inline int num_rows(const Inputs& in, const Segment& segment) {
  return min(segment.num_queries * in.num_heads - segment.first_row(), kTileRows);
}
__device__ inline int query_stages(const Inputs& in, const Segment& segment) {
  return num_rows(in, segment) > kQueryRows ? 2 : 1;
}

// A segment's queries, a row a lane.
__device__ inline Stage load_queries(const Inputs& in, const Fp8Shared& shared,
                                     const Segment& segment, Stage stage) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  static_assert(kQueryRows == 32);
#pragma unroll 1
  for (int rest = num_rows(in, segment), first = segment.first_row(); rest > 0;
       rest -= kQueryRows, first += kQueryRows) {
    const uint32_t full = shared.full(stage.index);
    barrier_wait(shared.empty(stage.index), stage.parity ^ 1);
    if (elect_lane()) barrier_arrive_expect(full, min(rest, kQueryRows) * kQueryBytes);
    __syncwarp();
    if (lane < rest) {
      const int token = (first + lane) / in.num_heads, head = first + lane - token * in.num_heads;
      load_bytes(
          shared.page(stage.index) + lane * kQueryBytes,
          in.q + int64_t{segment.first_token + token} * in.q_stride + head * in.q_head_stride,
          kQueryBytes, full);
    }
    stage = stage.next();
  }
  return stage;
}

// Half of a page's boxes for both blocks of a pair, which walk the same pages and bring the other
// half: once both have room. `turn`: the parity of the place's pages.
__device__ inline void load_page_for_both(const Fp8Params& p, const Fp8Shared& shared, int page,
                                          const Stage& stage, uint32_t turn) {
  const uint32_t full = shared.full(stage.index), target = shared.page(stage.index);
  const uint32_t ready = shared.ready(stage.index), rank = cluster_rank();
  constexpr uint16_t kBoth = 3;
  barrier_wait(shared.empty(stage.index), stage.parity ^ 1);
  barrier_arrive_expect(full, kFp8PageBytes);
  cluster_barrier_arrive(address_in_block(ready, rank ^ 1));
  barrier_wait(ready, turn);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int box = static_cast<int>(rank) * 2 + i;
    load_box_multicast(target + box * kBoxBytes, &p.wide, full, box * 128, 0, page, kBoth);
  }
  if (rank == 1) load_box_multicast(target + kFp8RopeOffset, &p.narrow, full, 512, 0, page, kBoth);
}

__device__ inline void load_page(const Fp8Params& p, const Fp8Shared& shared, int page,
                                 const Stage& stage, bool alone, uint64_t once) {
  const uint32_t full = shared.full(stage.index), target = shared.page(stage.index);
  barrier_wait(shared.empty(stage.index), stage.parity ^ 1);
  barrier_arrive_expect(full, kFp8PageBytes);
  const auto load_boxes = [&](auto... policy) {
#pragma unroll
    for (int box = 0; box < 4; ++box) {
      load_box(target + box * kBoxBytes, &p.wide, full, box * 128, 0, page, policy...);
    }
    load_box(target + kFp8RopeOffset, &p.narrow, full, 512, 0, page, policy...);
  };
  if (alone) {
    load_boxes(once);
  } else {
    load_boxes();
  }
}

// One warp: the queries and pages. The first settled pages, behind the queries in the ring, come
// before the kernel before this one has ended.
template <bool kPair>
__device__ inline void load_ring(const Fp8Params& p, const Fp8Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Stage stage;
  const uint64_t once = evict_first_policy();
  uint32_t turns = 0;  // parities of a pair's places, a bit each
  bool begins = true;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    const int32_t* table = p.in.page_table +
                           int64_t{max(segment.slot_id, 0)} * p.in.page_table_stride +
                           segment.first_page;
    int ids = lane < segment.num_pages ? table[lane] : 0, next_ids = 0;
    if (segment.num_pages == 0) continue;
    // No block of another tile wants the pages: L2 need not keep them (else 2 to 5 % longer).
    const bool alone = segment.num_queries * p.in.num_heads <= kTileRows;
    const auto load = [&](int page, const Stage& place) {
      if (kPair) {
        if (elect_lane()) {
          load_page_for_both(p, shared, page, place, turns >> place.index & 1);
        }
        turns ^= 1 << place.index;
      } else {
        if (elect_lane()) load_page(p, shared, page, place, alone, once);
      }
    };
    int early = 0;
    if (begins) {
      const int places = query_stages(p.in, segment);
      early = min(min(segment.settled_pages(), segment.num_pages), kEarlyPages);
      Stage ahead = stage.next(places);
#pragma unroll 1
      for (int i = 0; i < early; ++i, ahead = ahead.next()) {
        const int page = __shfl_sync(0xffffffffu, ids, i);
        load(page, ahead);
        __syncwarp();
      }
      begins = false;
    }
    wait_for_previous_kernel();
    stage = load_queries(p.in, shared, segment, stage);
#pragma unroll 1
    for (int i = 0; i < segment.num_pages; ++i) {
      if (i % 32 == 0) {
        if (i > 0) ids = next_ids;
        next_ids = i + 32 + lane < segment.num_pages ? table[i + 32 + lane] : 0;
      }
      const int page = __shfl_sync(0xffffffffu, ids, i % 32);
      if (i >= early) load(page, stage);
      __syncwarp();
      stage = stage.next();
    }
  }
}

// Eight BF16 values to e4m3.
__device__ inline uint2 round_8(const Bf16x8& values, float factor) {
  float2 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(values.pairs[i]);
    pairs[i] = make_float2(pair.x * factor, pair.y * factor);
  }
  return make_uint2(to_e4m3x4(pairs[0].x, pairs[0].y, pairs[1].x, pairs[1].y),
                    to_e4m3x4(pairs[2].x, pairs[2].y, pairs[3].x, pairs[3].y));
}

// Row `row` of the tile, BF16 at `source`, by eight neighbouring threads, `part` of them: 8 of each
// 64 columns.
__device__ inline void round_query(const Fp8Shared& shared, uint32_t source, int row, int part,
                                   bool valid) {
  Bf16x8 values[9];
  __nv_bfloat162 largest[4];
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    values[i] = {};
    if (valid) {
      const uint4 bits = load_shared_vector(source + part * 16 + i * 128);
      values[i] = reinterpret_cast<const Bf16x8&>(bits);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const __nv_bfloat162 found = __habs2(values[i].pairs[j]);
      largest[j] = i == 0 ? found : __hmax2(largest[j], found);  // of NaN and x: x
    }
  }
  largest[0] = __hmax2(__hmax2(largest[0], largest[1]), __hmax2(largest[2], largest[3]));
  float found = fmaxf(__low2float(largest[0]), __high2float(largest[0]));
#pragma unroll
  for (int i = 1; i < 8; i *= 2) found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, i));
  found = fminf(fmaxf(found, 1e-30f), 3e38f);  // not 0: its scale times -inf were NaN
  const float factor = __fdiv_rn(448.0f, found);
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    const uint2 rounded = round_8(values[i], factor);
    const uint32_t target = i < 8 ? i / 2 * kBoxBytes + chunk_of_128(row, i % 2 * 4 + part / 2)
                                  : kFp8RopeOffset + chunk_of_64(row, part / 2);
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared.query() + target + part % 2 * 8),
                 "r"(rounded.x), "r"(rounded.y)
                 : "memory");
  }
  if (part == 0) store_shared(shared.query_scales() + row * 4, found * (1.0f / 448.0f));
}

// One warpgroup: a segment's queries out of the ring; rows past the end become zeros. Nobody may
// still use the last segment's.
__device__ inline Stage round_queries(const Inputs& in, const Fp8Shared& shared,
                                      const Segment& segment, Stage stage) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int end = num_rows(in, segment);
#pragma unroll 1
  for (int first = 0; first < kTileRows; first += kQueryRows) {
    const bool comes = first < end;
    if (comes) barrier_wait(shared.full(stage.index), stage.parity);
#pragma unroll 1
    for (int row = thread / 8; row < kQueryRows; row += kWarpgroup / 8) {
      round_query(shared, shared.page(stage.index) + row * kQueryBytes, first + row, thread % 8,
                  first + row < end);
    }
    if (!comes) continue;
    __syncwarp();
    if (thread % 32 == 0) {
      barrier_arrive(shared.weighed(stage.index));
      barrier_arrive(shared.empty(stage.index), 3);  // for all who read pages
    }
    stage = stage.next();
  }
  async_proxy_fence();
  named_sync<kWarpgroup>(kOwn);
  return stage;
}

}  // namespace deepflight::cuda_mla_decode
