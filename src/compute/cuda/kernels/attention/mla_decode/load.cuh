// The copying half of the 16-bit kernel: its shared memory, and the warps that fill it with pages
// and queries. Pages come box by box (64 columns), each with its own barrier, so that scores begin
// with the first; boxes of e4m3 groups become FP16 where they lie. Included by attend_wgmma.cu
// alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_16bit.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 384;
constexpr int kScalesOffset = kStatsOffset + 6 * kTileRows * 4;
constexpr int kScaleBytes = 4 * kLatentDim / kPageGroup;                          // of a token
constexpr int kSharedBytes = kScalesOffset + 2 * kTileRows * kScaleBytes + 1024;  // to align too
constexpr int kRawBoxBytes = kBoxBytes / 2;                                       // of e4m3

// Two warpgroups multiply, a warp copies pages, three load queries and convert.
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kOtherWarps = 3;

struct Params {
  CUtensorMap pool;          // [page][64][token], boxes of 64 x 64 elements
  CUtensorMap scales, rope;  // the same, in bytes, of e4m3 groups
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
  // A box of e4m3 groups has come, and the page's scales; full() then says that it is FP16.
  __device__ uint32_t raw(int odd, int box) const {
    return query_empty() + 8 + (odd * kBoxes + box) * 8;
  }
  __device__ uint32_t scales_full(int odd) const {
    return query_empty() + 8 + (2 * kBoxes + odd) * 8;
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
__device__ inline int box_in_order(int odd, int k) {
  return k == kRopeBox ? k : k ^ odd * kHalfBoxes;
}

// A box of a page, as it lies.
template <bool kHalf>
__device__ inline void load_page_box(const Params& p, const Shared& shared, int odd, int box,
                                     int page) {
  const uint32_t target = shared.page(odd) + box * kBoxBytes;
  if constexpr (!kHalf) {
    barrier_arrive_expect(shared.full(odd, box), kBoxBytes);
    load_box(target, &p.pool, shared.full(odd, box), box * 64, 0, page);
  } else if (box == kRopeBox) {
    barrier_arrive_expect(shared.raw(odd, box), kBoxBytes);
    load_box(target, &p.rope, shared.raw(odd, box), kLatentDim + kScaleBytes, 0, page);
  } else {
    barrier_arrive_expect(shared.raw(odd, box), kRawBoxBytes);
    load_box(target, &p.pool, shared.raw(odd, box), box * 64, 0, page);
  }
}

// One warp: the pages, the settled ones before the kernel before this one has ended.
template <bool kHalf>
__device__ void load_pages(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t parities = 3;  // a bit for each of the two pages
  Segments segments(p.in);
  Segment segment;
  const auto load_boxes = [&](int odd, int first, int end, int page) {
#pragma unroll 1
    for (int k = first; k < end; ++k) {
      load_page_box<kHalf>(p, shared, odd, box_in_order(odd, k), page);
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
        load_boxes(odd, 0, kHalfBoxes, page);
        barrier_wait(shared.empty(odd, 1 - odd), parity);
        load_boxes(odd, kHalfBoxes, kBoxes, page);
      }
      __syncwarp();
    }
  }
}

// BF16 to FP16, in place, kept finite.
__device__ inline void halve_16(uint32_t address) {
  uint32_t raw[4];
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(raw[0]), "=r"(raw[1]), "=r"(raw[2]), "=r"(raw[3])
               : "r"(address)
               : "memory");
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(raw[i]));
    const __half2 half = __floats2half2_rn(fminf(fmaxf(pair.x, -65504.0f), 65504.0f),
                                           fminf(fmaxf(pair.y, -65504.0f), 65504.0f));
    raw[i] = reinterpret_cast<const uint32_t&>(half);
  }
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(raw[0]), "r"(raw[1]),
               "r"(raw[2]), "r"(raw[3])
               : "memory");
}

// Three warps: a segment's queries, swizzled; rows past the end become zeros.
template <bool kHalf>
__device__ inline void load_queries(const Inputs& in, const Shared& shared,
                                    const Segment& segment) {
  const int thread = static_cast<int>(threadIdx.x) - 9 * 32;
  // Eight threads read 128 bytes of a row, a warp of four.
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
  if constexpr (kHalf) {
#pragma unroll 1
    for (int row = thread / 8; row < kTileRows; row += kOtherWarps * 4) {
      const uint32_t target = shared.query() + row * 128 + ((column ^ (row & 7)) << 4);
#pragma unroll 3
      for (int box = 0; box < kBoxes; ++box) halve_16(target + box * kBoxBytes);
    }
  }
  async_proxy_fence();
  __syncwarp();
  if (elect_lane()) barrier_arrive(shared.query_full());
}

// Two e4m3 values, the lower half of `values`, times their scale as FP16.
__device__ inline uint32_t scaled_half2(uint32_t values, __half2 scale) {
  uint32_t bits;
  asm("{\n.reg .b16 low;\ncvt.u16.u32 low, %1;\ncvt.rn.f16x2.e4m3x2 %0, low;\n}"
      : "=r"(bits)
      : "r"(values));
  const __half2 pair = __hmul2(reinterpret_cast<const __half2&>(bits), scale);
  return reinterpret_cast<const uint32_t&>(pair);
}

// A warp, one box: e4m3 rows of 64 bytes to swizzled FP16 rows of 128, in place. The last half goes
// first, to where no e4m3 lies; then the first half is read before it is written over. `scales`:
// the box's, of row 0.
__device__ inline void convert_box(uint32_t base, uint32_t scales) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int first = 4; first >= 0; first -= 4) {
    uint32_t raw[4][4];
    __half2 row_scales[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = (first + j) * 8 + lane / 4;
      row_scales[j] = __float2half2_rn(load_shared(scales + row * kScaleBytes));
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(raw[j][0]), "=r"(raw[j][1]), "=r"(raw[j][2]), "=r"(raw[j][3])
                   : "r"(base + ((first + j) * 32 + lane) * 16)
                   : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = (first + j) * 8 + lane / 4;
      const __half2 scale = row_scales[j];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = raw[j][2 * half], high = raw[j][2 * half + 1];
        const uint32_t chunk = (lane % 4 * 2 + half) ^ (lane / 4);
        asm volatile(
            "st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(base + row * 128 + chunk * 16),
            "r"(scaled_half2(low, scale)), "r"(scaled_half2(low >> 16, scale)),
            "r"(scaled_half2(high, scale)), "r"(scaled_half2(high >> 16, scale))
            : "memory");
      }
    }
  }
}

// A warp: the box of rope, BF16 as it came.
__device__ inline void convert_rope(uint32_t base) {
#pragma unroll 2
  for (int at = static_cast<int>(threadIdx.x) % 32 * 16; at < kBoxBytes; at += 32 * 16) {
    halve_16(base + at);
  }
}

// Three warps: queries, and every third box of pages of e4m3 groups.
template <bool kHalf>
__device__ void load_and_convert(const Params& p, const Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32 - 9;
  uint32_t query_parity = 1, parities = 0;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    barrier_wait(shared.query_empty(), query_parity);
    query_parity ^= 1;
    wait_for_previous_kernel();
    load_queries<kHalf>(p.in, shared, segment);
#pragma unroll 1
    for (int i = 0; kHalf && i < segment.num_pages; ++i) {
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
          convert_rope(base);
        } else {
          convert_box(base, shared.scales(odd) + box / 2 * 4);
        }
        async_proxy_fence();
        __syncwarp();
        if (elect_lane()) barrier_arrive(shared.full(odd, box));
      }
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
