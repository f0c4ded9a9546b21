// Attention over a chunk's expanded keys and values, 192-wide queries and 128-wide values, on
// Hopper's warpgroup products. Persistent blocks of three warpgroups: one copies (a thread), two
// multiply, 64 query rows each, against 128 keys at a time. Scores of the next keys are computed
// while the softmax of these runs, and the two warpgroups take turns at the tensor cores.
#include <cuda_bf16.h>

#include <algorithm>

#include "compute/cuda/kernels/attention/mla_prefill/hopper.cuh"
#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/runtime/tensor_map.h"

namespace deepflight::cuda_mla_prefill {
namespace {

constexpr int kThreads = 384;
constexpr int kStages = 2;
constexpr int kBoxBytes = 128 * 128;  // 128 rows of 64 elements
constexpr int kQueryBytes = 3 * kBoxBytes;
constexpr int kKeyBytes = 3 * kBoxBytes;
constexpr int kValueBytes = 2 * kBoxBytes;
constexpr int kBarrierOffset = kQueryBytes + kStages * (kKeyBytes + kValueBytes);
constexpr int kSharedBytes = kBarrierOffset + 128 + 1024;  // and room to align
constexpr int kConsumerWarps = 8;
constexpr int kValueDim = 128;

struct WgmmaParams {
  CUtensorMap q;         // [token][head][192], boxes of 128 tokens x 64
  CUtensorMap expanded;  // [row][head][256], boxes of 128 rows x 64
  CUtensorMap k_pe;      // [row][1][64], boxes of 128 rows
  __nv_bfloat16* out;
  int64_t out_stride;
  float* lse;
  int64_t num_tokens;
  int32_t* counter;
  int32_t num_heads;
  int32_t group_heads;  // heads that run at a time, so that their K and V stay in L2
  int32_t num_tiles;    // of all heads
  int32_t first_key;
  float softmax_scale;
  Chunk chunk;
};

// Shared memory addresses.
struct Shared {
  uint32_t base;
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t key(int stage) const { return base + kQueryBytes + stage * kKeyBytes; }
  __device__ uint32_t value(int stage) const {
    return base + kQueryBytes + kStages * kKeyBytes + stage * kValueBytes;
  }
  __device__ uint32_t query_full() const { return base + kBarrierOffset; }
  __device__ uint32_t query_empty() const { return base + kBarrierOffset + 8; }
  __device__ uint32_t key_full(int stage) const { return base + kBarrierOffset + 16 + 8 * stage; }
  __device__ uint32_t key_empty(int stage) const { return base + kBarrierOffset + 32 + 8 * stage; }
  __device__ uint32_t value_full(int stage) const { return base + kBarrierOffset + 48 + 8 * stage; }
  __device__ uint32_t value_empty(int stage) const {
    return base + kBarrierOffset + 64 + 8 * stage;
  }
  __device__ uint32_t tile() const { return base + kBarrierOffset + 80; }
};

// Which queries, keys and head a tile is of. Heads come in groups; in a group, tiles with most keys
// come first.
struct Tile {
  __device__ Tile(const WgmmaParams& p, int index) {
    const int group_tiles = p.chunk.num_tiles * p.group_heads;
    const int group = index / group_tiles;
    const int first_head = group * p.group_heads;
    const int num_heads = min(p.group_heads, p.num_heads - first_head);
    const int rest = index - group * group_tiles;
    const int tile = p.chunk.num_tiles - 1 - rest / num_heads;
    head = first_head + rest % num_heads;
    int i = p.chunk.num_pieces - 1;
    while (p.chunk.pieces[i].first_tile > tile) --i;
    const Piece& piece = p.chunk.pieces[i];
    const int first_row = (tile - piece.first_tile) * kQueryTile;
    first_query = piece.first_query + first_row;
    num_rows = min(kQueryTile, piece.num_queries - first_row);
    diagonal = piece.diagonal + first_row;
    num_keys = piece.num_keys;
    first_key = piece.first_key;
    has_past = piece.kv_begin > 0;
    first_seen = has_past ? 0 : p.first_key;
    num_blocks = min(diagonal + num_rows - 1, num_keys - 1) / kKeyTile + 1;
  }
  int head, first_query, num_rows, diagonal, num_keys, first_key, num_blocks;
  int first_seen;  // of the keys
  bool has_past;
};

__device__ void produce(const WgmmaParams& p, const Shared& shared) {
  int count = 0;
  int index = static_cast<int>(blockIdx.x);
  for (int i = 0;; ++i) {
    barrier_wait(shared.query_empty(), (i & 1) ^ 1);
    const int told = index < p.num_tiles ? index : -1;
    store_shared_word(shared.tile(), static_cast<uint32_t>(told));
    if (told < 0) {
      barrier_arrive(shared.query_full());
      return;
    }
    const Tile tile(p, index);
    barrier_arrive_expect(shared.query_full(), kQueryBytes);
    for (int box = 0; box < 3; ++box) {
      load_box(shared.query() + box * kBoxBytes, &p.q, shared.query_full(), box * 64, tile.head,
               tile.first_query);
    }
    for (int block = tile.num_blocks - 1; block >= 0; --block, ++count) {
      const int stage = count % kStages;
      const uint32_t parity = (count / kStages & 1) ^ 1;
      const int row = tile.first_key + block * kKeyTile;
      barrier_wait(shared.key_empty(stage), parity);
      barrier_arrive_expect(shared.key_full(stage), kKeyBytes);
      const uint32_t key = shared.key(stage);
      load_box(key, &p.expanded, shared.key_full(stage), 0, tile.head, row);
      load_box(key + kBoxBytes, &p.expanded, shared.key_full(stage), 64, tile.head, row);
      load_box(key + 2 * kBoxBytes, &p.k_pe, shared.key_full(stage), 0, 0, row);
      barrier_wait(shared.value_empty(stage), parity);
      barrier_arrive_expect(shared.value_full(stage), kValueBytes);
      const uint32_t value = shared.value(stage);
      load_box(value, &p.expanded, shared.value_full(stage), 128, tile.head, row);
      load_box(value + kBoxBytes, &p.expanded, shared.value_full(stage), 192, tile.head, row);
    }
    index = static_cast<int>(gridDim.x) + atomicAdd(p.counter, 1);
  }
}

__device__ inline void issue_scores(float (&s)[64], const Matrices<16, 1024>& query,
                                    const Matrices<16, 1024>& key, int stage) {
#pragma unroll
  for (int k = 0; k < 12; ++k) {
    const int offset = k / 4 * kBoxBytes + k % 4 * 32;
    wgmma_shared(s, query.at(offset), key.at(stage, kKeyBytes, offset), k > 0);
  }
}

__device__ inline void issue_outputs(float (&o)[64], const uint32_t (&weights)[32],
                                     const Matrices<kBoxBytes, 1024>& value, int stage) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    wgmma_registers(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3],
                    value.at(stage, kValueBytes, k * 16 * 128));
  }
}

