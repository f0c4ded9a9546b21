// Attention over e4m3 pages of 512 + 64 on Hopper's FP8 products, of pages as they lie in the pool.
// A block holds 64 query rows and walks its pages, which come through a ring. One warpgroup weighs:
// it scores a page and leaves its weights in the place of the page's rope. Two warpgroups sum, 256
// output columns each. Of the last four warps one copies pages, one queries, one makes weights
// known to products, and one tells what a segment is.
//
// Outputs are summed transposed, [column][row]: FP8 products want both operands along k, keys here,
// and values lie across. So values are the left operand, which may come out of registers: a
// transposing load takes pairs of columns, and two permutations make four keys of one column. Their
// order within 32 keys is the accumulators' own:
//
//     byte 16 h + 4 t + 2 b + e holds key 16 h + 8 b + 2 t + e
//
// Weights, rounded to e4m3, take the same order with no exchange at all. Scales of query rows and
// of the pool go into the softmax and the outputs; sums are of the rounded weights. The tensor
// cores keep about 14 bits of a sum and truncate, so they sum one page, and floats are added
// outside.
//
// With 128 heads the two tiles of a token are a pair of blocks, which walk the same pages. Each
// weighs its own rows and sums half of the columns for both: weights go to the other block too, so
// that columns are transposed once for two products, and a page's other half is of no use once it
// is scored.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/kernels/attention/mla_decode/store_fp8.cuh"
#include "compute/cuda/kernels/attention/mla_decode/tensor_map.h"
#include "compute/cuda/kernels/attention/mla_decode/tile_fp8.cuh"
#include "compute/cuda/kernels/attention/mla_decode/weigh_fp8.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kFp8Threads = 4 * kWarpgroup;
// Of threads that sum, weigh, and copy or tell; together what a block is launched with.
constexpr int kSumRegisters = 176, kWeighRegisters = 136, kCopyRegisters = 24;
static_assert(2 * kSumRegisters + kWeighRegisters + kCopyRegisters == 4 * 128);

// What is to be known of a segment's rows, two a lane.
__device__ void tell_rows(const Fp8Params& p, const Fp8Shared& shared, const Segment& segment,
                          const RowLimits& limits, int turn, uint32_t odd) {
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) % 32; row < kTileRows; row += 32) {
    uint8_t* const results = row_results(p.in, segment, row);
    const int idx = segment.first_token * p.in.num_heads + segment.first_row() + row;
    // Scores of rows that are another's stay small, and numbers where they are masked.
    store_shared(shared.query_scales(odd) + row * 4,
                 results != nullptr ? p.query_scales[idx] : 0x1p-100f);
    store_shared_word(shared.limits(odd) + row * 4, limits.of(p.in, segment, row));
    store_shared_pointer(shared.result_rows(turn) + row * 8, results);
  }
}

// How many bytes after results of this block's rows those of a pair's other block lie: its tile is
// the other half of the same token.
__device__ inline int64_t results_to_other(const Inputs& in, const Segment& segment, int rank) {
  const int64_t bytes = 2 * (segment.partial >= 0 ? int64_t{2} * kTileRows * kLatentDim
                                                  : kTileRows * in.out_head_stride);
  return rank == 0 ? bytes : -bytes;
}

// One warp: tells what a segment is while the one before is weighed, as others have no time to read
// records, and leaves split rows' log-sum-exps.
template <bool kPair>
__device__ void tell_segments(const Fp8Params& p, const Fp8Shared& shared, int rank) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Turn turn, before;
  uint32_t odd = 0;
  int partial = -1;  // of the segment before
  bool begins = true;
  Segments segments(p.in);
  Segment segment;
#pragma unroll 1
  while (true) {
    const bool more = segments.next(segment);
    wait_for_previous_kernel();
    if (more && segment.num_pages == 0) {
      store_zeros(p.in, segment, lane);
      continue;
    }
    if (more) {
      const RowLimits limits(p.in, segment);
      tell_rows(p, shared, segment, limits, turn.index, odd);
      if (lane == 0) {
        shared.tell(turn.index,
                    {segment.num_pages, limits.kv_end, limits.least, limits.first_key,
                     segment.partial >= 0, 0, kPair ? results_to_other(p.in, segment, rank) : 0});
      }
    } else if (lane == 0) {
      shared.tell(turn.index, {});
    }
    __syncwarp();
    if (elect_lane()) barrier_arrive(shared.told(turn.index));
    if (!begins) {
      barrier_sleep(shared.counted(before.index), before.parity);
      if (partial >= 0) {
        float* const lse = p.in.lse + int64_t{partial} * kTileRows + lane;
        lse[0] = load_shared(shared.lses(odd ^ 1) + lane * 4);
        lse[32] = load_shared(shared.lses(odd ^ 1) + lane * 4 + 32 * 4);
      }
    }
    if (!more) break;
    begins = false;
    partial = segment.partial;
    before = turn;
    turn = turn.next();
    odd ^= 1;
  }
}

