// The e4m3 kernel's shared memory, the warp that brings queries and pages into a ring by the copy
// engine, and the rounding of queries to e4m3, each row with a scale of its own. Included by
// tile_fp8.cuh alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"
#include "compute/cuda/primitives/cluster.cuh"

namespace deepflight::cuda_mla_decode {

// A page, and the queries: four boxes of 64 rows of 128 columns, and one of rope, 64 columns wide.
constexpr int kFp8RopeOffset = 4 * kBoxBytes;
constexpr int kFp8PageBytes = kFp8RopeOffset + kBoxBytes / 2;
constexpr int kStages = 5;
constexpr uint16_t kBoth = 3;   // blocks of a pair
constexpr int kEarlyPages = 1;  // that come ahead of the queries
// Queries come through the ring too, as BF16: so many rows are as large as a page.
constexpr int kQueryRows = kTileRows / 2;
constexpr int kQueryColumns = 192;  // of a box, of three
static_assert(kQueryRows * kTokenDim * 2 == kFp8PageBytes);

struct Fp8Params {
  CUtensorMap wide, narrow;  // [page][64][576], boxes 128 and 64 columns wide
  CUtensorMap queries;       // [token, head][576], boxes of 32 x 192
  Inputs in;
};

// Shared memory addresses: queries, the ring, barriers, and what is known of rows.
struct Fp8Shared {
  static constexpr int kTurns = 4;  // of so many segments; a ring holds three
  static constexpr int kOnes = (1 + kStages) * kFp8PageBytes;
  static constexpr int kBarriers = kOnes + 8 * 64;
  static constexpr int kRows = kBarriers + 512;
  static_assert((5 * kStages + 2 * kTurns + 1) * 8 <= kRows - kBarriers);
  static constexpr int kRowBytes = kTileRows * 4;
  static constexpr int kMoved = kRows + (2 + kStages + 2 * kTurns) * kRowBytes;
  static constexpr int kTold = kMoved + 32;
  static_assert(kStages * 4 <= kTold - kMoved);
  static constexpr int kResults = kTold + kTurns * 16;
  static constexpr int kBytes = kResults + kTurns * kTileRows * 8 + 1024;  // and room to align

  uint32_t base;
  __device__ uint32_t query() const { return base; }
  static constexpr int page_offset(int stage) { return (1 + stage) * kFp8PageBytes; }
  __device__ uint32_t page(int stage) const { return base + page_offset(stage); }
  // Of a page's weights, where its rope was: [64 rows][64 keys].
  __device__ uint32_t weights(int stage) const { return page(stage) + kFp8RopeOffset; }
  // Eight rows of 64, e4m3.
  __device__ uint32_t ones() const { return base + kOnes; }

  // Barriers of a place: it has come, and is free.
  __device__ uint32_t full(int stage) const { return barrier(stage); }
  __device__ uint32_t empty(int stage) const { return barrier(kStages + stage); }
  // The page has its weights: stored, and then as products see them. Both complete for places of
  // queries too, to stay in step.
  __device__ uint32_t stored(int stage) const { return barrier(2 * kStages + stage); }
  __device__ uint32_t weighed(int stage) const { return barrier(3 * kStages + stage); }
  // The other block of a pair has room in this place.
  __device__ uint32_t ready(int stage) const { return barrier(4 * kStages + stage); }
  // Of a segment: those who sum may know what it is, and its weights are summed.
  __device__ uint32_t told(int turn) const { return barrier(5 * kStages + turn); }
  __device__ uint32_t counted(int turn) const { return barrier(5 * kStages + kTurns + turn); }
  // All warps that weigh have a page's scores, so that its rope is free.
  __device__ uint32_t rope_read() const { return barrier(5 * kStages + 2 * kTurns); }

  // Of rows of the segment that is weighed: what scales the rounded queries, and the first key,
  // counted from its first page's, that they do not see.
  __device__ uint32_t query_scales() const { return rows(0); }
  __device__ uint32_t limits() const { return rows(1); }
  // By which rows' offsets moved at this page. moved(): four bytes, one a warp: not zero if a
  // factor is not one.
  __device__ uint32_t factors(int stage) const { return rows(2 + stage); }
  __device__ uint32_t moved(int stage) const { return base + kMoved + stage * 4; }
  // Of a segment's rows: by what sums become results, and log2 of their sums of exponentials.
  __device__ uint32_t result_factors(int turn) const { return rows(2 + kStages + turn); }
  __device__ uint32_t lses(int turn) const { return rows(2 + kStages + kTurns + turn); }
  // Where they go.
  __device__ uint32_t result_rows(int turn) const { return base + kResults + turn * kTileRows * 8; }

