// Attention over pages of 512 + 64 on Hopper's warpgroup products, in BF16. A block holds 64 query
// rows and walks its pages in pairs, one warpgroup to a page: warpgroup 0 scores the even page and
// sums into the left half of the outputs, warpgroup 1 the odd page and the right half; each hands
// its weights to the other through shared memory, in the box of its page that only scores need. So
// the softmax of one runs under the products of the other. A third warpgroup copies. Of an e4m3
// pool, a fourth makes BF16 of each box where it lies: values keep the pool's scale, which is
// folded into the softmax and the outputs.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/tensor_map.h"
#include "compute/cuda/kernels/attention/mla_decode/tile.cuh"
#include "compute/cuda/primitives/pdl.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kPageBytes = kBoxes * kBoxBytes;
constexpr int kRopeBox = kBoxes - 1;
constexpr int kBarrierOffset = 3 * kPageBytes;  // after the queries and two pages
constexpr int kStatsOffset = kBarrierOffset + 384;
constexpr int kSharedBytes = kStatsOffset + 6 * kTileRows * 4 + 1024;  // and room to align
constexpr int kOtherWarps = 3;  // that load queries and convert
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kRawBoxBytes = kBoxBytes / 2;  // of e4m3
// Named barriers.
constexpr int kEvenWeights = 1, kOddWeights = 2, kOwn = 3, kSums = 5;

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
      if (lane == 0) {
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
  if (thread % 32 == 0) barrier_arrive(shared.query_full());
}

// Four e4m3 values to BF16, lowest byte first: the bits move to where BF16 has them, and the
// exponent grows by the difference of the biases. Subnormal values come out right too.
__device__ inline uint2 to_bf16x4(uint32_t values) {
  uint32_t pairs[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t spread = __byte_perm(values, 0, i == 0 ? 0x1404 : 0x3424);
    const uint32_t bits = (spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u);
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(pairs[i]) : "r"(bits), "r"(0x7b807b80u));  // 2^120
  }
  return make_uint2(pairs[0], pairs[1]);
}

// A warp, one box: e4m3 rows of 64 bytes to swizzled BF16 rows of 128, in place. The upper half
// goes first, to where no e4m3 lies; then the lower half is read before it is written over.
__device__ inline void convert_box(uint32_t base) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int first = 6; first >= 0; first -= 2) {
    uint32_t raw[2][4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(raw[j][0]), "=r"(raw[j][1]), "=r"(raw[j][2]), "=r"(raw[j][3])
                   : "r"(base + ((first + j) * 32 + lane) * 16)
                   : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = (first + j) * 8 + lane / 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint2 low = to_bf16x4(raw[j][2 * half]), high = to_bf16x4(raw[j][2 * half + 1]);
        const uint32_t chunk = (lane % 4 * 2 + half) ^ (row & 7);
        asm volatile(
            "st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(base + row * 128 + chunk * 16),
            "r"(low.x), "r"(low.y), "r"(high.x), "r"(high.y)
            : "memory");
      }
    }
  }
}

// Three warps: queries, and every third box of e4m3 pages.
template <bool kE4m3>
__device__ void load_and_convert(const Params& p, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4 - 1;
  uint32_t query_parity = 1, parities = 0;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    if (segment.num_pages == 0) continue;
    barrier_wait(shared.query_empty(), query_parity);
    query_parity ^= 1;
    load_queries(p.in, shared, segment);
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
        if (lane == 0) barrier_arrive(shared.full(odd, box));
      }
    }
  }
}

// Scores of four boxes' columns, or of one.
template <int kCount>
__device__ inline void issue_scores(float (&s)[32], const Shared& shared, int odd, int first_box,
                                    uint32_t parity, bool begin) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int box = first_box + i;
    barrier_wait(shared.full(odd, box), parity);
    wgmma_fence();  // of each stretch of code that a wait begins
    const uint64_t query = matrix_descriptor(shared.query() + box * kBoxBytes, 16, 1024);
    const uint64_t key = matrix_descriptor(shared.page(odd) + box * kBoxBytes, 16, 1024);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_bf16_n64(s, query + k * 2, key + k * 2, !begin || i > 0 || k > 0);
    }
  }
}

// Outputs of this warpgroup's own weights.
__device__ inline void issue_own(float (&o)[128], const uint32_t (&weights)[16], uint32_t page,
                                 int half) {
  const uint64_t value = matrix_descriptor(page + half * kHalfBoxes * kBoxBytes, kBoxBytes, 1024);
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma_bf16_n256_rows(o, weights + 4 * k, value + k * (2048 >> 4));
}
// And of the other's, out of the page's weights box.
__device__ inline void issue_other(float (&o)[128], uint32_t page, int half) {
  const uint64_t value = matrix_descriptor(page + half * kHalfBoxes * kBoxBytes, kBoxBytes, 1024);
  const uint64_t weights = matrix_descriptor(page + kRopeBox * kBoxBytes, 16, 1024);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_bf16_n256_rows(o, weights + k * 2, value + k * (2048 >> 4));
  }
}

