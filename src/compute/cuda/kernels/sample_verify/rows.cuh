// One row of logits: its adjusted values, a loop over it, and (value, id) packed in order.
#pragma once

#include "compute/cuda/kernels/sample_verify/kernels.h"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_sample_verify {

using device::kWarpSize;

inline constexpr unsigned kAllLanes = 0xffffffffu;

// The unsigned order of keys is the order of the floats.
__device__ inline uint32_t order_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The larger is the better: by value, then the lower id.
__device__ inline uint64_t pack(uint32_t key, int id) {
  return uint64_t{key} << 32 | ~static_cast<uint32_t>(id);
}
__device__ inline float packed_value(uint64_t packed) {
  return value_of_key(static_cast<uint32_t>(packed >> 32));
}
__device__ inline int packed_id(uint64_t packed) {
  return static_cast<int>(~static_cast<uint32_t>(packed));
}

// Biases one after the other in the order of the list, then the ban.
// Rare: not unrolled.
__device__ inline float adjust_listed(int id, float logit, const int32_t* bias_ids,
                                      const float* bias_values, int num_biases,
                                      const int32_t* banned_ids, int num_banned) {
#pragma unroll 1
  for (int i = 0; i < num_biases; ++i) {
    if (bias_ids[i] == id) logit += bias_values[i];
  }
#pragma unroll 1
  for (int i = 0; i < num_banned; ++i) {
    if (banned_ids[i] == id) logit = -INFINITY;
  }
  return logit;
}

// Drafts that count as output for a row, and the one that follows it (-1: none).
struct RowDrafts {
  int num_before = 0;
  int next = -1;
  const int32_t* tokens = nullptr;
};

__device__ inline RowDrafts row_drafts(const SampleProblem& p, int64_t row, int slot) {
  RowDrafts drafts;
  if (p.draft_len == 0 || row >= p.num_decode_tokens) return drafts;
  drafts.num_before = static_cast<int>(row % (1 + p.draft_len));
  drafts.tokens = p.draft_tokens + slot * p.draft_stride;
  if (drafts.num_before < p.draft_len) drafts.next = drafts.tokens[drafts.num_before];
  return drafts;
}

// Penalties, biases, and bans or the mask of one slot, as functions of a token's id and logit.
// Listed tokens are marked in a bitmap in shared memory, so that the others do not search the
// lists.
struct Adjustment {
  bool penalties;
  bool lists;
  float repetition, frequency, presence;
  const int32_t* counts;
  RowDrafts drafts;
  const uint8_t* seen;
  int num_biases, num_banned;
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* banned_ids;
  const uint32_t* marks;  // of tokens [first_marked, ...)
  int first_marked;
  const uint32_t* allowed;  // a bit a token, or null

  __device__ bool any() const { return penalties || lists || allowed != nullptr; }

  __device__ float operator()(int id, float logit) const {
    if (allowed != nullptr && (allowed[id / 32] >> (id % 32) & 1u) == 0) return -INFINITY;
    if (penalties) {
      int count = counts[id];
#pragma unroll 1
      for (int i = 0; i < drafts.num_before; ++i) count += drafts.tokens[i] == id;
      if (repetition != 1.0f && (count != 0 || seen[id] != 0)) {
        logit = logit > 0 ? logit / repetition : logit * repetition;
      }
      if (count != 0) logit -= fmaf(frequency, static_cast<float>(count), presence);
    }
    if (lists) {
      const int bit = id - first_marked;
      if (marks[bit / 32] >> (bit % 32) & 1u) {
        logit = adjust_listed(id, logit, bias_ids, bias_values, num_biases, banned_ids, num_banned);
      }
    }
    return logit;
  }
};

