// Attention over e4m3 pages of 512 + 64 on Hopper's FP8 products, of pages as they lie in the pool.
// A block holds 64 query rows and walks its pages, which come through a ring. One warpgroup weighs:
// it scores a page and leaves its weights in the place of the page's rope. Two warpgroups sum, 256
// output columns each, and two warps add up the weights. Outputs are summed transposed,
// [column][row]: FP8 products want both operands along k, keys here, and values lie across. So
// values are the left operand, which may come out of registers: a transposing load takes pairs of
// columns, and two permutations make four keys of one column. Their order within 32 keys is the
// accumulators' own:
//
//     byte 16 h + 4 t + 2 b + e holds key 16 h + 8 b + 2 t + e
//
// Weights, rounded to e4m3, take the same order with no exchange at all. Scales of query rows and
// of the pool go into the softmax and the outputs; sums are of the rounded weights. The tensor
// cores keep about 14 bits of a sum and truncate, so they sum one page, and floats are added
// outside.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/tensor_map.h"
#include "compute/cuda/kernels/attention/mla_decode/tile_fp8.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kFp8Threads = 4 * kWarpgroup;
// Of threads that sum, weigh, and copy or count; together what a block is launched with.
constexpr int kSumRegisters = 192, kWeighRegisters = 104, kCopyRegisters = 24;
static_assert(2 * kSumRegisters + kWeighRegisters + kCopyRegisters == 4 * 128);

// What the weighing warpgroup carries through a segment.
struct Weighing {
  const Fp8Params& p;
  const Fp8Shared& shared;
  const Fp8Operands pages;  // of place 0
  Stage stage{};            // of the page that is weighed next
  int turn = 0;
  float scale[2] = {};  // of scores

  __device__ Weighing(const Fp8Params& params, const Fp8Shared& memory)
      : p(params), shared(memory), pages(memory.page(0)) {}

  __device__ void begin(const Segment& segment, const Rows& rows) {
    stage = round_queries(p.in, shared, segment, stage);
    stage.index = static_cast<int>(uniform(stage.index));
    stage.parity = uniform(stage.parity);
    const uint32_t scales = shared.query_scales() + rows.row * 4;
    scale[0] = p.in.score_scale * load_shared(scales);
    scale[1] = p.in.score_scale * load_shared(scales + 32);
  }
  // `queries`: anew for each page, or the compiler keeps all their descriptors over the loop.
  template <int kPart>
  __device__ void issue(float (&s)[32], const Fp8Operands& queries, const Stage& page) const {
    if (kPart == 0) barrier_wait(shared.full(page.index), page.parity);
    issue_scores<kPart>(s, queries, pages, page.index);
  }
  // The page has its weights.
  __device__ void publish() {
    async_proxy_fence();
    __syncwarp();
    warp_arrive(shared.weighed(stage.index));
    stage = stage.next();
  }
};

// Weights out of scores, in the place of the page's rope, with what became of the rows. `first` and
// `second`: what is to be started amid it.
template <typename First, typename Second>
__device__ inline void make_weights(const Weighing& w, const Rows& rows, int page_idx,
                                    float (&s)[32], RowState& state, const First& first,
                                    const Second& second) {
  const Fp8Shared& shared = w.shared;
  const int stage = w.stage.index, begin = page_idx * kPageTokens;
  mask_page(s, rows, begin);
  first();
  uint32_t words[8];
  float factor[2] = {1.0f, 1.0f};
  const bool moved = state.move(s, w.scale, kLead, kSlack, factor);
  second();
  round_weights(s, w.scale, state, words);
  named_sync<kWarpgroup>(kOwn);  // all have read the rope
  store_weights(words, shared.weights(stage));
  if (moved && rows.key == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      store_shared(shared.factors(stage) + (rows.row + 8 * r) * 4, factor[r]);
    }
  }
  if (threadIdx.x % 32 == 0) {
    asm volatile("st.shared.u8 [%0], %1;" ::"r"(shared.moved(stage) + threadIdx.x / 32 % 4),
                 "r"(moved ? 1 : 0)
                 : "memory");
  }
}

// The rows' last offsets, for those who count.
__device__ inline void leave_offsets(const Fp8Shared& shared, int turn, const Rows& rows,
                                     const RowState& state) {
  if (rows.key != 0) return;
  store_shared(shared.offsets(turn) + rows.row * 4, state.offset[0]);
  store_shared(shared.offsets(turn) + rows.row * 4 + 32, state.offset[1]);
}

// Page `i` of the segment, whose scores are under way, while the tensor cores score the next.
__device__ __forceinline__ void weigh_page(Weighing& w, const Rows& rows, int i, float (&s)[32],
                                           float (&next)[32], RowState& state) {
  const Fp8Operands queries(w.shared.query());
  wgmma_wait<0>();
  pin(s);
  make_weights(
      w, rows, i, s, state, [&] { w.issue<0>(next, queries, w.stage.next()); },
      [&] { w.issue<1>(next, queries, w.stage.next()); });
  w.publish();
}

