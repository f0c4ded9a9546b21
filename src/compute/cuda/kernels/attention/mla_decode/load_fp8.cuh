// The e4m3 kernel's shared memory, the warp that brings pages into a ring by the copy engine, and
// the copies of queries. Included by tile_fp8.cuh alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"
#include "compute/cuda/primitives/cluster.cuh"

namespace deepflight::cuda_mla_decode {

// A page, and the queries: four boxes of 64 rows of 128 columns, and one of rope, 64 columns wide.
constexpr int kFp8RopeOffset = 4 * kBoxBytes;
constexpr int kFp8PageBytes = kFp8RopeOffset + kBoxBytes / 2;
constexpr int kStages = 5;
constexpr uint16_t kBoth = 3;  // blocks of a pair

struct Fp8Params {
  CUtensorMap wide, narrow;                  // [page][64][576], boxes 128 and 64 columns wide
  CUtensorMap wide_queries, narrow_queries;  // [token, head][576], the same boxes
  const float* query_scales;                 // [token, head]
  Inputs in;
};

// Shared memory addresses: queries, the ring, barriers, and what is known of rows.
struct Fp8Shared {
  // Of so many segments more is known than pages: one that is told ahead of the one that is
  // weighed, and as many as a ring may hold that are not summed.
  static constexpr int kTurns = kStages + 2;
  static constexpr int kOnes = (1 + kStages) * kFp8PageBytes;
  static constexpr int kBarriers = kOnes + 8 * 64;
  static constexpr int kRows = kBarriers + (7 * kStages + 3 * kTurns + 4) * 8;
  static constexpr int kRowBytes = kTileRows * 4;
  static constexpr int kFactors = kRows + (4 + 2 * kTurns) * kRowBytes;
  static constexpr int kFactorBytes = kRowBytes + 16;
  static constexpr int kTold = kFactors + kStages * kFactorBytes;
  static constexpr int kResults = kTold + kTurns * 32;
  static constexpr int kBytes = kResults + kTurns * kTileRows * 8;
  static_assert(kRows % 16 == 0 && kBytes <= 227 * 1024);

  uint32_t base;
  __device__ uint32_t query() const { return base; }
  static constexpr int page_offset(int stage) { return (1 + stage) * kFp8PageBytes; }
  __device__ uint32_t page(int stage) const { return base + page_offset(stage); }
  // Of a page's weights, where its rope was: [64 rows][64 keys].
  __device__ uint32_t weights(int stage) const { return page(stage) + kFp8RopeOffset; }
  // In a pair, whose blocks sum half of the columns each (boxes 2 rank and 2 rank + 1), once a
  // page's scores are taken: the other block's weights, in the half that this one does not sum, and
  // behind them its factors().
  static constexpr int incoming_offset(int rank) { return (1 - rank) * 2 * kBoxBytes; }
  __device__ uint32_t incoming(int stage, int rank) const {
    return page(stage) + incoming_offset(rank);
  }
  static constexpr int kWeightBytes = kBoxBytes / 2;
  static constexpr int kIncomingBytes = kWeightBytes + kFactorBytes;
  // Eight rows of 64, e4m3.
  __device__ uint32_t ones() const { return base + kOnes; }

  // Barriers of a place: it has come, and is free.
  __device__ uint32_t full(int stage) const { return barrier(stage); }
  __device__ uint32_t empty(int stage) const { return barrier(kStages + stage); }
  // The page has its weights: stored, and then as products see them.
  __device__ uint32_t stored(int stage) const { return barrier(2 * kStages + stage); }
  __device__ uint32_t weighed(int stage) const { return barrier(3 * kStages + stage); }
  // The other block of a pair has room in this place.
  __device__ uint32_t ready(int stage) const { return barrier(4 * kStages + stage); }
  // It has taken the page's scores, and its weights have come.
  __device__ uint32_t room(int stage) const { return barrier(5 * kStages + stage); }
  __device__ uint32_t come(int stage) const { return barrier(6 * kStages + stage); }
  // Of a segment: all may know what it is, and its weights are summed, the other block's too.
  __device__ uint32_t told(int turn) const { return barrier(7 * kStages + turn); }
  __device__ uint32_t counted(int turn) const { return barrier(7 * kStages + kTurns + turn); }
  __device__ uint32_t other_counted(int turn) const {
    return barrier(7 * kStages + 2 * kTurns + turn);
  }
  // All warps that weigh have a page's scores, so that its rope is free.
  __device__ uint32_t rope_read() const { return barrier(7 * kStages + 3 * kTurns); }
  // The queries have come, and no score wants them any more.
  __device__ uint32_t query_full() const { return barrier(7 * kStages + 3 * kTurns + 1); }
  __device__ uint32_t query_read() const { return barrier(7 * kStages + 3 * kTurns + 2); }

  // Of rows of a segment, every other in the same place: what scales the queries, at its end log2
  // of their sums of exponentials in the same place, and the first key, counted from its first
  // page's, that they do not see.
  __device__ uint32_t query_scales(uint32_t odd) const { return rows(static_cast<int>(odd)); }
  __device__ uint32_t limits(uint32_t odd) const { return rows(2 + static_cast<int>(odd)); }
  __device__ uint32_t lses(uint32_t odd) const { return query_scales(odd); }
  // By which rows' offsets moved at this page; behind them (moved_of) four bytes, one a warp: not
  // zero if a factor is not one.
  __device__ uint32_t factors(int stage) const { return base + kFactors + stage * kFactorBytes; }
  static __device__ uint32_t moved_of(uint32_t factors) { return factors + kRowBytes; }
  // Of a segment's rows: by what sums become results, and where they go. `other`: rows of a pair's
  // other block.
  __device__ uint32_t result_factors(int turn, bool other = false) const {
    return rows(4 + (other ? kTurns : 0) + turn);
  }
  __device__ uint32_t result_rows(int turn) const { return base + kResults + turn * kTileRows * 8; }