__device__ inline void scale_rows(float (&o)[128], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] *= factor[i / 2 % 2];
}

// What a multiplying thread knows of its two rows in a segment.
struct Rows {
  __device__ Rows(const Inputs& in, const Segment& segment) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    row = warp * 16 + lane / 4;
    key = lane % 4 * 2;
    // Limits are counted from the segment's first page.
    const int begin = segment.first_page * kPageTokens;
    kv_end = segment.kv_len - begin;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query =
          min((segment.first_row() + row + 8 * r) / in.num_heads, segment.num_queries - 1);
      limit[r] = visible_tokens(segment.kv_len, segment.num_queries, query) - begin;
    }
    least =
        visible_tokens(segment.kv_len, segment.num_queries, segment.first_row() / in.num_heads) -
        begin;
  }
  int row, key;  // of this thread: first row, first column of scores
  int limit[2];
  int least;   // of all rows
  int kv_end;  // rows of pages from here on are undefined
};

// Weights out of scores, into the page's weights box with the rows' offsets; `id` is the barrier by
// which the other warpgroup learns of them. Returns as RowState::update().
__device__ inline bool make_weights(const Shared& shared, int odd, const Rows& rows, int page_idx,
                                    float scale, int id, float (&s)[32], RowState& state,
                                    uint32_t (&weights)[16], float (&factor)[2]) {
  const int begin = page_idx * kPageTokens;
  if (begin + kPageTokens > rows.least) mask_scores(s, begin + rows.key, rows.limit);
  const bool moved = state.update(s, scale, factor);
  pack_weights(s, weights);
  named_sync<kWarpgroup>(kOwn + odd);  // all have read the box of rope
  const bool tail = begin + kPageTokens > rows.kv_end;
  if (tail) clear_rows(shared.page(odd), rows.kv_end - begin);
  store_weights(weights, shared.weights(odd));
  if (rows.key == 0) {
    store_shared(shared.offsets(odd) + rows.row * 4, state.offset[0]);
    store_shared(shared.offsets(odd) + rows.row * 4 + 32, state.offset[1]);
  }
  async_proxy_fence();
  named_arrive<2 * kWarpgroup>(id);
  if (tail) named_sync<kWarpgroup>(kOwn + odd);
  return moved;
}

// Takes over the offsets that came with the other's weights.
__device__ inline bool take_offsets(const Shared& shared, int odd, const Rows& rows,
                                    RowState& state, float (&factor)[2]) {
  const float next[2] = {load_shared(shared.offsets(odd) + rows.row * 4),
                         load_shared(shared.offsets(odd) + rows.row * 4 + 32)};
  return state.move(next, factor);
}

__device__ inline void warp_arrive(uint32_t barrier) {
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

__device__ inline void finish(const Params& p, const Shared& shared, const Segment& segment,
                              const Rows& rows, int half, int turn, const RowState& state,
                              const float (&o)[128]) {
  float sum[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = quad_sum(state.sum[r]);
    if (rows.key == 0) store_shared(shared.sums(half, turn) + (rows.row + 8 * r) * 4, sum[r]);
  }
  named_sync<2 * kWarpgroup>(kSums);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += load_shared(shared.sums(1 - half, turn) + (rows.row + 8 * r) * 4);
  }
  store_outputs(p.in, segment, half * 256, state, sum, o);
}

// Warpgroup 0: even pages, left half.
__device__ void attend_even(const Params& p, const Shared& shared) {
  uint32_t parity = 0, query_parity = 0;
  int turn = 0;
  float s[32], o[128], factor[2];
  uint32_t weights[16];
  Segments segments(p.in);
  Segment segment;
  for (; segments.next(segment); turn ^= 1) {
    const Rows rows(p.in, segment);
    const int num_pages = segment.num_pages;
    RowState state;
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
    if (num_pages > 0) {
      barrier_wait(shared.query_full(), query_parity);
      query_parity ^= 1;
    }
#pragma unroll 1
    for (int i = 0; i < num_pages; i += 2) {
      pin(s);
      issue_scores<kBoxes>(s, shared, 0, 0, parity, true);
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
      parity ^= 1;
      if (i + 2 >= num_pages) warp_arrive(shared.query_empty());

      if (make_weights(shared, 0, rows, i, p.in.score_scale, kEvenWeights, s, state, weights,
                       factor)) {
        scale_rows(o, factor);
      }
      pin(o);
      wgmma_fence();
      issue_own(o, weights, shared.page(0), 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(0, 0));
      if (i + 1 == num_pages) break;
      named_sync<2 * kWarpgroup>(kOddWeights);
      if (take_offsets(shared, 1, rows, state, factor)) scale_rows(o, factor);
      pin(o);
      wgmma_fence();
      issue_other(o, shared.page(1), 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(1, 0));
    }
    finish(p, shared, segment, rows, 0, turn, state, o);
  }
}