// One warpgroup: scores and weights of all pages.
__device__ void weigh_pages(const Fp8Params& p, const Fp8Shared& shared) {
  Weighing w(p, shared);
  float s[2][32];
  Segments segments(p.in);
  Segment segment;
  bool more = segments.next(segment);
  while (more) {
    const Rows rows(p.in, segment);
    RowState state;
    const int num_pages = static_cast<int>(uniform(segment.num_pages));
    if (num_pages == 0) {
      more = segments.next(segment);
      continue;
    }
    w.begin(segment, rows);
    const Fp8Operands queries(shared.query());
    w.issue<0>(s[0], queries, w.stage);
    w.issue<1>(s[0], queries, w.stage);
    int i = 0;
#pragma unroll 1
    for (; i + 2 < num_pages; i += 2) {
      weigh_page(w, rows, i, s[0], s[1], state);
      weigh_page(w, rows, i + 1, s[1], s[0], state);
    }
    if (i + 2 == num_pages) {
      weigh_page(w, rows, i++, s[0], s[1], state);
      more = segments.next(segment);  // comes while the scores do
      wgmma_wait<0>();
      pin(s[1]);
#pragma unroll
      for (int k = 0; k < 32; ++k) s[0][k] = s[1][k];
    } else {
      more = segments.next(segment);
      wgmma_wait<0>();
      pin(s[0]);
    }
    make_weights(
        w, rows, i, s[0], state, [] {}, [] {});
    leave_offsets(shared, w.turn, rows, state);
    w.publish();
    w.turn = (w.turn + 1) % Fp8Shared::kTurns;
  }
}

// Where a row of the segment's tile goes; null: not a row of the sequence.
__device__ inline uint8_t* row_results(const Inputs& in, const Segment& segment, int local) {
  if (segment.partial >= 0) {
    return reinterpret_cast<uint8_t*>(in.partials +
                                      (int64_t{segment.partial} * kTileRows + local) * kLatentDim);
  }
  const int row = segment.first_row() + local;
  const int token = row / in.num_heads, head = row - token * in.num_heads;
  if (token >= segment.num_queries) return nullptr;
  return reinterpret_cast<uint8_t*>(in.out + int64_t{segment.first_token + token} * in.out_stride +
                                    int64_t{head} * in.out_head_stride);
}

// Two warps, a row a thread: sums of rounded weights over a segment's pages, and where its results
// go. Whoever weighs or sums has no time for it.
__device__ void count_pages(const Fp8Params& p, const Fp8Shared& shared) {
  const int row = static_cast<int>(threadIdx.x) % (2 * 32);
  Stage stage;
  int turn = 0;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    float sum = 0.0f;
    if (segment.num_pages > 0) stage = stage.next(query_stages(p.in, segment));
#pragma unroll 1
    for (int rest = segment.num_pages; rest > 0; --rest, stage = stage.next()) {
      barrier_wait(shared.weighed(stage.index), stage.parity);
      if (load_shared_word(shared.moved(stage.index)) >> row / 16 * 8 & 0xff) {
        sum *= load_shared(shared.factors(stage.index) + row * 4);
      }
#pragma unroll 1
      for (int chunk = 0; chunk < 4; chunk += 2) {
        const uint32_t box = shared.weights(stage.index);
        sum += sum_weights(load_shared_vector(box + chunk_of_64(row, chunk)),
                           load_shared_vector(box + chunk_of_64(row, chunk + 1)));
      }
      __syncwarp();
      if (elect_lane()) barrier_arrive(shared.empty(stage.index), 2);
    }
    if (segment.num_pages > 0) {
      store_shared(shared.result_factors(turn) + row * 4,
                   sum > 0.0f ? __fdividef(p.in.output_scale, sum) : 0.0f);
      store_shared_pointer(shared.result_rows(turn) + row * 8, row_results(p.in, segment, row));
      if (row == 0) store_shared_word(shared.is_partial(turn), segment.partial >= 0 ? 1 : 0);
    }
    if (segment.partial >= 0) {
      wait_for_previous_kernel();
      const float offset = sum > 0.0f ? load_shared(shared.offsets(turn) + row * 4) : 0.0f;
      p.in.lse[int64_t{segment.partial} * kTileRows + row] =
          sum > 0.0f ? offset + log2f(sum) : -INFINITY;
    }
    if (segment.num_pages == 0) continue;
    __syncwarp();
    if (elect_lane()) barrier_arrive(shared.counted(turn));
    turn = (turn + 1) % Fp8Shared::kTurns;
  }
}