__device__ inline void pack_weights(const float (&s)[64], uint32_t (&weights)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(s[2 * i], s[2 * i + 1]);
    weights[i] = reinterpret_cast<const uint32_t&>(pair);
  }
}

// Running softmax of a thread's two rows (8 apart), of which three neighbours hold other columns.
// Weights are exp2(scale * score - offset). The offset follows the row's maximum only when that has
// risen by kSlack, so that outputs are seldom rescaled; weights stay below 2^kSlack. Each row's
// does by itself: results must not depend on the rows that share a tile.
struct RowState {
  static constexpr float kSlack = 8.0f;
  float offset[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this thread's columns

  // Scores to weights. True if older weights and outputs are to be multiplied by `factor`, the same
  // for the whole warp. `scale`: softmax scale times log2(e).
  __device__ bool update(float (&s)[64], float scale, float (&factor)[2]) {
    float next[2];
    bool risen = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float found = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
      for (int i = 1; i < 16; ++i) {
        found = fmaxf(found, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
      }
      found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 1));
      found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 2));
      const bool rises = found * scale > offset[r] + kSlack;
      next[r] = rises ? found * scale : offset[r];
      risen |= rises;
    }
    risen = __any_sync(0xffffffffu, risen);
    if (risen) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        factor[r] = next[r] == -INFINITY ? 1.0f : device::exp2_fast(offset[r] - next[r]);
        offset[r] = next[r];
        sum[r] *= factor[r];
      }
    }
    float totals[2][2] = {};  // several, so that additions need not wait for each other
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const int r = i / 2 % 2;
      // A row may see nothing of its tile's last keys.
      const float used = offset[r] == -INFINITY ? 0.0f : offset[r];
      s[i] = device::exp2_fast(s[i] * scale - used);
      totals[r][i % 2] += s[i];
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += totals[r][0] + totals[r][1];
    return risen;
  }
};

