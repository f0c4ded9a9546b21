// What fills the 16-bit kernel's shared memory from a pool of e4m3 groups: four warps read half a
// page into registers, while the half before is used, and write it as FP16, times its scales (which
// is exact, as they are powers of two), where the copy engine puts BF16. Rope stays BF16 and is
// copied; queries' latents become FP16 where they lie. Included by attend_wgmma.cu alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/load.cuh"

namespace deepflight::cuda_mla_decode {

constexpr int kConverters = 4;  // warps
constexpr int kGroupTokenBytes = 656;
constexpr int kHalfColumns = kLatentDim / 2;
constexpr int kRopeOffset = kLatentDim + 4 * kLatentDim / kPageGroup;
static_assert(kGroupTokenBytes == kRopeOffset + 2 * (kTokenDim - kLatentDim));
constexpr int kPagesAhead = 3;  // that the L2 is told of

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

// What is read once: the L1 need not keep it.
__device__ inline uint4 load_global_once(const uint8_t* address) {
  uint4 bits;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(address)
               : "memory");
  return bits;
}
__device__ inline float load_global(const uint8_t* address) {
  float value;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void prefetch_to_l2(const uint8_t* address, uint32_t size_bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(size_bytes)
               : "memory");
}

// A warp's piece of half a page (256 columns): two rows of each eight. A thread has 16 columns of
// one of the two; eight lanes that store together have both, whose chunks are swizzled to different
// banks. Each lane brings the scale of one row's 128 columns.
struct HalfPage {
  uint4 values[8];
  float scale;

  __device__ void read(const uint8_t* page, int half) {
    const int lane = thread() % 32, first = first_row();
    const uint8_t* row = page + ((first + lane % 8 / 4) * kGroupTokenBytes + half * kHalfColumns +
                                 lane / 8 * 64 + lane % 4 * 16);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = load_global_once(row + 8 * j * kGroupTokenBytes);
    const int scale_row = lane / 4 * 8 + first + lane % 4 / 2;
    const int group = half * (kHalfColumns / kPageGroup) + lane % 2;
    scale = load_global(page + (scale_row * kGroupTokenBytes + kLatentDim + group * 4));
  }

  // To the half's four boxes.
  __device__ void write(uint32_t boxes) const {
    const int lane = thread() % 32;
    const uint32_t at =
        boxes + lane / 8 * kBoxBytes + chunk_of_128(first_row() + lane % 8 / 4, lane % 4 * 2);
    const int scale_lane = lane % 8 / 4 * 2 + lane / 16;
    const __half2 own_scale = __float2half2_rn(scale);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const __half2 row_scale = __shfl_sync(0xffffffffu, own_scale, 4 * j + scale_lane);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint32_t low = part == 0 ? values[j].x : values[j].z;
        const uint32_t high = part == 0 ? values[j].y : values[j].w;
        store_shared_vector(
            (at ^ part * 16) + j * 8 * 128,
            make_uint4(scaled_half2(low, row_scale), scaled_half2(low >> 16, row_scale),
                       scaled_half2(high, row_scale), scaled_half2(high >> 16, row_scale)));
      }
    }
  }

 private:
  // Read anew where it is wanted: registers are few, and a spilled one is read behind all that has
  // been asked for.
  static __device__ int thread() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  static __device__ int first_row() { return thread() / 32 % kConverters * 2; }
};

// What this warp has written is complete.
__device__ inline void publish(uint32_t full) {
  async_proxy_fence();
  __syncwarp();
  if (elect_lane()) barrier_arrive(full);
}

// A segment's queries: two boxes of latents a warp; the first warp's lane brings all of them.
// `parity` is the barrier's that says that they have come.
__device__ inline void convert_queries(const Params& p, const Shared& shared,
                                       const Segment& segment, int warp, uint32_t parity) {
  wait_for_previous_kernel();
  if (warp == 0 && elect_lane()) {
    barrier_wait(shared.query_empty(), parity ^ 1);
    const int row = segment.first_token * p.in.num_heads + segment.first_row();
    barrier_arrive_expect(shared.query_raw(), kValueBoxes * kBoxBytes);
    barrier_arrive_expect(shared.query_full(), kBoxBytes);
#pragma unroll 1
    for (int box = 0; box < kBoxes; ++box) {
      load_box(shared.query() + box * kBoxBytes, &p.queries,
               box == kRopeBox ? shared.query_full() : shared.query_raw(), box * 64, row);
    }
  }
  __syncwarp();
  barrier_wait(shared.query_raw(), parity);
#pragma unroll 2
  for (int at = static_cast<int>(threadIdx.x) % 32 * 16; at < 2 * kBoxBytes; at += 32 * 16) {
    halve_16(shared.query() + warp * 2 * kBoxBytes + at);
  }
  publish(shared.query_full());
}

// Four warps: all that the two multiplying warpgroups want.
__device__ void load_and_convert(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 - 8;
  uint32_t parities = 3;  // a bit for each of the two pages, and the queries'
  HalfPage piece;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    const int num_pages = segment.num_pages;
    if (num_pages == 0) continue;
    const int32_t* table = segment.page_ids(p.in);
    const auto address_of = [&](int page) { return p.pages + page * p.page_stride_bytes; };
    const auto fetch_to_l2 = [&](int page) {
      prefetch_to_l2(address_of(page), kPageTokens * kGroupTokenBytes);
    };
    // Of 32 pages, a lane each. Past the end page 0, which is read for nothing.
    const auto ids_from = [&](int first) {
      return first + lane < num_pages ? table[first + lane] : 0;
    };
    int page = table[0], ids = ids_from(1);
    // Also where the kernel before writes them yet; they are read once it has ended.
    if (warp == 1 && lane < min(kPagesAhead, num_pages)) fetch_to_l2(table[lane]);
    __syncwarp();
    convert_queries(p, shared, segment, warp, parities >> 2);  // the kernel before has ended
    parities ^= 4;
    piece.read(address_of(page), 0);
#pragma unroll 1
    for (int base = 0; base < num_pages; base += 32) {
      const int next_ids = ids_from(base + 33);
      const int num_halves = 2 * min(num_pages - base, 32);
#pragma unroll 1
      for (int k = 0; k < num_halves; ++k) {
        const int i = k / 2, odd = i % 2, part = k % 2, half = odd ^ part;
        barrier_wait(shared.empty(odd, half), parities >> odd & 1);
        int next = page;
        if (part == 1) {
          parities ^= 1u << odd;
          next = __shfl_sync(0xffffffffu, ids, i);
          if (warp == 0 && elect_lane()) {
            barrier_arrive_expect(shared.full(odd, 1), kBoxBytes);
            load_box(shared.page(odd) + kRopeBox * kBoxBytes, &p.pool, shared.full(odd, 1),
                     kRopeOffset, 0, page);
          }
          __syncwarp();
        }
        piece.write(shared.page(odd) + half * kHalfBoxes * kBoxBytes);
        publish(shared.full(odd, part));
        piece.read(address_of(next), part == 0 ? 1 - half : half);
        page = next;
        if (warp == 1 && part == 0 && base + i + kPagesAhead < num_pages) {
          const int ahead = i + kPagesAhead - 1;
          const int far = ahead < 32 ? __shfl_sync(0xffffffffu, ids, ahead)
                                     : __shfl_sync(0xffffffffu, next_ids, ahead - 32);
          if (elect_lane()) fetch_to_l2(far);
          __syncwarp();
        }
      }
      ids = next_ids;
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
