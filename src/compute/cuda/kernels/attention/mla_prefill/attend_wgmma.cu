// Attention over a chunk's expanded keys and values, 192-wide queries and 128-wide values, on
// Hopper's warpgroup products. Persistent blocks of three warpgroups: one copies (a thread), two
// multiply, 64 query rows each, against 128 keys at a time. Scores of the next keys are computed
// while the softmax of these runs, and the two warpgroups take turns at the tensor cores.
#include <algorithm>

#include "compute/cuda/kernels/attention/mla_prefill/hopper.cuh"
#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/kernels/attention/mla_prefill/layout.cuh"
#include "compute/cuda/kernels/attention/mla_prefill/softmax.cuh"
#include "compute/cuda/kernels/attention/mla_prefill/store.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/warp.cuh"
#include "compute/cuda/runtime/tensor_map.h"

namespace deepflight::cuda_mla_prefill {
namespace {

// Hands out the block's next tile, the `number`-th, and its queries, once those before are held.
__device__ void hand_out(const WgmmaParams& p, const Shared& shared, int index, int number) {
  Tile& tile = shared.tile(number);
  barrier_wait(shared.query_empty(), (number & 1) ^ 1);
  if (index >= p.num_tiles) {
    tile.num_blocks = 0;
    barrier_arrive(shared.query_full());
    return;
  }
  tile = Tile(p, index);
  barrier_arrive_expect(shared.query_full(), kQueryBytes);
  for (int box = 0; box < 3; ++box) {
    load_box(shared.query() + box * kBoxBytes, &p.q, shared.query_full(), box * 64, tile.head,
             tile.first_query);
  }
}

// Copies keys and values, and with a tile's last keys the next tile's queries: at its end nothing
// waits for them.
__device__ void produce(const WgmmaParams& p, const Shared& shared) {
  hand_out(p, shared, static_cast<int>(blockIdx.x), 0);
  int count = 0;
  for (int number = 0;; ++number) {
    const int head = shared.tile(number).head, first_key = shared.tile(number).first_key;
    int block = shared.tile(number).num_blocks - 1;
    if (block < 0) return;
    for (; block >= 0; --block, ++count) {
      const int stage = count % kStages;
      const uint32_t parity = (count / kStages & 1) ^ 1;
      const int row = first_key + block * kKeyTile;
      int next = 0;
      if (block == 0) next = static_cast<int>(gridDim.x) + atomicAdd(p.counter, 1);
      barrier_wait(shared.key_empty(stage), parity);
      barrier_arrive_expect(shared.key_full(stage), kKeyBytes);
      const uint32_t key = shared.key(stage);
      load_box(key, &p.expanded, shared.key_full(stage), 0, head, row);
      load_box(key + kBoxBytes, &p.expanded, shared.key_full(stage), 64, head, row);
      load_box(key + 2 * kBoxBytes, &p.k_pe, shared.key_full(stage), 0, 0, row);
      if (block == 0) hand_out(p, shared, next, number + 1);
      barrier_wait(shared.value_empty(stage), parity);
      barrier_arrive_expect(shared.value_full(stage), kValueBytes);
      const uint32_t value = shared.value(stage);
      load_box(value, &p.expanded, shared.value_full(stage), 128, head, row);
      load_box(value + kBoxBytes, &p.expanded, shared.value_full(stage), 192, head, row);
    }
  }
}

// What a warpgroup carries along: 64 rows of the tile, at one of its blocks of keys.
struct Attending {
  const Shared& shared;
  const int group;
  const Matrices<16, 1024> keys;           // of stage 0
  const Matrices<kBoxBytes, 1024> values;  // of stage 0
  HeldQueries held;
  const Tile* tile;
  int block;
  int seen_by_all;  // keys up to it
  int count = 0;    // blocks of all tiles

  __device__ Attending(const Shared& memory, int group_idx)
      : shared(memory), group(group_idx), keys(memory.key(0)), values(memory.value(0)) {}

  __device__ static bool is_first() { return threadIdx.x % 32 == 0; }

  // Takes the block's `number`-th tile; false if there is none.
  __device__ bool take(int number) {
    barrier_wait(shared.query_full(), number & 1);
    tile = &shared.tile(number);
    block = tile->num_blocks - 1;
    if (block < 0) return false;
    hold_queries(held, shared.query() + group * 64 * 128);
    __syncwarp();
    if (is_first()) barrier_arrive(shared.query_empty());
    seen_by_all = min(tile->diagonal + group * 64, tile->num_keys - 1);
    return true;
  }
  // Of the block's second half no row of the warpgroup sees a key.
  __device__ bool is_half() const { return block * kKeyTile + kKeyTile / 2 > seen_by_all + 63; }

