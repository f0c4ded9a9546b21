// What the tensor core kernels share: a block's walk over its part of the schedule, the running
// softmax of a 64 x 64 tile of scores, weights to shared memory, and results to global memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "compute/cuda/kernels/attention/mla_decode/schedule.h"
#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/wgmma.cuh"
#include "compute/cuda/primitives/wgmma_16bit.cuh"

namespace deepflight::cuda_mla_decode {

using namespace device;  // NOLINT: this header is the kernels' own

constexpr int kWarpgroup = 128;
constexpr int kBoxBytes = 64 * 128;  // 64 rows of 64 BF16 elements
constexpr int kBoxes = 9;            // of a page and of the queries
constexpr int kValueBoxes = 8;
constexpr int kHalfBoxes = 4;

struct Inputs {
  const __nv_bfloat16* q;
  int64_t q_stride, q_head_stride;
  __nv_bfloat16* out;
  int64_t out_stride, out_head_stride;
  const int32_t* page_table;
  int64_t page_table_stride;
  const Schedule* schedule;
  float* partials;  // [slot][64][512]
  float* lse;       // [slot][64], base 2
  int num_heads;
  int first_key;
  float score_scale;   // softmax scale, pool scale and log2(e)
  float output_scale;  // of the pool
};

inline Inputs make_inputs(const MlaDecodeProblem& p, float* partials, float* lse) {
  const float pool_scale = p.kv_is_e4m3 ? p.kv_scale : 1.0f;
  return {static_cast<const __nv_bfloat16*>(p.q),
          p.q_stride,
          p.q_head_stride,
          static_cast<__nv_bfloat16*>(p.out),
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
  int partial;  // slot of partial results; < 0: the tile is not split

  __device__ int first_row() const { return tile * kTileRows; }
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
    segment.partial = group->num_splits == 1 ? -1 : 2 * static_cast<int>(blockIdx.x) + !is_first;
    return true;
  }

 private:
  __device__ const Share& share() const { return in_.schedule->shares[blockIdx.x]; }

  const Inputs& in_;
  int group_;
};

// Running softmax of a thread's two rows (8 apart), of which three neighbours hold other columns.
// Weights are exp2(scale * score - offset). The offset follows the row's maximum only when that has
// risen by kSlack, so that outputs are seldom rescaled; weights stay below 2^kSlack.
struct RowState {
  static constexpr float kSlack = 8.0f;
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

  // Scores to weights; returns as move() does.
  __device__ bool update(float (&s)[32], float scale, float (&factor)[2]) {
    float next[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float found = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
      for (int i = 1; i < 8; ++i) {
        found = fmaxf(found, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
      }
      found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 1));
      found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 2));
      found *= scale;
      next[r] = found > offset[r] + kSlack ? found : offset[r];
    }
    const bool moved = move(next, factor);
    float totals[2][2] = {};  // several, so that additions need not wait for each other
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int r = i / 2 % 2;
      const float used = offset[r] == -INFINITY ? 0.0f : offset[r];  // it may have seen no key yet
      s[i] = device::exp2_fast(fmaf(s[i], scale, -used));
      totals[r][i % 2] += s[i];
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += totals[r][0] + totals[r][1];
    return moved;
  }
};

// Scores of keys at or after the limits become -inf. `first`: the thread's first key.
__device__ inline void mask_scores(float (&s)[32], int first, const int (&limit)[2]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int key = first + i / 4 * 8 + i % 2;
    if (key >= limit[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// And those of keys before `begin`.
__device__ inline void mask_first_scores(float (&s)[32], int first, int begin) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if (first + i / 4 * 8 + i % 2 < begin) s[i] = -INFINITY;
  }
}

template <bool kHalf>
__device__ inline void pack_weights(const float (&s)[32], uint32_t (&weights)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if constexpr (kHalf) {
      const __half2 pair = __floats2half2_rn(s[2 * i], s[2 * i + 1]);
      weights[i] = reinterpret_cast<const uint32_t&>(pair);
    } else {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(s[2 * i], s[2 * i + 1]);
      weights[i] = reinterpret_cast<const uint32_t&>(pair);
    }
  }
}

// A warp's 16 rows of packed weights to a box of 64 x 64, swizzled as an operand.
__device__ inline void store_weights(const uint32_t (&weights)[16], uint32_t box) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int row = warp * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int chunk = 2 * k + lane / 16;
    const uint32_t address = box + row * 128 + ((chunk ^ (row & 7)) << 4);
    device::store_matrices(address, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2],
                           weights[4 * k + 3]);
  }
}

// Zeros over the rows from `first` on of a page's value boxes: what lies behind a sequence's end is
// anything, NaN too, which a weight of zero would not silence. By a warpgroup.
__device__ inline void clear_rows(uint32_t page, int first) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  for (int i = first * 8 + thread; i < kTileRows * 8; i += kWarpgroup) {
    for (int box = 0; box < kValueBoxes; ++box) {
      asm volatile(
          "st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(page + box * kBoxBytes + i * 16), "r"(0)
          : "memory");
    }
  }
}

__device__ inline void store_shared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ inline float load_shared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// Sum over the four threads that share a row.
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// Four neighbours hold two columns each of four groups of eight: gives each a group of its own.
__device__ inline uint4 gather_columns(const uint32_t (&pairs)[4]) {
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

// A warpgroup's 64 x 256 outputs, of columns from `column` on; `sum` of whole rows.
__device__ inline void store_outputs(const Inputs& in, const Segment& segment, int column,
                                     const RowState& state, const float (&sum)[2],
                                     const float (&o)[128]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int local = warp * 16 + lane / 4 + 8 * r;
    const int row = segment.first_row() + local;
    const int token = row / in.num_heads;
    const bool valid = token < segment.num_queries;
    const float factor = sum[r] > 0.0f ? in.output_scale / sum[r] : 0.0f;
    if (segment.partial >= 0) {
      if (!valid) continue;
      const int64_t at = int64_t{segment.partial} * kTileRows + local;
      float* out = in.partials + at * 512 + column + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        *reinterpret_cast<float2*>(out + 8 * i) =
            make_float2(o[4 * i + 2 * r] * factor, o[4 * i + 2 * r + 1] * factor);
      }
      if (column == 0 && lane % 4 == 0) {
        in.lse[at] = sum[r] > 0.0f ? state.offset[r] + log2f(sum[r]) : -INFINITY;
      }
      continue;
    }
    __nv_bfloat16* out = in.out + int64_t{segment.first_token + token} * in.out_stride +
                         int64_t{row - token * in.num_heads} * in.out_head_stride + column;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(o[4 * (i + j) + 2 * r] * factor,
                                                          o[4 * (i + j) + 2 * r + 1] * factor);
        pairs[j] = reinterpret_cast<const uint32_t&>(pair);
      }
      const uint4 columns = gather_columns(pairs);
      if (valid) *reinterpret_cast<uint4*>(out + 8 * (i + lane % 4)) = columns;
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