// Scores of keys after the limits become -inf. `first`: the thread's first key.
__device__ inline void mask_scores(float (&s)[64], int first, const int (&limit)[2]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int key = first + i / 4 * 8 + i % 2;
    if (key > limit[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// And those of keys before `begin`.
__device__ inline void mask_first_scores(float (&s)[64], int first, int begin) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    if (first + i / 4 * 8 + i % 2 < begin) s[i] = -INFINITY;
  }
}

// Four neighbours hold two columns each of four groups of eight: gives each a group of its own.
__device__ inline uint4 gather_group(const uint32_t (&pairs)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool odd = lane & 1, high = lane & 2;
  // Exchange with the neighbour at 1, then at 2: a transposition of 4 x 4.
  const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? pairs[0] : pairs[1], 1);
  const uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? pairs[2] : pairs[3], 1);
  const uint32_t t0 = odd ? a : pairs[0], t1 = odd ? pairs[1] : a;  // group lane & 1
  const uint32_t t2 = odd ? b : pairs[2], t3 = odd ? pairs[3] : b;  // group 2 + (lane & 1)
  const uint32_t c = __shfl_xor_sync(0xffffffffu, high ? t0 : t2, 2);
  const uint32_t d = __shfl_xor_sync(0xffffffffu, high ? t1 : t3, 2);
  return high ? make_uint4(c, d, t2, t3) : make_uint4(t0, t1, c, d);
}

// The normalised outputs, joined with those of earlier chunks.
__device__ void store_rows(const WgmmaParams& p, const Tile& tile, int row, const RowState& state,
                           const float (&o)[64]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int local = row + 8 * r;
    const bool valid = local < tile.num_rows;
    const int64_t token = tile.first_query + local;
    float* stored_lse = p.lse + tile.head * p.num_tokens + token;
    const float lse = state.offset[r] * 0.693147181f + logf(sum);
    float now = sum > 0.0f ? 1.0f / sum : 0.0f, before = 0.0f, joined = lse;
    if (tile.has_past && valid) {
      const float old_lse = *stored_lse;
      const float larger = fmaxf(lse, old_lse);
      joined = larger + logf(expf(lse - larger) + expf(old_lse - larger));
      now *= expf(lse - joined);
      before = expf(old_lse - joined);
    }
    __syncwarp();  // all four have read the old one
    if (valid && lane % 4 == 0 && tile.diagonal + local >= tile.num_keys) *stored_lse = joined;
    __nv_bfloat16* out = p.out + token * p.out_stride + tile.head * kValueDim;
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float2 value = make_float2(o[4 * (i + j) + 2 * r] * now, o[4 * (i + j) + 2 * r + 1] * now);
        if (tile.has_past && valid) {
          const float2 old = __bfloat1622float2(
              *reinterpret_cast<const __nv_bfloat162*>(out + 8 * (i + j) + lane % 4 * 2));
          value.x += before * old.x;
          value.y += before * old.y;
        }
        const __nv_bfloat162 pair = __floats2bfloat162_rn(value.x, value.y);
        pairs[j] = reinterpret_cast<const uint32_t&>(pair);
      }
      const uint4 group = gather_group(pairs);  // after all four have read what it replaces
      if (valid) *reinterpret_cast<uint4*>(out + 8 * (i + lane % 4)) = group;
    }
  }
}

