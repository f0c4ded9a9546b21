// Attention over pages of 512 + 64 on Hopper's 16-bit warpgroup products. A block holds 64 query
// rows and walks its pages in pairs, one warpgroup to a page: warpgroup 0 scores the even page and
// sums into the left half of the outputs, warpgroup 1 the odd page and the right half; each hands
// its weights to the other through shared memory, in the box of its page that only scores need. So
// the softmax of one runs under the products of the other. A third warpgroup brings pages and
// queries, of a pool of e4m3 groups (kHalf) as FP16. Pools of e4m3 alone: attend_fp8.cu.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/load_group.cuh"
#include "compute/cuda/kernels/attention/mla_decode/tensor_map.h"

namespace deepflight::cuda_mla_decode {
namespace {

// Shared memory as operands. By rows of 128 bytes, and (values) by rows that run along k.
struct Operands {
  Matrices<16, 1024> rows;
  Matrices<kBoxBytes, 1024> values;
  __device__ explicit Operands(const Shared& shared) : rows(shared.base), values(shared.base) {}

  static constexpr int page(int odd) { return (1 + odd) * kPageBytes; }  // from the start
};

// Scores of a page, box by box in the order in which they come.
template <bool kHalf>
__device__ inline void issue_scores(float (&s)[32], const Shared& shared, const Operands& operands,
                                    int odd, uint32_t parity) {
#pragma unroll
  for (int i = 0; i < kBoxes; ++i) {
    const int box = box_in_order(odd, i);
    if (i == 0 || part_of(i) != part_of(i - 1)) {
      barrier_wait(shared.full(odd, part_of(i)), parity);
      wgmma_fence();  // of each stretch of code that a wait begins
    }
    const int at = box * kBoxBytes;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint64_t a = operands.rows.at(at + k * 32);
      const uint64_t b = operands.rows.at(Operands::page(odd) + at + k * 32);
      if (kHalf && box != kRopeBox) {
        wgmma_n64<true>(s, a, b, i > 0 || k > 0);
      } else {
        wgmma_n64<false>(s, a, b, i > 0 || k > 0);
      }
    }
  }
}

// Outputs of this warpgroup's own weights.
template <bool kHalf>
__device__ inline void issue_own(float (&o)[128], const uint32_t (&weights)[16],
                                 const Operands& operands, int odd, int half) {
  const int at = Operands::page(odd) + half * kHalfBoxes * kBoxBytes;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_n256_rows<kHalf>(o, weights + 4 * k, operands.values.at(at + k * 2048));
  }
}
// And of the other's, out of the page's weights box.
template <bool kHalf>
__device__ inline void issue_other(float (&o)[128], const Operands& operands, int odd, int half) {
  const int at = Operands::page(odd) + half * kHalfBoxes * kBoxBytes;
  const int weights = Operands::page(odd) + kRopeBox * kBoxBytes;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_n256_rows<kHalf>(o, operands.rows.at(weights + k * 32),
                           operands.values.at(at + k * 2048));
  }
}

__device__ inline void scale_rows(float (&o)[128], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] *= factor[i / 2 % 2];
}

// Weights out of scores, into the page's weights box with the rows' offsets; `id` is the barrier by
// which the other warpgroup learns of them. Returns as RowState::move().
template <bool kHalf>
__device__ inline bool make_weights(const Shared& shared, int odd, const Rows& rows, int page_idx,
                                    float scale, int id, float (&s)[32], RowState& state,
                                    uint32_t (&weights)[16], float (&factor)[2]) {
  const int begin = page_idx * kPageTokens;
  mask_page(s, rows, begin);
  const bool moved = weigh(s, scale, state, factor);
  pack_weights<kHalf>(s, weights);
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

__device__ inline void finish(const Params& p, const Shared& shared, const Segment& segment,
                              const Rows& rows, int half, int turn, const RowState& state,
                              const float (&o)[128]) {
  wait_for_previous_kernel();
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
template <bool kHalf>
__device__ void attend_even(const Params& p, const Shared& shared) {
  uint32_t parity = 0, query_parity = 0;
  int turn = 0;
  float s[32], o[128], factor[2];
  uint32_t weights[16];
  const Operands operands(shared);
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
      issue_scores<kHalf>(s, shared, operands, 0, parity);
      wgmma_commit();
      if (i + 1 < num_pages) named_arrive<2 * kWarpgroup>(kEvenScores);
      wgmma_wait<0>();
      pin(s);
      parity ^= 1;
      if (i + 2 >= num_pages) warp_arrive(shared.query_empty());

      if (make_weights<kHalf>(shared, 0, rows, i, p.in.score_scale, kEvenWeights, s, state, weights,
                              factor)) {
        scale_rows(o, factor);
      }
      pin(o);
      wgmma_fence();
      issue_own<kHalf>(o, weights, operands, 0, 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(0, 0));
      if (i + 1 == num_pages) break;
      named_sync<2 * kWarpgroup>(kOddWeights);
      if (take_offsets(shared, 1, rows, state, factor)) scale_rows(o, factor);
      pin(o);
      wgmma_fence();
      issue_other<kHalf>(o, operands, 1, 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(1, 0));
    }
    segments.read(segment);
    finish(p, shared, segment, rows, 0, turn, state, o);
  }
}

