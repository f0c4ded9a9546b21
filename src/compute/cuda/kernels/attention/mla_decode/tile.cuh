// What the tensor core kernels share: a block's walk over its part of the schedule, the limits of a
// thread's rows, and the running softmax of a 64 x 64 tile of scores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/schedule.h"
#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/warp.cuh"
#include "compute/cuda/primitives/wgmma.cuh"

namespace deepflight::cuda_mla_decode {

using namespace device;  // NOLINT: this header is the kernels' own

constexpr int kWarpgroup = 128;
constexpr int kBoxBytes = 64 * 128;

// Named barriers.
constexpr int kEvenWeights = 1, kOddWeights = 2, kOwn = 3, kSums = 5, kEvenScores = 6,
              kBothSummed = 6;

struct Inputs {
  __nv_bfloat16* out;
  int64_t out_stride, out_head_stride;
  const int32_t* page_table;
  int64_t page_table_stride;
  const Schedule* schedule;
  __half* partials;  // [slot][64][512]
  float* lse;        // [slot][64], base 2
  int num_heads;
  int first_key;
  float score_scale;   // softmax scale, pool scale and log2(e)
  float output_scale;  // of the pool
};

inline Inputs make_inputs(const MlaDecodeProblem& p, __half* partials, float* lse) {
  const float pool_scale = p.format == PageFormat::kF8E4M3 ? p.kv_scale : 1.0f;
  return {static_cast<__nv_bfloat16*>(p.out),
          p.out_stride,
          p.out_head_stride,
          p.page_table,
          p.page_table_stride,
          static_cast<const Schedule*>(p.metadata),
          partials,
          lse,
          static_cast<int>(p.num_heads),
          static_cast<int>(p.first_key),
          p.softmax_scale * pool_scale * 1.44269504f,
          pool_scale};
}

// A tile's share of pages in this block's part.
struct Segment {
  int slot_id;                           // of the page table
  int kv_len, first_token, num_queries;  // of the sequence
  int tile;
  int first_page;
  int num_pages;
  int slot;     // of partial results, this block's for the segment
  int partial;  // the same; < 0: the tile is not split

  __device__ int first_row() const { return tile * kTileRows; }
  // Of its pages, in the page table.
  __device__ const int32_t* page_ids(const Inputs& in) const {
    return in.page_table + int64_t{max(slot_id, 0)} * in.page_table_stride + first_page;
  }
  // Of its pages, those that no kernel writes any more: what prepare_mla_decode() follows has
  // written all tokens but the step's own.
  __device__ int settled_pages() const {
    return max(kv_len - num_queries, 0) / kPageTokens - first_page;
  }
};

// Steps through the segments of a block; every role of the block sees the same ones. Reads them
// again, out of the L1, rather than keep them in registers.
class Segments {
 public:
  __device__ explicit Segments(const Inputs& in)
      : in_(in), group_(in.schedule->shares[blockIdx.x].first_group - 1) {}

  __device__ bool next(Segment& segment) {
    const int last = share().last_group;
    while (++group_ <= last) {
      if (read(segment)) return true;
    }
    return false;
  }

  // The segment that next() gave; false if this lane has no tile in the group.
  __device__ bool read(Segment& segment) const {
    const Share& share = this->share();
    const Group* groups = reinterpret_cast<const Group*>(in_.schedule + 1);
    const bool is_first = group_ == share.first_group, is_last = group_ == share.last_group;
    const Group* group = is_first ? &share.group : groups + group_;
    if (!is_last) asm volatile("prefetch.global.L2 [%0];" ::"l"(groups + group_ + 1));
    if (share.lane >= group->num_tiles) return false;
    segment.slot_id = group->slot;
    segment.kv_len = group->kv_len;
    segment.first_token = group->first_token;
    segment.num_queries = group->num_queries;
    segment.tile = group->first_tile + share.lane;
    segment.first_page = is_first ? share.first_page : 0;
    const int seen =
        visible_pages(segment.kv_len, segment.num_queries, in_.num_heads, segment.tile);
    const int end = min(is_last ? share.end_page : group->num_pages, seen);
    segment.num_pages = max(end - segment.first_page, 0);
    segment.slot = 2 * static_cast<int>(blockIdx.x) + !is_first;
    segment.partial = group->num_splits == 1 ? -1 : segment.slot;
    return true;
  }

 private:
  __device__ const Share& share() const { return in_.schedule->shares[blockIdx.x]; }

