// Attention over e4m3 pages of 512 + 64 on Hopper's FP8 products, of pages as they lie in the pool.
// A block holds 64 query rows and walks its pages, which come through a ring. One warpgroup weighs:
// it scores a page and leaves its weights in the place of the page's rope. Two warpgroups sum, 256
// output columns each. Outputs are summed transposed, [column][row]: FP8 products want both
// operands along k, keys here, and values lie across. So values are the left operand, which may
// come out of registers: a transposing load takes pairs of columns, and two permutations make four
// keys of one column. Their order within 32 keys is the accumulators' own:
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
// Of threads that sum, weigh and copy; together what a block is launched with.
constexpr int kSumRegisters = 192, kWeighRegisters = 104, kCopyRegisters = 24;
static_assert(2 * kSumRegisters + kWeighRegisters + kCopyRegisters == 4 * 128);

// Weights out of scores, in the place of the page's rope, with what became of the rows.
__device__ inline void make_weights(const Fp8Shared& shared, int stage, const Rows& rows,
                                    int page_idx, const float (&scale)[2], float (&s)[32],
                                    RowState& state) {
  const int begin = page_idx * kPageTokens;
  // The first of a thread's rows sees the fewest.
  if (__any_sync(0xffffffffu, begin + kPageTokens > rows.limit[0])) {
    mask_scores(s, begin + rows.key, rows.limit);
  }
  uint32_t words[8];
  float factor[2] = {1.0f, 1.0f};
  const bool moved = round_weights(s, scale, state, words, factor);
  named_sync<kWarpgroup>(kOwn);  // all have read the rope
  store_weights(words, shared.weights(stage));
  if (rows.key == 0) {
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

// Sums of rows over all pages to shared memory, and with the offsets to the results of a split
// tile.
__device__ inline void finish_rows(const Inputs& in, const Fp8Shared& shared, int turn,
                                   const Segment& segment, const Rows& rows,
                                   const RowState& state) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = rows.row + 8 * r;
    const float sum = quad_sum(state.sum[r]);
    if (rows.key != 0) continue;
    store_shared(shared.sums(turn) + row * 4, sum);
    if (segment.partial >= 0) {
      in.lse[int64_t{segment.partial} * kTileRows + row] =
          sum > 0.0f ? state.offset[r] + log2f(sum) : -INFINITY;
    }
  }
}

// One warpgroup: scores and weights of all pages.
__device__ void weigh_pages(const Fp8Params& p, const Fp8Shared& shared) {
  const Fp8Operands operands(shared);
  Stage stage;
  int turn = 0;
  float s[32];
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
    const Rows rows(p.in, segment);
    RowState state;
    if (segment.num_pages == 0) {
      // Nobody waits for its sums.
      finish_rows(p.in, shared, turn, segment, rows, state);
      continue;
    }
    stage = round_queries(p.in, shared, segment, stage);
    const uint32_t scales = shared.query_scales() + rows.row * 4;
    const float scale[2] = {p.in.score_scale * load_shared(scales),
                            p.in.score_scale * load_shared(scales + 32)};
#pragma unroll 1
    for (int i = 0; i < segment.num_pages; ++i) {
      barrier_wait(shared.full(stage.index), stage.parity);
      issue_scores(s, operands, stage.index);
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
      make_weights(shared, stage.index, rows, i, scale, s, state);
      if (i + 1 == segment.num_pages) finish_rows(p.in, shared, turn, segment, rows, state);
      async_proxy_fence();
      __syncwarp();
      warp_arrive(shared.weighed(stage.index));
      stage = stage.next();
    }
    turn = (turn + 1) % Fp8Shared::kTurns;
  }
}

// Sums of a segment to results: the outputs if the tile is whole, else a slot of partial ones.
__device__ inline void store_outputs(const Inputs& in, const Fp8Shared& shared, int turn,
                                     const Segment& segment, int half, const Outputs& o) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int column = half * 256 + warp * 16 + lane / 4 * 2;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int pair = 8 * i + lane % 4 * 2;
    float2 sums = load_pair(shared.sums(turn) + pair * 4);
    if (segment.num_pages == 0) sums = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float sum = e == 0 ? sums.x : sums.y;
      const float factor = sum > 0.0f ? __fdividef(in.output_scale, sum) : 0.0f;
      const int row = segment.first_row() + pair + e;
      const int token = row / in.num_heads;
      if (token >= segment.num_queries) continue;
      float* partial =
          in.partials + (int64_t{segment.partial} * kTileRows + pair + e) * kLatentDim + column;
      __nv_bfloat16* out = in.out + int64_t{segment.first_token + token} * in.out_stride +
                           int64_t{row - token * in.num_heads} * in.out_head_stride + column;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const float low = o[m][4 * i + e] * factor, high = o[m][4 * i + 2 + e] * factor;
        if (segment.partial >= 0) {
          *reinterpret_cast<float2*>(partial + 64 * m) = make_float2(low, high);
        } else {
          *reinterpret_cast<uint32_t*>(out + 64 * m) = pack_bf16(low, high);
        }
      }
    }
  }
}