  // This thread's first row, and where its warp stages outputs: asked for anew, as registers are
  // few.
  __device__ static int row() { return thread_anew() / 32 * 16 + thread_anew() % 32 / 4; }
  __device__ uint32_t staging() const { return shared.staging(thread_anew() / 32); }

  // Scores of what rows do not see become -inf.
  __device__ void mask(float (&s)[64]) const {
    const int first = block * kKeyTile + static_cast<int>(threadIdx.x) % 4 * 2;
    if (block * kKeyTile + kKeyTile - 1 > seen_by_all) {
      const int last[2] = {min(tile->diagonal + row(), tile->num_keys - 1) - first,
                           min(tile->diagonal + row() + 8, tile->num_keys - 1) - first};
      mask_scores(s, last);
    }
    if (block == 0 && tile->first_seen > 0) mask_first_scores(s, tile->first_seen - first);
  }

  // Scores of the block's first kKeys keys, beside nothing.
  template <int kKeys>
  __device__ void score(float (&s)[64]) const {
    const int stage = count % kStages;
    barrier_wait(shared.key_full(stage), count / kStages & 1);
    pin(s);
    wgmma_fence();
    issue_scores<kKeys>(s, held, keys, stage);
    wgmma_commit();
    wgmma_wait<0>();
    pin(s);
    if (is_first()) barrier_arrive(shared.key_empty(stage));
#pragma unroll
    for (int i = kKeys / 2; i < 64; ++i) s[i] = -INFINITY;
  }
  // Outputs of the block before, count - 1, beside them, and in turn with the other warpgroup.
  template <int kKeys>
  __device__ void score_beside(float (&s)[64], float (&o)[64],
                               const uint32_t (&weights)[32]) const {
    const int stage = count % kStages, before = (count - 1) % kStages;
    barrier_wait(shared.key_full(stage), count / kStages & 1);
    named_sync<256>(1 + group);
    pin(s);
    pin(o);
    wgmma_fence();
    issue_scores<kKeys>(s, held, keys, stage);
    wgmma_commit();
    barrier_wait(shared.value_full(before), (count - 1) / kStages & 1);
    wgmma_fence();
    issue_outputs(o, weights, values, before);
    wgmma_commit();
    named_arrive<256>(2 - group);
    wgmma_wait<1>();
    pin(s);
    if (is_first()) barrier_arrive(shared.key_empty(stage));
    wgmma_wait<0>();
    pin(o);
    if (is_first()) barrier_arrive(shared.value_empty(before));
#pragma unroll
    for (int i = kKeys / 2; i < 64; ++i) s[i] = -INFINITY;
  }
  // Those of the last block, beside nothing.
  __device__ void finish(float (&o)[64], const uint32_t (&weights)[32]) const {
    const int before = (count - 1) % kStages;
    barrier_wait(shared.value_full(before), (count - 1) / kStages & 1);
    pin(o);
    wgmma_fence();
    issue_outputs(o, weights, values, before);
    wgmma_commit();
    wgmma_wait<0>();
    pin(o);
    if (is_first()) barrier_arrive(shared.value_empty(before));
  }
};

// Attends the block's tiles one after the other: a tile's first scores are computed beside the last
// outputs of the one before, where those need not be joined with an earlier chunk's.
__device__ void consume(const WgmmaParams& p, const Shared& shared, int group) {
  const float scale = p.softmax_scale * 1.44269504f;
  Attending w(shared, group);
  float s[64], o[64];
  uint32_t weights[32];
  if (group == 1) named_arrive<256>(1);  // group 0 goes first
  int number = 0;
  bool more = w.take(number);
#pragma unroll 1
  while (more) {
    if (w.is_half()) {
      w.score<kKeyTile / 2>(s);
    } else {
      w.score<kKeyTile>(s);
    }
#pragma unroll 1
    while (true) {
      RowState state;
#pragma unroll
      for (int i = 0; i < 64; ++i) o[i] = 0.0f;
      w.mask(s);
      state.start(s, scale, weights);
      ++w.count;
#pragma unroll 1
      for (--w.block; w.block >= 0; --w.block, ++w.count) {
        w.score_beside<kKeyTile>(s, o, weights);
        w.mask(s);
        float factor[2];
        if (state.update(s, scale, weights, factor)) {
#pragma unroll
          for (int i = 0; i < 64; ++i) o[i] *= factor[i / 2 % 2];
        }
      }
      const Tile& tile = *w.tile;
      more = w.take(++number);
      if (!more || joins_chunks(tile)) {
        w.finish(o, weights);
        store_rows<true>(p, w.staging(), tile, w.row(), state, o);
        break;
      }
      if (w.is_half()) {
        w.score_beside<kKeyTile / 2>(s, o, weights);
      } else {
        w.score_beside<kKeyTile>(s, o, weights);
      }
      store_rows<false>(p, w.staging(), tile, w.row(), state, o);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    attend_wgmma_kernel(const __grid_constant__ WgmmaParams p) {
  extern __shared__ uint8_t memory[];
  const uint32_t unaligned = device::shared_address(memory);
  const uint32_t base = (unaligned + 1023) / 1024 * 1024;
  const Shared shared = {base, reinterpret_cast<Tile*>(memory + (base - unaligned + kTileOffset))};
  if (threadIdx.x == 0) {
    barrier_init(shared.query_full(), 1);
    barrier_init(shared.query_empty(), kConsumerWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared.key_full(stage), 1);
      barrier_init(shared.key_empty(stage), kConsumerWarps);
      barrier_init(shared.value_full(stage), 1);
      barrier_init(shared.value_empty(stage), kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int group = warp / 4;
  if (group == 2) {
    lower_registers<24>();
    if (warp == kConsumerWarps && elect_lane()) produce(p, shared);
  } else {
    raise_registers<240>();
    consume(p, shared, group);
  }
}

// [rows][heads][width] BF16 by boxes of 128 rows of one head, 64 elements wide, swizzled. Rows past
// the end are read as zeros.
bool encode_map(CUtensorMap& map, const void* base, int64_t width, int64_t num_heads, int64_t rows,
                int64_t head_stride, int64_t row_stride) {
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(num_heads),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(head_stride * 2),
                                 static_cast<cuuint64_t>(row_stride * 2)};
  const cuuint32_t box[3] = {64, 1, 128};
  return encode_tensor_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, base, dims, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B) == CUDA_SUCCESS;
}

}  // namespace

cudaError_t launch_attend_wgmma(const AttendProblem& problem, const Chunk& chunk, int num_sms,
                                int64_t l2_bytes, cudaStream_t stream) {
  static const cudaError_t attribute = cudaFuncSetAttribute(
      attend_wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (attribute != cudaSuccess) return attribute;
  WgmmaParams p;
  const int64_t heads = problem.num_heads;
  if (!encode_map(p.q, problem.q, 192, heads, problem.num_tokens, problem.q_head_stride,
                  problem.q_stride) ||
      !encode_map(p.expanded, problem.expanded, 256, heads, chunk.num_rows, 256, heads * 256) ||
      !encode_map(p.k_pe, problem.k_pe, 64, 1, chunk.num_rows, 64, 64)) {
    return cudaErrorInvalidValue;
  }
  p.out = static_cast<__nv_bfloat16*>(problem.out);
  p.out_stride = problem.out_stride;
  p.lse = problem.lse;
  p.num_tokens = problem.num_tokens;
  p.counter = problem.counter;
  p.num_heads = problem.num_heads;
  // The last heads' tiles, short ones last, even out what SMs have done: two an SM are of its
  // length twice over. But not so many that their keys and values leave the L2.
  const int64_t head_bytes = int64_t{chunk.num_rows} * 256 * 2;
  const int64_t last_heads = std::clamp<int64_t>((2 * num_sms - 1) / chunk.num_tiles + 1, 1,
                                                 std::max<int64_t>(l2_bytes / 2 / head_bytes, 1));
  p.single_heads = static_cast<int32_t>(std::max<int64_t>(heads - last_heads, 0));
  p.num_tiles = chunk.num_tiles * problem.num_heads;
  p.first_key = problem.first_key;
  p.softmax_scale = problem.softmax_scale;
  p.chunk = chunk;
  attend_wgmma_kernel<<<std::min(num_sms, p.num_tiles), kThreads, kSharedBytes, stream>>>(p);
  return cudaSuccess;
}

}  // namespace deepflight::cuda_mla_prefill