// What a summing warpgroup carries along. It has 256 columns of 64 rows, from box() on; in a pair
// 128 of both blocks' rows.
template <bool kPair>
struct Summing {
  static constexpr int kBoxes = kPair ? 1 : 2;
  const Fp8Shared& shared;
  const WeightMatrix weights, incoming;  // of place 0
  const uint32_t other_factors;          // of place 0
  const uint32_t values_at;
  Stage stage{};
  bool is_weighed = false;  // the next page
  Values values;            // of the next block

  __device__ Summing(const Fp8Shared& memory, int half, int rank)
      : shared(memory),
        weights(memory.weights(0)),
        incoming(memory.incoming(0, rank)),
        other_factors(uniform(memory.incoming(0, rank) + Fp8Shared::kWeightBytes)),
        values_at(values_offset(kPair ? rank * 2 + half : half * 2)) {}
  // The first box of columns, and which of the block's two warpgroups this is; seen by values_at.
  __device__ int box() const { return static_cast<int>(lane_offset() / kBoxBytes); }
  __device__ int half() const { return kPair ? box() % 2 : box() / 2; }
  // values_at, opaque: what follows from it, its sums with blocks too, is made anew, not kept in
  // registers.
  __device__ uint32_t lane_offset() const {
    uint32_t offset = values_at;
    asm volatile("" : "+r"(offset));
    return offset;
  }
  __device__ void load(int block) {
    load_values(values, shared.page(stage.index), lane_offset(), block);
  }
  // Of this thread's rows: where a page's factors for them begin. (lane % 4 * 8, in values_at.)
  __device__ uint32_t own(uint32_t factors) const { return factors + (lane_offset() >> 4 & 24); }
  // This thread is its warp's first: seen by values_at, as a thread's index takes 60 cycles to
  // come.
  __device__ bool is_first() const { return (values_at & 31 * 128) == 0; }
  // Waits for a page of which `count` keys are defined.
  __device__ void await_page(int count) {
    barrier_wait(shared.full(stage.index), stage.parity);
    if (count < kPageTokens) {
      clear_keys<kBoxes>(shared.page(stage.index) + box() * kBoxBytes, count);
      named_sync<kWarpgroup>(kOwn + 1 + half());
    }
  }
};

// A page's part of the outputs. If another `follows`, `count` of its keys are defined; if none
// does, the page's place is kept, and what is loaded ahead is of no use. In a pair a block's
// columns are summed for its own rows and then, with the other block's weights, for those of the
// other.
template <bool kPair>
__device__ __forceinline__ void sum_page(Summing<kPair>& w, bool follows, int count, Outputs& o) {
  constexpr int kRowTiles = kPair ? 2 : 1, kColumns = 4 / kRowTiles;
  const Stage stage = w.stage;
  float sum[32];
  bool has_come = false;
  if (!w.is_weighed) barrier_wait(w.shared.weighed(stage.index), stage.parity);
  const auto factors_of = [&](bool other) {
    return other ? w.other_factors + stage.index * kFp8PageBytes : w.shared.factors(stage.index);
  };
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const bool other = m % kRowTiles == 1;
    Block& block = o[(other ? kColumns : 0) + m / kRowTiles];
    if (m == 1 && kPair && !has_come) barrier_wait(w.shared.come(stage.index), stage.parity);
    const uint32_t moved =
        m < kRowTiles ? load_shared_word(w.shared.moved_of(factors_of(other))) : 0;
    if (!other) part_columns(w.values);
    issue_outputs(sum, w.values, other ? w.incoming : w.weights, stage.index);
    if (m == 0) {
      rescale<0, kColumns>(o, w.own(factors_of(false)), moved);
      if (kPair) has_come = barrier_test(w.shared.come(stage.index), stage.parity);
    }
    if (m == 1 && kPair) rescale<2, 2>(o, w.own(factors_of(true)), moved);
    if (m == 3) {
      w.stage = stage.next();
      if (follows) w.await_page(count);
      w.is_weighed = follows && barrier_test(w.shared.weighed(w.stage.index), w.stage.parity);
    }
    wgmma_wait<0>();
    pin(sum);
    pin(w.values[0]);
    pin(w.values[1]);
    if (!kPair || other) w.load((m / kRowTiles + 1) % kColumns);
    if (m == 3 && follows && w.is_first()) barrier_arrive(w.shared.empty(stage.index));
#pragma unroll
    for (int i = 0; i < 32; ++i) block[i] += sum[i];
    pin(block);
  }
}

