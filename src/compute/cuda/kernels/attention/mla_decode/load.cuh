// The copying half of the tensor core kernel: its shared memory, and the warps that fill it with
// pages and queries. Pages come box by box (64 columns), each with its own barrier, so that scores
// begin with the first; boxes of e4m3 become FP16 where they lie. Included by attend_wgmma.cu
// alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 384;
constexpr int kSharedBytes = kStatsOffset + 6 * kTileRows * 4 + 1024;  // and room to align
constexpr int kOtherWarps = 3;  // that load queries and convert
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kRawBoxBytes = kBoxBytes / 2;  // of e4m3
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
  // A box of e4m3 has come; full() then says that it is BF16.
  __device__ uint32_t raw(int odd, int box) const {
    return query_empty() + 8 + (odd * kBoxes + box) * 8;
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

// One warp: the pages.
template <bool kE4m3>
__device__ void load_pages(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t parities = 3;  // a bit for each of the two pages
  Segments segments(p.in);
  Segment segment;
  constexpr uint32_t kBytes = kE4m3 ? kRawBoxBytes : kBoxBytes;
  const auto load_boxes = [&](int odd, int first, int end, int page) {
#pragma unroll 1
    for (int k = first; k < end; ++k) {
      const int box = box_in_order(odd, k);
      const uint32_t barrier = kE4m3 ? shared.raw(odd, box) : shared.full(odd, box);
      barrier_arrive_expect(barrier, kBytes);
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
template <bool kE4m3>
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
  if constexpr (kE4m3) {
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

// Two e4m3 values to FP16, lowest byte first.
__device__ inline uint32_t to_half2(uint32_t values) {
  uint32_t pair;
  asm("{\n.reg .b16 low;\ncvt.u16.u32 low, %1;\ncvt.rn.f16x2.e4m3x2 %0, low;\n}"
      : "=r"(pair)
      : "r"(values));
  return pair;
}

// A warp, one box: e4m3 rows of 64 bytes to swizzled FP16 rows of 128, in place. The last half goes
// first, to where no e4m3 lies; then the first half is read before it is written over.
__device__ inline void convert_box(uint32_t base) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int first = 4; first >= 0; first -= 4) {
    uint32_t raw[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(raw[j][0]), "=r"(raw[j][1]), "=r"(raw[j][2]), "=r"(raw[j][3])
                   : "r"(base + ((first + j) * 32 + lane) * 16)
                   : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = (first + j) * 8 + lane / 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = raw[j][2 * half], high = raw[j][2 * half + 1];
        const uint32_t chunk = (lane % 4 * 2 + half) ^ (lane / 4);
        asm volatile(
            "st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(base + row * 128 + chunk * 16),
            "r"(to_half2(low)), "r"(to_half2(low >> 16)), "r"(to_half2(high)),
            "r"(to_half2(high >> 16))
            : "memory");
      }
    }
  }
}

// Three warps: queries, and every third box of e4m3 pages.
template <bool kE4m3>
__device__ void load_and_convert(const Params& p, const Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4 - 1;
  uint32_t query_parity = 1, parities = 0;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    barrier_wait(shared.query_empty(), query_parity);
    query_parity ^= 1;
    load_queries<kE4m3>(p.in, shared, segment);
#pragma unroll 1
    for (int i = 0; kE4m3 && i < segment.num_pages; ++i) {
      const int odd = i % 2;
      const uint32_t parity = parities >> odd & 1;
      parities ^= 1u << odd;
#pragma unroll 1
      for (int k = warp; k < kBoxes; k += kOtherWarps) {
        const int box = box_in_order(odd, k);
        barrier_wait(shared.raw(odd, box), parity);
        convert_box(shared.page(odd) + box * kBoxBytes);
        async_proxy_fence();
        __syncwarp();
        if (elect_lane()) barrier_arrive(shared.full(odd, box));
      }
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