// A segment without pages: zeros, by the warpgroup whose columns they are.
__device__ inline void store_zeros(const Inputs& in, const Segment& segment, int half) {
  const int thread = this_thread();
  wait_for_previous_kernel();
#pragma unroll 1
  for (int row = thread / 32; row < kTileRows; row += kWarpgroup / 32) {
    uint8_t* out = row_results(in, segment, row);
    if (out != nullptr) reinterpret_cast<uint4*>(out + half * 512)[thread % 32] = uint4{};
  }
}

// Two blocks of a warpgroup's sums, times its row's factor each, to rows of 128 columns in shared
// memory.
template <bool kPartial>
__device__ inline void write_results(uint32_t rows, uint32_t factors, int thread,
                                     const float (&a)[32], const float (&b)[32]) {
  rows += thread % 4 * 2 * kResultStride + thread / 4 * 4;
  factors += thread % 4 * 8;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 factor = load_shared_pair(factors + i * 32);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int at = i * 4 + odd;
      const float by = odd == 0 ? factor.x : factor.y;
      const uint32_t row = rows + (i * 8 + odd) * kResultStride;
      store_shared_word(row, pack_results(a[at] * by, a[at + 2] * by, kPartial));
      store_shared_word(row + 128, pack_results(b[at] * by, b[at + 2] * by, kPartial));
    }
  }
}

// Rows of 128 columns from shared memory to `at` of where `table` says that each goes, 16 threads a
// row.
__device__ inline void copy_results(uint32_t rows, uint32_t table, int thread, int at) {
  constexpr int kStep = kWarpgroup / 16, kBatch = 4;
  rows += thread / 16 * kResultStride + thread % 16 * 16;
  table += thread / 16 * 8;
#pragma unroll
  for (int first = 0; first < kTileRows; first += kBatch * kStep) {
    uint4 results[kBatch];
    uint8_t* out[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      results[i] = load_shared_vector(rows + (first + i * kStep) * kResultStride);
      out[i] = load_shared_pointer(table + (first + i * kStep) * 8);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (out[i] == nullptr) continue;
      *reinterpret_cast<uint4*>(out[i] + at + thread % 16 * 16) = results[i];
    }
  }
}

// Sums of a segment to results: the outputs if the tile is whole, else a slot of partial ones. They
// go through the place of its last page, which is free then, so that a warp stores whole lines of
// two rows.
__device__ inline void store_outputs(const Fp8Shared& shared, int turn, int half, int place,
                                     const Outputs& o) {
  const int thread = this_thread();
  const uint32_t rows = shared.page(place) + half * kResultBytes;
  const uint32_t factors = shared.result_factors(turn), table = shared.result_rows(turn);
  const bool is_partial = load_shared_word(shared.is_partial(turn)) != 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (is_partial) {
      write_results<true>(rows, factors, thread, o[2 * i], o[2 * i + 1]);
    } else {
      write_results<false>(rows, factors, thread, o[2 * i], o[2 * i + 1]);
    }
    named_sync<kWarpgroup>(kOwn + 1 + half);
    if (i == 0) wait_for_previous_kernel();
    copy_results(rows, table, thread, half * 512 + i * 256);
    if (i == 0) named_sync<kWarpgroup>(kOwn + 1 + half);
  }
  warp_arrive(shared.empty(place));
}

// What a summing warpgroup carries along.
struct Summing {
  const Fp8Shared& shared;
  const WeightMatrix weights;  // of place 0
  const int half;
  uint32_t values_at;
  Stage stage{};
  Values values[2];  // of blocks 0 and 1, then 2 and 3; at a page's begin it has those of block 0

  __device__ Summing(const Fp8Shared& memory, int which)
      : shared(memory), weights(memory.weights(0)), half(which), values_at(values_offset(which)) {
    asm volatile("" : "+r"(values_at));  // one register: not four sums with it
  }
  __device__ void load(int block) {
    load_values(values[block % 2], shared.page(stage.index) + values_at, block);
  }
  // Of this thread's rows: where the page's factors for them begin. (lane % 4 * 8, in values_at.)
  __device__ uint32_t factors(int index) const {
    return shared.factors(index) + (values_at >> 4 & 24);
  }
  // This thread is its warp's first: seen by values_at, as a thread's index takes 60 cycles to
  // come.
  __device__ bool is_first() const { return (values_at & 31 * 128) == 0; }
  // Waits for a page of which `count` keys are defined and loads its first block.
  __device__ void begin_page(int count) {
    barrier_wait(shared.full(stage.index), stage.parity);
    if (count < kPageTokens) {
      clear_keys(shared, stage.index, half, count);
      named_sync<kWarpgroup>(kOwn + 1 + half);
    }
    load(0);
  }
};