// Of tokens [begin, end); the whole block takes part. `marks`: (end - begin + 31) / 32 words.
__device__ inline Adjustment make_adjustment(const SampleProblem& p, int64_t row, int begin,
                                             int end, uint32_t* marks) {
  const int slot = p.slots[row];
  const SlotSampling& params = p.sampling[slot];
  Adjustment a;
  a.repetition = params.repetition_penalty;
  a.frequency = params.frequency_penalty;
  a.presence = params.presence_penalty;
  a.penalties = a.repetition != 1.0f || a.frequency != 0.0f || a.presence != 0.0f;
  a.counts = p.output_counts + slot * p.counts_stride;
  a.drafts = row_drafts(p, row, slot);
  a.seen = p.prompt_seen + slot * p.seen_stride;
  a.num_biases = params.num_biases;
  const bool masked = params.mask != kMaskOff && mask_is_on(params.mask, p.last_tokens[slot]);
  a.allowed = masked ? p.token_masks + slot * p.masks_stride : nullptr;
  const int num_outputs = p.num_outputs[slot] + a.drafts.num_before;
  a.num_banned = !masked && num_outputs < params.min_tokens ? params.num_banned : 0;
  a.lists = a.num_biases > 0 || a.num_banned > 0;
  a.bias_ids = p.bias_ids + slot * p.bias_ids_stride;
  a.bias_values = p.bias_values + slot * p.bias_values_stride;
  a.banned_ids = p.banned_ids + slot * p.banned_stride;
  a.marks = marks;
  a.first_marked = begin;
  if (!a.lists) return a;
  for (int i = threadIdx.x; i < (end - begin + 31) / 32; i += blockDim.x) marks[i] = 0;
  __syncthreads();
  const auto mark = [&](const int32_t* ids, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int bit = ids[i] - begin;
      if (ids[i] >= begin && ids[i] < end) atomicOr(&marks[bit / 32], 1u << (bit % 32));
    }
  };
  mark(a.bias_ids, a.num_biases);
  mark(a.banned_ids, a.num_banned);
  __syncthreads();
  return a;
}

// Calls visit(id, logit) for tokens [begin, end) of a row; `begin` is a multiple of 4. A thread
// sees its tokens in increasing order. kUnroll 16-byte loads are in flight where the row is
// aligned.
template <int kThreads, int kUnroll = 4, typename Visit>
__device__ inline void for_each_logit(const float* row, int begin, int end, const Visit& visit) {
  const bool vectors = reinterpret_cast<uintptr_t>(row) % 16 == 0;
  const int column_step = vectors ? 1 : kThreads;
  const int first = begin + static_cast<int>(threadIdx.x) * (vectors ? 4 : 1);
  for (int base = first; base < end; base += kUnroll * 4 * kThreads) {
    float values[kUnroll][4];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int id = base + u * 4 * kThreads;
      if (vectors && id + 3 < end) {
        const float4 four = *reinterpret_cast<const float4*>(row + id);
        values[u][0] = four.x;
        values[u][1] = four.y;
        values[u][2] = four.z;
        values[u][3] = four.w;
      } else {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (id + c * column_step < end) values[u][c] = row[id + c * column_step];
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int id = base + u * 4 * kThreads + c * column_step;
        if (id < end) visit(id, values[u][c]);
      }
    }
  }
}

// --- reductions of a block; `scratch` is 32 words of shared memory of the type, free again after
// the next __syncthreads()

__device__ inline uint64_t warp_max(uint64_t value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = max(value, static_cast<uint64_t>(__shfl_xor_sync(kAllLanes, value, offset)));
  }
  return value;
}

template <typename T>
__device__ inline T warp_sum_of(T value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

__device__ inline uint64_t block_max(uint64_t value, uint64_t* scratch) {
  value = warp_max(value);
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarpSize;
  return warp_max(lane < blockDim.x / kWarpSize ? scratch[lane] : 0);
}

template <typename T>
__device__ inline T block_sum_of(T value, T* scratch) {
  value = warp_sum_of(value);
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarpSize;
  return warp_sum_of(lane < blockDim.x / kWarpSize ? scratch[lane] : T{0});
}

// Sum over the lower threads.
__device__ inline uint64_t block_exclusive_sum(uint64_t value, uint64_t* scratch) {
  const unsigned lane = threadIdx.x % kWarpSize;
  const unsigned warp = threadIdx.x / kWarpSize;
  uint64_t inclusive = value;
#pragma unroll
  for (unsigned offset = 1; offset < kWarpSize; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == kWarpSize - 1) scratch[warp] = inclusive;
  __syncthreads();
  const uint64_t below = warp_sum_of(lane < warp ? scratch[lane] : uint64_t{0});
  return below + inclusive - value;
}

}  // namespace deepflight::cuda_sample_verify