// A page's part of the outputs, of which `count` keys are defined.
__device__ inline void sum_page(const Fp8Shared& shared, const Fp8Operands& operands,
                                const Stage& stage, int half, int count, Outputs& o) {
  Values values[2];
  float sum[32];
  barrier_wait(shared.full(stage.index), stage.parity);
  load_values(values[0], shared, stage.index, half, 0);
  if (count < kPageTokens) clear_values(values[0], count);
  barrier_wait(shared.weighed(stage.index), stage.parity);
  rescale(o, shared, stage.index);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    issue_outputs(sum, values[m % 2], operands, stage.index);
    wgmma_commit();
    if (m < 3) {
      load_values(values[(m + 1) % 2], shared, stage.index, half, m + 1);
      if (count < kPageTokens) clear_values(values[(m + 1) % 2], count);
    }
    wgmma_wait<0>();
    pin(sum);
#pragma unroll
    for (int i = 0; i < 32; ++i) o[m][i] += sum[i];
  }
}

// Two warpgroups, 256 columns each: the outputs.
__device__ void sum_pages(const Fp8Params& p, const Fp8Shared& shared, int half) {
  const Fp8Operands operands(shared);
  Stage stage;
  int turn = 0;
  Outputs o;
  Segments segments(p.in);
  Segment segment;
  while (segments.next(segment)) {
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i / 32][i % 32] = 0.0f;
    if (segment.num_pages > 0) stage = stage.next(query_stages(p.in, segment));
    int count = segment.kv_len - segment.first_page * kPageTokens;
#pragma unroll 1
    for (int rest = segment.num_pages; rest > 0; --rest) {
      sum_page(shared, operands, stage, half, count, o);
      warp_arrive(shared.empty(stage.index));
      stage = stage.next();
      count -= kPageTokens;
    }
    segments.read(segment);  // again, rather than keep it
    store_outputs(p.in, shared, turn, segment, half, o);
    if (segment.num_pages > 0) turn = (turn + 1) % Fp8Shared::kTurns;
  }
}

__global__ void __launch_bounds__(kFp8Threads, 1)
    attend_fp8_kernel(const __grid_constant__ Fp8Params p) {
  extern __shared__ uint8_t memory[];
  const Fp8Shared shared = {(shared_address(memory) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    prefetch_map(&p.wide);
    prefetch_map(&p.narrow);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared.full(stage), 1);
      barrier_init(shared.empty(stage), 8);
      barrier_init(shared.weighed(stage), 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  allow_next_kernel();  // the combination's blocks come as these leave
  wait_for_previous_kernel();
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp < 8) {
    raise_registers<kSumRegisters>();
    sum_pages(p, shared, warp / 4);
  } else if (warp < 12) {
    lower_registers<kWeighRegisters>();
    weigh_pages(p, shared);
  } else {
    lower_registers<kCopyRegisters>();
    if (warp == 12) load_ring(p, shared);
  }
}

}  // namespace

cudaError_t launch_attend_fp8(const MlaDecodeProblem& problem, int num_sms, float* partials,
                              float* lse, cudaStream_t stream) {
  Fp8Params p;
  if (!encode_pool_map(p.wide, problem, 128, CU_TENSOR_MAP_SWIZZLE_128B) ||
      !encode_pool_map(p.narrow, problem, 64, CU_TENSOR_MAP_SWIZZLE_64B)) {
    return cudaErrorInvalidValue;
  }
  p.in = make_inputs(problem, partials, lse);
  return launch_tiles<attend_fp8_kernel, kFp8Threads>(p, Fp8Shared::kBytes, num_sms, stream);
}

}  // namespace deepflight::cuda_mla_decode