// A page's part of the outputs. If another `follows`, `count` of its keys are defined; if none
// does, the page's place is kept.
__device__ __forceinline__ void sum_page(Summing& w, bool follows, int count, Outputs& o) {
  const Stage stage = w.stage;
  float sum[32];
  barrier_wait(w.shared.weighed(stage.index), stage.parity);
  const uint32_t moved = load_shared_word(w.shared.moved(stage.index));
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    part_columns(w.values[m % 2]);
    issue_outputs(sum, w.values[m % 2], w.weights, stage.index);
    if (m == 0) {
      w.load(1);
      rescale(o, w.factors(stage.index), moved);
    }
    if (m == 3) {
      w.stage = stage.next();
      if (follows) w.begin_page(count);
    }
    wgmma_wait<0>();
    pin(sum);
    if (m == 0 || m == 1) w.load(m + 2);
#pragma unroll
    for (int i = 0; i < 32; ++i) o[m][i] += sum[i];
    pin(o[m]);
  }
  if (follows && w.is_first()) barrier_arrive(w.shared.empty(stage.index));
}

// Two warpgroups, 256 columns each: the outputs.
__device__ void sum_pages(const Fp8Params& p, const Fp8Shared& shared, int half) {
  Summing w(shared, half);
  int turn = 0;
  Outputs o;
  Segments segments(p.in);
  Segment segment;
  bool more = segments.next(segment);
  while (more) {
    const int num_pages = static_cast<int>(uniform(segment.num_pages));
    if (num_pages == 0) {
      store_zeros(p.in, segment, half);
      more = segments.next(segment);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i / 32][i % 32] = 0.0f;
    w.stage = w.stage.next(query_stages(p.in, segment));
    int count = segment.kv_len - segment.first_page * kPageTokens;
    w.begin_page(count);
#pragma unroll 1
    for (int rest = num_pages; rest > 0; --rest) {
      count -= kPageTokens;
      sum_page(w, rest > 1, count, o);
    }
    more = segments.next(segment);  // comes while the last weights are counted
    const int at = turn % Fp8Shared::kTurns;
    barrier_wait(shared.counted(at), turn / Fp8Shared::kTurns);
    named_sync<2 * kWarpgroup>(kBothSummed);
    store_outputs(shared, at, half, w.stage.last(), o);
    turn = (turn + 1) % (2 * Fp8Shared::kTurns);
  }
}

// kPair: in clusters of two blocks, which walk the same pages.
template <bool kPair>
__global__ void __launch_bounds__(kFp8Threads, 1)
    attend_fp8_kernel(const __grid_constant__ Fp8Params p) {
  extern __shared__ uint8_t memory[];
  const Fp8Shared shared = {(shared_address(memory) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    prefetch_map(&p.wide);
    prefetch_map(&p.narrow);
    prefetch_map(&p.queries);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared.full(stage), 1);
      barrier_init(shared.empty(stage), 12);  // eight warps that sum, two that count, twice
      barrier_init(shared.weighed(stage), 4);
      barrier_init(shared.ready(stage), 1);
    }
    for (int turn = 0; turn < Fp8Shared::kTurns; ++turn) barrier_init(shared.counted(turn), 2);
    barrier_init_fence();
  }
  kPair ? cluster_sync() : __syncthreads();
  allow_next_kernel();  // the combination's blocks come as these leave
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 8) {
    raise_registers<kSumRegisters>();
    sum_pages(p, shared, warp / 4);
  } else if (warp < 12) {
    lower_registers<kWeighRegisters>();
    weigh_pages(p, shared);
  } else {
    lower_registers<kCopyRegisters>();
    if (warp == 12) {
      load_ring<kPair>(p, shared);
    } else if (warp >= 14) {
      count_pages(p, shared);
    }
  }
}

}  // namespace

cudaError_t launch_attend_fp8(const MlaDecodeProblem& problem, int num_sms, __half* partials,
                              float* lse, cudaStream_t stream) {
  Fp8Params p;
  if (!encode_pool_map(p.wide, problem, 128, CU_TENSOR_MAP_SWIZZLE_128B) ||
      !encode_pool_map(p.narrow, problem, 64, CU_TENSOR_MAP_SWIZZLE_64B) ||
      !encode_query_map(p.queries, problem, kQueryColumns, kQueryRows,
                        CU_TENSOR_MAP_SWIZZLE_NONE)) {
    return cudaErrorInvalidValue;
  }
  p.in = make_inputs(problem, partials, lse);
  // Lanes are even in number then, and neighbouring blocks have tiles of one token.
  const bool pairs = problem.num_heads % (2 * kTileRows) == 0;
  const auto launch = pairs ? launch_tiles<attend_fp8_kernel<true>, kFp8Threads, 2, Fp8Params>
                            : launch_tiles<attend_fp8_kernel<false>, kFp8Threads, 1, Fp8Params>;
  return launch(p, Fp8Shared::kBytes, num_sms, stream);
}

}  // namespace deepflight::cuda_mla_decode