// One tile; `count`: key blocks that the block of threads has been through before.
__device__ inline void attend_tile(const WgmmaParams& p, const Shared& shared, const Tile& tile,
                                   int group, int& count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int row = group * 64 + warp * 16 + lane / 4;
  const int limit[2] = {min(tile.diagonal + row, tile.num_keys - 1),
                        min(tile.diagonal + row + 8, tile.num_keys - 1)};
  const int seen_by_all = min(tile.diagonal + group * 64, tile.num_keys - 1);
  const float scale = p.softmax_scale * 1.44269504f;
  const Matrices<16, 1024> query(shared.query() + group * 64 * 128), key(shared.key(0));
  const Matrices<kBoxBytes, 1024> value(shared.value(0));
  RowState state;
  float s[64], o[64], factor[2];
  uint32_t weights[32];
#pragma unroll
  for (int i = 0; i < 64; ++i) o[i] = 0.0f;

  int block = tile.num_blocks - 1;
  barrier_wait(shared.key_full(count % kStages), count / kStages & 1);
  pin(s);
  wgmma_fence();
  issue_scores(s, query, key, count % kStages);
  wgmma_commit();
  wgmma_wait<0>();
  pin(s);
  if (lane == 0) barrier_arrive(shared.key_empty(count % kStages));
  if (lane == 0 && block == 0) barrier_arrive(shared.query_empty());
  if (block * kKeyTile + kKeyTile - 1 > seen_by_all) {
    mask_scores(s, block * kKeyTile + lane % 4 * 2, limit);
  }
  if (block == 0 && tile.first_seen > 0) mask_first_scores(s, lane % 4 * 2, tile.first_seen);
  state.update(s, scale, factor);
  pack_weights(s, weights);

#pragma unroll 1
  for (--block; block >= 0; --block) {
    const int stage = count % kStages;
    const uint32_t parity = count / kStages & 1;
    const int next_stage = (count + 1) % kStages;
    ++count;
    barrier_wait(shared.key_full(next_stage), count / kStages & 1);
    named_sync<256>(1 + group);
    pin(s);
    pin(o);
    wgmma_fence();
    issue_scores(s, query, key, next_stage);
    wgmma_commit();
    barrier_wait(shared.value_full(stage), parity);
    wgmma_fence();
    issue_outputs(o, weights, value, stage);
    wgmma_commit();
    named_arrive<256>(2 - group);
    wgmma_wait<1>();
    pin(s);
    if (lane == 0) barrier_arrive(shared.key_empty(next_stage));
    if (lane == 0 && block == 0) barrier_arrive(shared.query_empty());
    if (block * kKeyTile + kKeyTile - 1 > seen_by_all) {
      mask_scores(s, block * kKeyTile + lane % 4 * 2, limit);
    }
    if (block == 0 && tile.first_seen > 0) mask_first_scores(s, lane % 4 * 2, tile.first_seen);
    const bool risen = state.update(s, scale, factor);
    pin(s);
    wgmma_wait<0>();
    pin(o);
    if (lane == 0) barrier_arrive(shared.value_empty(stage));
    if (risen) {
#pragma unroll
      for (int i = 0; i < 64; ++i) o[i] *= factor[i / 2 % 2];
    }
    pack_weights(s, weights);
  }

  const int stage = count % kStages;
  barrier_wait(shared.value_full(stage), count / kStages & 1);
  ++count;
  pin(o);
  wgmma_fence();
  issue_outputs(o, weights, value, stage);
  wgmma_commit();
  wgmma_wait<0>();
  pin(o);
  if (lane == 0) barrier_arrive(shared.value_empty(stage));
  store_rows(p, tile, row, state, o);
}

__device__ void consume(const WgmmaParams& p, const Shared& shared, int group) {
  int count = 0;
  if (group == 1) named_arrive<256>(1);  // group 0 goes first
  for (int i = 0;; ++i) {
    barrier_wait(shared.query_full(), i & 1);
    int index = 0;
    if (threadIdx.x % 32 == 0) {  // the lane that will say that the warp is done with the tile
      index = static_cast<int>(load_shared_word(shared.tile()));
    }
    index = __shfl_sync(0xffffffffu, index, 0);
    if (index < 0) return;
    attend_tile(p, shared, Tile(p, index), group, count);
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    attend_wgmma_kernel(const __grid_constant__ WgmmaParams p) {
  extern __shared__ uint8_t memory[];
  const Shared shared = {(device::shared_address(memory) + 1023) / 1024 * 1024};
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
  const int64_t head_bytes = int64_t{chunk.num_rows} * 256 * 2;
  p.group_heads = static_cast<int32_t>(std::clamp<int64_t>(l2_bytes / 3 / head_bytes, 1, heads));
  p.num_tiles = chunk.num_tiles * problem.num_heads;
  p.first_key = problem.first_key;
  p.softmax_scale = problem.softmax_scale;
  p.chunk = chunk;
  attend_wgmma_kernel<<<std::min(num_sms, p.num_tiles), kThreads, kSharedBytes, stream>>>(p);
  return cudaSuccess;
}

}  // namespace deepflight::cuda_mla_prefill