  const Inputs& in_;
  int group_;
};

// Where a row of the segment's tile goes: BF16 outputs, or FP16 in its slot of partial ones. Null:
// not a row of the sequence.
__device__ inline uint8_t* row_results(const Inputs& in, const Segment& segment, int local) {
  const int row = segment.first_row() + local;
  const int token = row / in.num_heads, head = row - token * in.num_heads;
  if (token >= segment.num_queries) return nullptr;
  if (segment.partial >= 0) {
    return reinterpret_cast<uint8_t*>(in.partials +
                                      (int64_t{segment.partial} * kTileRows + local) * kLatentDim);
  }
  return reinterpret_cast<uint8_t*>(in.out + int64_t{segment.first_token + token} * in.out_stride +
                                    int64_t{head} * in.out_head_stride);
}

// Keys that rows of a segment see, counted from its first page's.
struct RowLimits {
  __device__ RowLimits(const Inputs& in, const Segment& segment) {
    begin = segment.first_page * kPageTokens;
    kv_end = segment.kv_len - begin;
    first_key = in.first_key - begin;
    least = of(in, segment, 0);
  }
  // The first key that the row does not see.
  __device__ int of(const Inputs& in, const Segment& segment, int row) const {
    const int query = min((segment.first_row() + row) / in.num_heads, segment.num_queries - 1);
    return visible_tokens(segment.kv_len, segment.num_queries, query) - begin;
  }
  int begin;   // the first page's first
  int kv_end;  // rows of pages from here on are undefined
  int first_key;
  int least;  // all rows see those before
};

// What a multiplying thread knows of its two rows in a segment.
struct Rows : RowLimits {
  __device__ Rows(const Inputs& in, const Segment& segment) : RowLimits(in, segment) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    row = warp * 16 + lane / 4;
    key = lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) limit[r] = of(in, segment, row + 8 * r);
  }
  int row, key;  // of this thread: first row, first column of scores
  int limit[2];
};

// Where this thread's columns of scores want the offsets of its two rows, at least: `lead` below.
__device__ inline void wanted_offsets(const float (&s)[32], const float (&scale)[2], float lead,
                                      float (&next)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float found[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) found[i] = fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]);
#pragma unroll
    for (int i = 4; i > 0; i /= 2) {
#pragma unroll
      for (int j = 0; j < i; ++j) found[j] = fmaxf(found[j], found[j + i]);
    }
    next[r] = found[0] * scale[r] - lead;
  }
}

// Running softmax of a thread's two rows (8 apart), of which three neighbours hold other columns.
// Weights are exp2(scale * score - offset). The offset follows the row's maximum only when that has
// risen by 2^8, so that outputs are seldom rescaled: weights stay below that.
struct RowState {
  float offset[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this thread's columns of this warpgroup's pages

  // Moves to new offsets. True if older outputs are to be multiplied by `factor`, the same for the
  // whole warp.
  __device__ bool move(const float (&next)[2], float (&factor)[2]) {
    const bool moved = next[0] != offset[0] || next[1] != offset[1];
    if (!__any_sync(0xffffffffu, moved)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factor[r] = next[r] == -INFINITY ? 1.0f : device::exp2_fast(offset[r] - next[r]);
      offset[r] = next[r];
      sum[r] *= factor[r];
    }
    return true;
  }

  // Moves to where these scores want the offsets; returns as the other.
  __device__ bool move(const float (&s)[32], const float (&scale)[2], float (&factor)[2]) {
    constexpr float kSlack = 8.0f;
    float next[2];
    wanted_offsets(s, scale, 0.0f, next);
    // Seldom so: the row's other threads need not be asked.
    if (!__any_sync(0xffffffffu, next[0] > offset[0] + kSlack || next[1] > offset[1] + kSlack))
        [[likely]]
      return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      next[r] = warp_max<4>(next[r]);
      if (!(next[r] > offset[r] + kSlack)) next[r] = offset[r];
    }
    return move(next, factor);
  }

  // An exponent's subtrahend: the row may have seen no key yet.
  __device__ float used_offset(int r) const { return offset[r] == -INFINITY ? 0.0f : offset[r]; }
};

// Scores of keys before `first`, or from `end` of their row on, become -inf; both are counted from
// the thread's first.
__device__ inline void mask_scores(float (&s)[32], int first, const int (&end)[2]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int key = i / 4 * 8 + i % 2;
    if (key < first || key >= end[i / 2 % 2]) s[i] = -INFINITY;
  }
}
// Of a page that begins at key `begin` of the segment: so for keys that rows do not see.
__device__ inline void mask_page(float (&s)[32], const Rows& rows, int begin) {
  if (begin + kPageTokens <= rows.least && begin >= rows.first_key) [[likely]]
    return;
  const int end[2] = {rows.limit[0] - begin - rows.key, rows.limit[1] - begin - rows.key};
  mask_scores(s, rows.first_key - begin - rows.key, end);
}

__device__ inline uint32_t pack_fp16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Two neighbouring results: BF16 of outputs, FP16 of partial ones, whose rounding is lost beside
// that. A partial one past 65504 becomes infinite.
__device__ inline uint32_t pack_results(float low, float high, bool is_partial) {
  return is_partial ? pack_fp16(low, high) : pack_bf16(low, high);
}

// Sum over the four threads that share a row.
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

__device__ inline void warp_arrive(uint32_t barrier) {
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// A block an SM, which may come before the kernel before has ended, in clusters of kCluster.
template <auto kKernel, int kBlockThreads, int kCluster = 1, typename Params>
cudaError_t launch_tiles(const Params& p, int shared_bytes, int num_sms, cudaStream_t stream) {
  static const cudaError_t attribute =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (attribute != cudaSuccess) return attribute;
  launch_early_clusters(kKernel, kCluster,
                        dim3(static_cast<unsigned>(num_sms / kCluster * kCluster)),
                        dim3(kBlockThreads), static_cast<size_t>(shared_bytes), stream, p);
  return cudaGetLastError();
}

}  // namespace deepflight::cuda_mla_decode