// Warpgroup 1: odd pages, right half.
__device__ void attend_odd(const Params& p, const Shared& shared) {
  uint32_t parity = 0, even_parity = 0, query_parity = 0;
  int turn = 0;
  float s[32], o[128], factor[2];
  uint32_t weights[16];
  Segments segments(p.in);
  Segment segment;
  for (; segments.next(segment); turn ^= 1) {
    const Rows rows(p.in, segment);
    const int num_pages = segment.num_pages;
    RowState state;
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
    if (num_pages > 0) {
      barrier_wait(shared.query_full(), query_parity);
      query_parity ^= 1;
      if (num_pages == 1) warp_arrive(shared.query_empty());
    }
#pragma unroll 1
    for (int i = 0; i < num_pages; i += 2) {
      const bool has_odd = i + 1 < num_pages;
      if (has_odd) {
        pin(s);
        issue_scores<4>(s, shared, 1, 4, parity, true);
        issue_scores<4>(s, shared, 1, 0, parity, false);
        issue_scores<1>(s, shared, 1, kRopeBox, parity, false);
        wgmma_commit();
        wgmma_wait<0>();
        pin(s);
        parity ^= 1;
        if (i + 3 >= num_pages) warp_arrive(shared.query_empty());
      }
      named_sync<2 * kWarpgroup>(kEvenWeights);
      for (int box = kHalfBoxes; box < kValueBoxes; ++box) {
        barrier_wait(shared.full(0, box), even_parity);
      }
      even_parity ^= 1;
      if (take_offsets(shared, 0, rows, state, factor)) scale_rows(o, factor);
      pin(o);
      wgmma_fence();
      issue_other(o, shared.page(0), 1);
      wgmma_commit();
      if (has_odd) {
        const bool moved = make_weights(shared, 1, rows, i + 1, p.in.score_scale, kOddWeights, s,
                                        state, weights, factor);
        wgmma_wait<0>();
        pin(o);
        warp_arrive(shared.empty(0, 1));
        if (moved) scale_rows(o, factor);
        pin(o);
        wgmma_fence();
        issue_own(o, weights, shared.page(1), 1);
        wgmma_commit();
      }
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(has_odd, 1));
    }
    finish(p, shared, segment, rows, 1, turn, state, o);
  }
}

template <bool kE4m3>
__global__ void __launch_bounds__(kThreads, 1)
    attend_wgmma_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint8_t memory[];
  const Shared shared = {(shared_address(memory) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    for (int odd = 0; odd < 2; ++odd) {
      for (int box = 0; box < kBoxes; ++box) barrier_init(shared.full(odd, box), 1);
      for (int box = 0; box < kBoxes; ++box) barrier_init(shared.raw(odd, box), 1);
      for (int half = 0; half < 2; ++half) barrier_init(shared.empty(odd, half), 4);
    }
    barrier_init(shared.query_full(), kOtherWarps);
    barrier_init(shared.query_empty(), 8);
    barrier_init_fence();
  }
  __syncthreads();
  allow_next_kernel();  // the combination's blocks come as these leave
  wait_for_previous_kernel();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (warp < 8) {
    raise_registers<232>();
    if (warp < 4) {
      attend_even(p, shared);
    } else {
      attend_odd(p, shared);
    }
  } else {
    lower_registers<40>();
    if (warp == 8) {
      load_pages<kE4m3>(p, shared);
    } else {
      load_and_convert<kE4m3>(p, shared);
    }
  }
}

template <bool kE4m3>
cudaError_t launch(const Params& p, int num_sms, cudaStream_t stream) {
  const auto kernel = attend_wgmma_kernel<kE4m3>;
  static const cudaError_t attribute =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (attribute != cudaSuccess) return attribute;
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_sms));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, p);
}

}  // namespace

cudaError_t launch_attend_wgmma(const MlaDecodeProblem& problem, int num_sms, float* partials,
                                float* lse, cudaStream_t stream) {
  Params p;
  if (!encode_pool_map(p.pool, problem)) return cudaErrorInvalidValue;
  p.in = make_inputs(problem, partials, lse);
  return problem.kv_is_e4m3 ? launch<true>(p, num_sms, stream) : launch<false>(p, num_sms, stream);
}

}  // namespace deepflight::cuda_mla_decode