// Two warpgroups: the outputs.
template <bool kPair>
__device__ void sum_pages(const Fp8Shared& shared, int half, int rank) {
  Summing<kPair> w(shared, half, rank);
  Outputs o;
#pragma unroll 1
  for (Turn turn;; turn = turn.next()) {
    barrier_wait(shared.told(turn.index), turn.parity);
    const Fp8Shared::Told told = shared.told_of(turn.index);
    const int num_pages = static_cast<int>(uniform(told.num_pages));
    if (num_pages == 0) break;
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i / 32][i % 32] = 0.0f;
    int count = told.num_keys;
    w.await_page(count);
    w.load(0);
#pragma unroll 1
    for (int rest = num_pages; rest > 0; --rest) {
      count -= kPageTokens;
      sum_page(w, rest > 1, count, o);
    }
    barrier_wait(shared.counted(turn.index), turn.parity);
    named_sync<2 * kWarpgroup>(kBothSummed);
    store_outputs<kPair>(shared, turn, w.box(), w.stage.last(), o);
  }
}

// kPair: in clusters of two blocks, which walk the same pages with the two tiles of a token.
template <bool kPair>
__global__ void __launch_bounds__(kFp8Threads, 1)
    attend_fp8_kernel(const __grid_constant__ Fp8Params p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const Fp8Shared shared = {shared_address(memory)};
  if (shared.base % 1024 != 0) __trap();  // there is no room to align it
  const int rank = kPair ? static_cast<int>(uniform(cluster_rank())) : 0;
  const Fp8Shared other = {kPair ? uniform(address_in_block(shared.base, rank ^ 1)) : 0};
  if (threadIdx.x == 0) {
    prefetch_map(&p.wide);
    prefetch_map(&p.narrow);
    prefetch_map(&p.wide_queries);
    prefetch_map(&p.narrow_queries);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared.full(stage), 1);
      barrier_init(shared.empty(stage), 8);  // warps that sum
      barrier_init(shared.stored(stage), 4);
      barrier_init(shared.weighed(stage), 1);
      barrier_init(shared.ready(stage), 1);
      barrier_init(shared.room(stage), 4);
      barrier_init(shared.come(stage), 1);
    }
    barrier_init(shared.rope_read(), 4);
    barrier_init(shared.query_full(), 1);
    barrier_init(shared.query_read(), 4);
    for (int turn = 0; turn < Fp8Shared::kTurns; ++turn) {
      barrier_init(shared.counted(turn), 4);
      barrier_init(shared.other_counted(turn), 1);
      barrier_init(shared.told(turn), 1);
    }
    barrier_init_fence();
  }
  if (threadIdx.x < 8 * 64 / 4) {
    store_shared_word(shared.ones() + threadIdx.x * 4, 0x38383838);  // four times 1, e4m3
    async_proxy_fence();
  }
  kPair ? cluster_sync() : __syncthreads();
  allow_next_kernel();  // the combination's blocks come as these leave
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 8) {
    raise_registers<kSumRegisters>();
    sum_pages<kPair>(shared, warp / 4, rank);
  } else if (warp < 12) {
    raise_registers<kWeighRegisters>();
    weigh_pages<kPair>(p, shared, other);
  } else {
    lower_registers<kCopyRegisters>();
    if (warp == 12) {
      load_ring<kPair>(p, shared, other, rank);
    } else if (warp == 13) {
      publish_weights<kPair>(shared, other, rank);
    } else if (warp == 14) {
      load_queries(p, shared);
    } else {
      tell_segments<kPair>(p, shared, rank);
    }
  }
  if (kPair) cluster_meet();  // the other block has what was copied to it out of here
}

}  // namespace

cudaError_t launch_attend_fp8(const MlaDecodeProblem& problem, int num_sms, __half* partials,
                              float* lse, cudaStream_t stream) {
  Fp8Params p;
  if (!encode_pool_map(p.wide, problem, 128, CU_TENSOR_MAP_SWIZZLE_128B) ||
      !encode_pool_map(p.narrow, problem, 64, CU_TENSOR_MAP_SWIZZLE_64B) ||
      !encode_query_map(p.wide_queries, problem, 128, CU_TENSOR_MAP_SWIZZLE_128B) ||
      !encode_query_map(p.narrow_queries, problem, 64, CU_TENSOR_MAP_SWIZZLE_64B)) {
    return cudaErrorInvalidValue;
  }
  p.query_scales = problem.query_scales;
  p.in = make_inputs(problem, partials, lse);
  // Lanes are even in number then, and neighbouring blocks have tiles of one token.
  const bool pairs = problem.num_heads % (2 * kTileRows) == 0;
  const auto launch = pairs ? launch_tiles<attend_fp8_kernel<true>, kFp8Threads, 2, Fp8Params>
                            : launch_tiles<attend_fp8_kernel<false>, kFp8Threads, 1, Fp8Params>;
  return launch(p, Fp8Shared::kBytes, num_sms, stream);
}

}  // namespace deepflight::cuda_mla_decode