// Warpgroup 1: odd pages, right half.
template <bool kHalf>
__device__ void attend_odd(const Params& p, const Shared& shared) {
  uint32_t parity = 0, even_parity = 0, query_parity = 0;
  int turn = 0;
  float s[32], o[128], factor[2];
  uint32_t weights[16];
  const Operands operands(shared);
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
        named_sync<2 * kWarpgroup>(kEvenScores);
        pin(s);
        issue_scores<kHalf>(s, shared, operands, 1, parity);
        wgmma_commit();
        wgmma_wait<0>();
        pin(s);
        parity ^= 1;
        if (i + 3 >= num_pages) warp_arrive(shared.query_empty());
      }
      named_sync<2 * kWarpgroup>(kEvenWeights);
      for (int part = part_of(kHalfBoxes); part < kParts; ++part) {
        barrier_wait(shared.full(0, part), even_parity);
      }
      even_parity ^= 1;
      if (take_offsets(shared, 0, rows, state, factor)) scale_rows(o, factor);
      pin(o);
      wgmma_fence();
      issue_other<kHalf>(o, operands, 0, 1);
      wgmma_commit();
      if (has_odd) {
        const bool moved = make_weights<kHalf>(shared, 1, rows, i + 1, p.in.score_scale,
                                               kOddWeights, s, state, weights, factor);
        wgmma_wait<0>();
        pin(o);
        warp_arrive(shared.empty(0, 1));
        if (moved) scale_rows(o, factor);
        pin(o);
        wgmma_fence();
        issue_own<kHalf>(o, weights, operands, 1, 1);
        wgmma_commit();
      }
      wgmma_wait<0>();
      pin(o);
      warp_arrive(shared.empty(has_odd, 1));
    }
    segments.read(segment);
    finish(p, shared, segment, rows, 1, turn, state, o);
  }
}

template <bool kHalf>
__global__ void __launch_bounds__(kThreads, 1)
    attend_wgmma_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint8_t memory[];
  const Shared shared = {(shared_address(memory) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    prefetch_map(&p.pool);
    prefetch_map(&p.queries);
    for (int odd = 0; odd < 2; ++odd) {
      barrier_init(shared.full(odd, 0), kHalf ? kConverters : 1);
      barrier_init(shared.full(odd, 1), kHalf ? kConverters + 1 : 1);
      for (int half = 0; half < 2; ++half) barrier_init(shared.empty(odd, half), 4);
    }
    barrier_init(shared.query_full(), kHalf ? kConverters + 1 : 1);
    barrier_init(shared.query_raw(), 1);
    barrier_init(shared.query_empty(), 8);
    barrier_init_fence();
  }
  __syncthreads();
  allow_next_kernel();  // the combination's blocks come as these leave
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (warp < 8) {
    raise_registers<kHalf ? 216 : 232>();
    if (warp < 4) {
      attend_even<kHalf>(p, shared);
    } else {
      attend_odd<kHalf>(p, shared);
    }
    return;
  }
  lower_registers<kHalf ? 72 : 40>();
  if constexpr (kHalf) {
    load_and_convert(p, shared);
  } else if (warp == 8) {
    load_pages(p, shared);
  } else if (warp == 9) {
    load_queries(p, shared);
  }
}

}  // namespace

cudaError_t launch_attend_wgmma(const MlaDecodeProblem& problem, int num_sms, __half* partials,
                                float* lse, cudaStream_t stream) {
  Params p;
  p.in = make_inputs(problem, partials, lse);
  if (!encode_query_map(p.queries, problem, 64, CU_TENSOR_MAP_SWIZZLE_128B)) {
    return cudaErrorInvalidValue;
  }
  if (problem.format == PageFormat::kF8Group) {
    p.pages = static_cast<const uint8_t*>(problem.pool) + problem.layer_offset_bytes;
    p.page_stride_bytes = problem.page_stride_bytes;
    if (!encode_pool_map(p.pool, problem, 128, CU_TENSOR_MAP_SWIZZLE_128B)) {
      return cudaErrorInvalidValue;
    }
    return launch_tiles<attend_wgmma_kernel<true>, kThreads>(p, kSharedBytes, num_sms, stream);
  }
  if (!encode_pool_map(p.pool, problem, 64, CU_TENSOR_MAP_SWIZZLE_128B)) {
    return cudaErrorInvalidValue;
  }
  return launch_tiles<attend_wgmma_kernel<false>, kThreads>(p, kSharedBytes, num_sms, stream);
}

}  // namespace deepflight::cuda_mla_decode