  // What a segment is. No pages: there are no more segments. Keys are counted from the first
  // page's; all rows see those before `least`. Results of a pair's other block lie so many bytes
  // after this one's.
  struct Told {
    int num_pages, num_keys, least, first_key, is_partial, unused;
    int64_t to_other;
  };
  __device__ void tell(int turn, const Told& what) const {
    const uint32_t at = base + kTold + turn * 32;
    store_shared_vector(at, reinterpret_cast<const uint4*>(&what)[0]);
    store_shared_vector(at + 16, reinterpret_cast<const uint4*>(&what)[1]);
  }
  __device__ Told told_of(int turn) const {
    const uint32_t at = base + kTold + turn * 32;
    const uint4 bits[2] = {load_shared_vector(at), load_shared_vector(at + 16)};
    return reinterpret_cast<const Told&>(bits);
  }

 private:
  __device__ uint32_t barrier(int index) const { return base + kBarriers + index * 8; }
  __device__ uint32_t rows(int index) const { return base + kRows + index * kRowBytes; }
};

// The next of kCount things in turn, and the parity of its barriers.
template <int kCount>
struct Cycle {
  int index = 0;
  uint32_t parity = 0;
  __device__ Cycle next(int count = 1) const {  // count <= kCount
    const bool wraps = index + count >= kCount;
    return {wraps ? index + count - kCount : index + count, wraps ? parity ^ 1 : parity};
  }
  __device__ int last() const { return (index == 0 ? kCount : index) - 1; }
};
using Stage = Cycle<kStages>;           // a place in the ring
using Turn = Cycle<Fp8Shared::kTurns>;  // a segment that has pages

// Brings pages; of a pair's blocks, which walk the same ones, each brings half of their boxes to
// both, once both have room.
template <bool kPair>
struct PageLoader {
  const Fp8Params& p;
  const Fp8Shared& shared;
  const Fp8Shared& other;  // of the pair
  const int rank;
  const uint64_t once = evict_first_policy();

  // `alone`: L2 need not keep it.
  __device__ void load(int page, const Stage& stage, bool alone) const {
    const uint32_t full = shared.full(stage.index), target = shared.page(stage.index);
    barrier_sleep(shared.empty(stage.index), stage.parity ^ 1);
    barrier_arrive_expect(full, kFp8PageBytes);
    if (kPair) {
      cluster_barrier_arrive(other.ready(stage.index));
      barrier_sleep(shared.ready(stage.index), stage.parity);
    }
    const auto load_boxes = [&](auto... policy) {
      const auto load = [&](const CUtensorMap& map, int column, int offset) {
        if constexpr (kPair) {
          load_box_multicast(target + offset, &map, full, column, 0, page, kBoth, policy...);
        } else {
          load_box(target + offset, &map, full, column, 0, page, policy...);
        }
      };
#pragma unroll
      for (int i = 0; i < (kPair ? 2 : 4); ++i) {
        const int box = rank * 2 + i;
        load(p.wide, box * 128, box * kBoxBytes);
      }
      if (!kPair || rank == 1) load(p.narrow, 512, kFp8RopeOffset);
    };
    if (alone) {
      load_boxes(once);
    } else {
      load_boxes();
    }
  }
};

// One warp: the pages. As many settled ones as the ring holds come before the kernel before this
// one has ended.
template <bool kPair>
__device__ inline void load_ring(const Fp8Params& p, const Fp8Shared& shared,
                                 const Fp8Shared& other, int rank) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Stage stage;
  const PageLoader<kPair> loader{p, shared, other, rank};
  bool begins = true;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    const int32_t* table = segment.page_ids(p.in);
    int ids = lane < segment.num_pages ? table[lane] : 0, next_ids = 0;
    if (segment.num_pages == 0) continue;
    // No block of another tile, or pair, wants the pages: L2 need not keep them (else 2 to 5 %
    // longer).
    const bool alone = segment.num_queries * p.in.num_heads <= kTileRows * (kPair ? 2 : 1);
    const int early = begins ? max(segment.settled_pages(), 0) : 0;
    begins = false;
#pragma unroll 1
    for (int i = 0; i < segment.num_pages; ++i, stage = stage.next()) {
      if (i == early) wait_for_previous_kernel();
      if (i % 32 == 0) {
        if (i > 0) ids = next_ids;
        next_ids = i + 32 + lane < segment.num_pages ? table[i + 32 + lane] : 0;
      }
      const int page = __shfl_sync(0xffffffffu, ids, i % 32);
      if (elect_lane()) loader.load(page, stage, alone);
      __syncwarp();
    }
  }
}

// One warp: the queries, as soon as there is room. Rows past a segment's end are another's, or
// zeros.
__device__ inline void load_queries(const Fp8Params& p, const Fp8Shared& shared) {
  const uint32_t full = shared.query_full();
  uint32_t parity = 1;
  Segments segments(p.in);
  Segment segment;
#pragma unroll 1
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    wait_for_previous_kernel();
    barrier_sleep(shared.query_read(), parity);
    if (elect_lane()) {
      const int row = segment.first_token * p.in.num_heads + segment.first_row();
      barrier_arrive_expect(full, kFp8PageBytes);
#pragma unroll
      for (int box = 0; box < 4; ++box) {
        load_box(shared.query() + box * kBoxBytes, &p.wide_queries, full, box * 128, row);
      }
      load_box(shared.query() + kFp8RopeOffset, &p.narrow_queries, full, 512, row);
    }
    __syncwarp();
    parity ^= 1;
  }
}

}  // namespace deepflight::cuda_mla_decode