  // What those who sum know of a segment. No pages: there are no more segments.
  struct Told {
    int num_pages, num_keys, query_places, is_partial;
  };
  __device__ void tell(int turn, const Told& what) const {
    store_shared_vector(base + kTold + turn * 16, reinterpret_cast<const uint4&>(what));
  }
  __device__ Told told_of(int turn) const {
    const uint4 bits = load_shared_vector(base + kTold + turn * 16);
    return reinterpret_cast<const Told&>(bits);
  }

 private:
  __device__ uint32_t barrier(int index) const { return base + kBarriers + index * 8; }
  __device__ uint32_t rows(int index) const { return base + kRows + index * kRowBytes; }
};

// A place in the ring. A segment that has pages takes its queries' places, then its pages'.
struct Stage {
  int index = 0;
  uint32_t parity = 0;
  __device__ Stage next(int count = 1) const {  // count <= kStages
    const bool wraps = index + count >= kStages;
    return {wraps ? index + count - kStages : index + count, wraps ? parity ^ 1 : parity};
  }
  __device__ int last() const { return (index == 0 ? kStages : index) - 1; }
};

__device__ inline int num_rows(const Inputs& in, const Segment& segment) {
  return min(segment.num_queries * in.num_heads - segment.first_row(), kTileRows);
}
__device__ inline int query_stages(const Inputs& in, const Segment& segment) {
  return num_rows(in, segment) > kQueryRows ? 2 : 1;
}

// A segment's queries. Rows past its end are another's, or zeros. (Copies of rows, a lane each, go
// one after the other, 90 cycles each.)
__device__ inline Stage load_queries(const Fp8Params& p, const Fp8Shared& shared,
                                     const Segment& segment, Stage stage) {
  const int begin = segment.first_token * p.in.num_heads + segment.first_row();
#pragma unroll 1
  for (int first = 0; first < num_rows(p.in, segment); first += kQueryRows) {
    const uint32_t full = shared.full(stage.index);
    barrier_wait(shared.empty(stage.index), stage.parity ^ 1);
    if (elect_lane()) {
      barrier_arrive_expect(full, kFp8PageBytes);
#pragma unroll
      for (int x = 0; x < kTokenDim; x += kQueryColumns) {
        load_box(shared.page(stage.index) + x * kQueryRows * 2, &p.queries, full, x, begin + first);
      }
    }
    __syncwarp();
    stage = stage.next();
  }
  return stage;
}

// A page; of a pair's blocks, which walk the same pages, each brings half of its boxes to both,
// once both have room. `turn`: the parity of the place's pages. `alone`: L2 need not keep it.
template <bool kPair>
__device__ inline void load_page(const Fp8Params& p, const Fp8Shared& shared, int page,
                                 const Stage& stage, uint32_t turn, bool alone, uint64_t once) {
  const uint32_t full = shared.full(stage.index), target = shared.page(stage.index);
  barrier_wait(shared.empty(stage.index), stage.parity ^ 1);
  barrier_arrive_expect(full, kFp8PageBytes);
  const uint32_t rank = kPair ? cluster_rank() : 0;
  if (kPair) {
    cluster_barrier_arrive(address_in_block(shared.ready(stage.index), rank ^ 1));
    barrier_wait(shared.ready(stage.index), turn);
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
      const int box = static_cast<int>(rank) * 2 + i;
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
    // No block of another tile, or pair, wants the pages: L2 need not keep them (else 2 to 5 %
    // longer).
    const bool alone = segment.num_queries * p.in.num_heads <= kTileRows * (kPair ? 2 : 1);
    const auto load = [&](int page, const Stage& place) {
      if (elect_lane()) {
        load_page<kPair>(p, shared, page, place, turns >> place.index & 1, alone, once);
      }
      turns ^= 1 << place.index;
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
    stage = load_queries(p, shared, segment, stage);
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

// A thread's share of a row of queries, BF16 in pairs: 8 of each 64 columns.
constexpr int kQueryThreads = 8, kQueryWords = kTokenDim / kQueryThreads / 2;
using QueryWords = uint32_t[kQueryWords];

// Of the row at `source` and in two boxes after it, by eight neighbouring threads, `part` of them.
__device__ inline void load_query(QueryWords& words, uint32_t source, int part, bool valid) {
#pragma unroll
  for (int i = 0; i < kQueryWords / 4; ++i) {
    uint4 bits = {};
    if (valid) {
      bits = load_shared_vector(source + i / 3 * kQueryRows * kQueryColumns * 2 + i % 3 * 128 +
                                part * 16);
    }
    words[4 * i] = bits.x, words[4 * i + 1] = bits.y;
    words[4 * i + 2] = bits.z, words[4 * i + 3] = bits.w;
  }
}

// The largest absolute value, as the bits of its BF16, which are ordered as the values.
__device__ inline uint32_t largest_bits(const QueryWords& words) {
  constexpr uint32_t kNoSigns = 0x7fff7fff;
  uint32_t found = words[0] & kNoSigns;
#pragma unroll
  for (int i = 1; i + 1 < kQueryWords; i += 2) {
    found = __vimax3_u16x2(found, words[i] & kNoSigns, words[i + 1] & kNoSigns);
  }
  found = __vmaxu2(found, words[kQueryWords - 1] & kNoSigns);
  return max(found & 0xffff, found >> 16);
}

// Queries become e4m3 times a power of two, by which the row's largest comes to between 224 and
// 448: exactly so, in BF16. The power for that one's bits, as BF16, and its inverse, as float.
__device__ inline uint32_t query_power(uint32_t largest) {
  // An exponent more if the mantissa is past 1.75; 2^-100 in place of zeros, no infinity.
  const uint32_t exponent = (min(max(largest, 27u << 7), 0x7f7fu) + 0x1f) >> 7;
  return (262 - exponent) << 7;
}
__device__ inline float inverse_power(uint32_t power) {
  return __uint_as_float((254 - (power >> 7)) << 23);
}

__device__ inline void store_query(const Fp8Shared& shared, const QueryWords& words, int row,
                                   int part, uint32_t power) {
  const uint32_t both = power | power << 16;
  const auto scaled = [&](int i, float(&values)[2]) {
    const __nv_bfloat162 pair = __hmul2(reinterpret_cast<const __nv_bfloat162&>(words[i]),
                                        reinterpret_cast<const __nv_bfloat162&>(both));
    const uint32_t bits = reinterpret_cast<const uint32_t&>(pair);
    values[0] = __uint_as_float(bits << 16), values[1] = __uint_as_float(bits & 0xffff0000);
  };
#pragma unroll
  for (int i = 0; i < kQueryWords / 4; ++i) {
    uint32_t rounded[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float low[2], high[2];
      scaled(4 * i + 2 * j, low);
      scaled(4 * i + 2 * j + 1, high);
      rounded[j] = to_e4m3x4(low[0], low[1], high[0], high[1]);
    }
    const uint32_t target = i < 8 ? i / 2 * kBoxBytes + chunk_of_128(row, i % 2 * 4 + part / 2)
                                  : kFp8RopeOffset + chunk_of_64(row, part / 2);
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared.query() + target + part % 2 * 8),
                 "r"(rounded[0]), "r"(rounded[1])
                 : "memory");
  }
  if (part == 0) store_shared(shared.query_scales() + row * 4, inverse_power(power));
}

// One warpgroup: a segment's queries out of the ring; rows past the end become zeros. Nobody may
// still use the last segment's.
__device__ inline Stage round_queries(const Inputs& in, const Fp8Shared& shared,
                                      const Segment& segment, Stage stage) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int row = thread / kQueryThreads, part = thread % kQueryThreads;
  constexpr int kStep = kWarpgroup / kQueryThreads;
  const int end = num_rows(in, segment);
  static_assert(kQueryRows == 2 * kStep);
#pragma unroll 1
  for (int first = 0; first < kTileRows; first += kQueryRows) {
    const bool comes = first < end;
    if (comes) barrier_wait(shared.full(stage.index), stage.parity);
    QueryWords words[2];  // of two rows, side by side
    const uint32_t source = shared.page(stage.index) + row * kQueryColumns * 2;
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load_query(words[i], source + i * kStep * kQueryColumns * 2, part,
                 first + row + i * kStep < end);
      largest |= largest_bits(words[i]) << 16 * i;
    }
#pragma unroll
    for (int i = 1; i < kQueryThreads; i *= 2) {
      largest = __vmaxu2(largest, __shfl_xor_sync(0xffffffffu, largest, i));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      store_query(shared, words[i], first + row + i * kStep, part,
                  query_power(largest >> 16 * i & 0xffff));
    }
    if (!comes) continue;
    __syncwarp();
    if (thread % 32 == 0) {
      barrier_arrive(shared.stored(stage.index));
      if (thread == 0) barrier_arrive(shared.weighed(stage.index));
      barrier_arrive(shared.empty(stage.index), 2);  // for all who read pages
    }
    stage = stage.next();
  }
  async_proxy_fence();
  named_sync<kWarpgroup>(kOwn);
  return stage;
}

}  // namespace deepflight::cuda_mla_decode
