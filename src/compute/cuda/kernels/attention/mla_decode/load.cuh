// The copying half of the 16-bit kernel: its shared memory, and the warps that fill it with pages
// and queries. Pages come box by box (64 columns), each with its own barrier, so that scores begin
// with the first; boxes of e4m3 groups become FP16 where they lie. Included by attend_wgmma.cu
// alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_16bit.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
// Parts in which a page comes, in the order of its boxes: waiting for each of nine makes a
// step up to 5 % longer. Those that are converted come one by one.
template <bool kHalf>
constexpr int kParts = kHalf ? kBoxes : 2;
template <bool kHalf>
__device__ inline constexpr int part_of(int k) {
  return kHalf ? k : k < kHalfBoxes ? 0 : 1;
}
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 512;
constexpr int kScalesOffset = kStatsOffset + 6 * kTileRows * 4;
constexpr int kScaleBytes = 4 * kLatentDim / kPageGroup;                          // of a token
constexpr int kSharedBytes = kScalesOffset + 2 * kTileRows * kScaleBytes + 1024;  // to align too
constexpr int kRawBoxBytes = kBoxBytes / 2;                                       // of e4m3

// Two warpgroups multiply, a warp copies pages, another (of e4m3 groups three) brings queries and
// converts.
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kOtherWarps = 3;

struct Params {
  CUtensorMap pool;          // [page][64][token], boxes of 64 x 64 elements
  CUtensorMap scales, rope;  // the same, in bytes, of e4m3 groups
  CUtensorMap queries;       // [token, head][576], boxes of 64 x 64
  Inputs in;
};

// Shared memory addresses. A half is 4 boxes of a page; the box of rope, and of weights later, is
// freed with the half that the other warpgroup uses.
struct Shared {
  uint32_t base;
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t page(int odd) const { return base + (1 + odd) * kPageBytes; }
  __device__ uint32_t weights(int odd) const { return page(odd) + kRopeBox * kBoxBytes; }
  __device__ uint32_t full(int odd, int part) const {
    return base + kBarrierOffset + (odd * kBoxes + part) * 8;
  }
  __device__ uint32_t empty(int odd, int half) const {
    return base + kBarrierOffset + (2 * kBoxes + odd * 2 + half) * 8;
  }
  __device__ uint32_t query_full() const { return base + kBarrierOffset + (2 * kBoxes + 4) * 8; }
  __device__ uint32_t query_empty() const { return query_full() + 8; }
  __device__ uint32_t query_raw() const { return query_empty() + 8; }  // kHalf: have come as BF16
  // A box of e4m3 groups has come, and the page's scales; full() then says that it is FP16.
  __device__ uint32_t raw(int odd, int box) const {
    return query_raw() + 8 + (odd * kBoxes + box) * 8;
  }
  __device__ uint32_t scales_full(int odd) const {
    return query_raw() + 8 + (2 * kBoxes + odd) * 8;
  }
  __device__ uint32_t scales(int odd) const {
    return base + kScalesOffset + odd * kTileRows * kScaleBytes;
  }
  __device__ uint32_t offsets(int odd) const { return base + kStatsOffset + odd * kTileRows * 4; }
  __device__ uint32_t sums(int half, int turn) const {
    return base + kStatsOffset + (2 + 2 * turn + half) * kTileRows * 4;
  }
};

// The k-th box of a page in the order in which they become free and are used.
__device__ inline constexpr int box_in_order(int odd, int k) {
  return k == kRopeBox ? k : k ^ odd * kHalfBoxes;
}

// A box of a page, as it lies.
template <bool kHalf>
__device__ inline void load_page_box(const Params& p, const Shared& shared, int odd, int box,
                                     int part, int page, uint64_t policy) {
  const uint32_t target = shared.page(odd) + box * kBoxBytes;
  if constexpr (!kHalf) {
    load_box(target, &p.pool, shared.full(odd, part), box * 64, 0, page, policy);
  } else if (box == kRopeBox) {
    barrier_arrive_expect(shared.raw(odd, box), kBoxBytes);
    load_box(target, &p.rope, shared.raw(odd, box), kLatentDim + kScaleBytes, 0, page, policy);
  } else {
    barrier_arrive_expect(shared.raw(odd, box), kRawBoxBytes);
    load_box(target, &p.pool, shared.raw(odd, box), box * 64, 0, page, policy);
  }
}

// One warp: the pages, the settled ones before the kernel before this one has ended.
template <bool kHalf>
__device__ void load_pages(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint64_t policy = evict_first_policy();
  uint32_t parities = 3;  // a bit for each of the two pages
  Segments segments(p.in);
  Segment segment;
  const auto load_part = [&](int odd, int part, int page) {
    const int first = part * kHalfBoxes, end = part == 0 ? kHalfBoxes : kBoxes;
    if (!kHalf) barrier_arrive_expect(shared.full(odd, part), (end - first) * kBoxBytes);
#pragma unroll 1
    for (int k = first; k < end; ++k) {
      load_page_box<kHalf>(p, shared, odd, box_in_order(odd, k), part, page, policy);
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
        if (i >= segment.settled_pages()) wait_for_previous_kernel();
        barrier_wait(shared.empty(odd, odd), parity);
        if (kHalf) {
          barrier_arrive_expect(shared.scales_full(odd), kTileRows * kScaleBytes);
          load_box(shared.scales(odd), &p.scales, shared.scales_full(odd), kLatentDim, 0, page);
        }
        load_part(odd, 0, page);
        barrier_wait(shared.empty(odd, 1 - odd), parity);
        load_part(odd, 1, page);
      }
      __syncwarp();
    }
  }
}

// BF16 to FP16, in place, kept finite.
__device__ inline void halve_16(uint32_t address) {
  const auto halve = [](uint32_t bits) {
    const float2 pair = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits));
    return pack_fp16(fminf(fmaxf(pair.x, -65504.0f), 65504.0f),
                     fminf(fmaxf(pair.y, -65504.0f), 65504.0f));
  };
  const uint4 raw = load_shared_vector(address);
  store_shared_vector(address, make_uint4(halve(raw.x), halve(raw.y), halve(raw.z), halve(raw.w)));
}

// Two e4m3 values, the lower half of `values`, exactly.
__device__ inline __half2 e4m3x2_to_half2(uint32_t values) {
  uint32_t bits;
  asm("{\n.reg .b16 low;\ncvt.u16.u32 low, %1;\ncvt.rn.f16x2.e4m3x2 %0, low;\n}"
      : "=r"(bits)
      : "r"(values));
  return reinterpret_cast<const __half2&>(bits);
}

// The same, times their scale as FP16.
__device__ inline uint32_t scaled_half2(uint32_t values, __half2 scale) {
  const __half2 pair = __hmul2(e4m3x2_to_half2(values), scale);
  return reinterpret_cast<const uint32_t&>(pair);
}

// A warp, one box: e4m3 rows of 64 bytes to swizzled FP16 rows of 128, in place. The last half goes
// first, to where no e4m3 lies; then the first half is read before it is written over. `scales`:
// the box's, of row 0.
__device__ inline void convert_box(uint32_t base, uint32_t scales) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int first = 4; first >= 0; first -= 4) {
    uint4 raw[4];
    __half2 row_scales[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = (first + j) * 8 + lane / 4;
      row_scales[j] = __float2half2_rn(load_shared(scales + row * kScaleBytes));
      raw[j] = load_shared_vector(base + ((first + j) * 32 + lane) * 16);
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = (first + j) * 8 + lane / 4;
      const __half2 scale = row_scales[j];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = half == 0 ? raw[j].x : raw[j].z;
        const uint32_t high = half == 0 ? raw[j].y : raw[j].w;
        const uint32_t chunk = (lane % 4 * 2 + half) ^ (lane / 4);
        store_shared_vector(base + row * 128 + chunk * 16,
                            make_uint4(scaled_half2(low, scale), scaled_half2(low >> 16, scale),
                                       scaled_half2(high, scale), scaled_half2(high >> 16, scale)));
      }
    }
  }
}

// A warp: a box of BF16 as it came.
__device__ inline void halve_box(uint32_t base) {
#pragma unroll 2
  for (int at = static_cast<int>(threadIdx.x) % 32 * 16; at < kBoxBytes; at += 32 * 16) {
    halve_16(base + at);
  }
}

// A box that is complete, by a warp.
__device__ inline void publish_box(uint32_t full) {
  async_proxy_fence();
  __syncwarp();
  if (elect_lane()) barrier_arrive(full);
}

// One lane: a segment's queries. Rows past its end are another's, or zeros.
template <bool kHalf>
__device__ inline void load_queries(const Params& p, const Shared& shared, const Segment& segment) {
  const int row = segment.first_token * p.in.num_heads + segment.first_row();
  const uint32_t full = kHalf ? shared.query_raw() : shared.query_full();
  barrier_arrive_expect(full, kPageBytes);
#pragma unroll 1
  for (int box = 0; box < kBoxes; ++box) {
    load_box(shared.query() + box * kBoxBytes, &p.queries, full, box * 64, row);
  }
}

// The queries, and of e4m3 groups every third box of them and of pages, which become FP16; by three
// warps, of which only the first is needed for BF16.
template <bool kHalf>
__device__ void load_and_convert(const Params& p, const Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32 - 9;
  if (!kHalf && warp > 0) return;
  uint32_t query_parity = 1, parities = 0;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    if (warp == 0) {
      wait_for_previous_kernel();
      if (elect_lane()) {
        barrier_wait(shared.query_empty(), query_parity);
        load_queries<kHalf>(p, shared, segment);
      }
      __syncwarp();
    }
    query_parity ^= 1;
    if constexpr (!kHalf) continue;
    barrier_wait(shared.query_raw(), query_parity);
#pragma unroll 1
    for (int box = warp; box < kBoxes; box += kOtherWarps) {
      halve_box(shared.query() + box * kBoxBytes);
      publish_box(shared.query_full());
    }
#pragma unroll 1
    for (int i = 0; i < segment.num_pages; ++i) {
      const int odd = i % 2;
      const uint32_t parity = parities >> odd & 1;
      parities ^= 1u << odd;
      barrier_wait(shared.scales_full(odd), parity);
#pragma unroll 1
      for (int k = warp; k < kBoxes; k += kOtherWarps) {
        const int box = box_in_order(odd, k);
        const uint32_t base = shared.page(odd) + box * kBoxBytes;
        barrier_wait(shared.raw(odd, box), parity);
        if (box == kRopeBox) {
          halve_box(base);
        } else {
          convert_box(base, shared.scales(odd) + box / 2 * 4);
        }
        publish_box(shared.full(odd, part_of<true>(k)));
      }
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
