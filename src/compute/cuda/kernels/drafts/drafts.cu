// Copies of states, and small arithmetic on lengths; the arg max alone reads much.
#include "compute/cuda/kernels/drafts/kernels.h"

namespace deepflight::cuda_drafts {
namespace {

constexpr int kThreads = 256;
constexpr int kTakeThreads = 1024;
constexpr int kPageTokens = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

unsigned int blocks_of(int64_t items, int64_t per_block) {
  return static_cast<unsigned int>((items + per_block - 1) / per_block);
}

// Token t's successor in its sequence is the next row.
__device__ inline bool goes_on_behind(const StatesProblem& p, int64_t t) {
  return t >= 0 && t + 1 < p.num_tokens && p.token_slots[t + 1] == p.token_slots[t] &&
         p.positions[t + 1] == p.positions[t] + 1;
}

__device__ inline uint16_t* page_tail(const StatesProblem& p, int64_t slot, int position) {
  const int64_t page = p.page_table[slot * p.page_table_stride + position / kPageTokens];
  return reinterpret_cast<uint16_t*>(p.tails + page * p.page_stride_bytes);
}

// The block's share of a row; a null source is zeros.
template <bool kVector>
__device__ inline void copy_row(const uint16_t* source, uint16_t* target, int64_t width) {
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kThreads;
  if constexpr (kVector) {
    for (int64_t i = first; i < width / 8; i += step) {
      reinterpret_cast<uint4*>(target)[i] =
          source == nullptr ? make_uint4(0, 0, 0, 0) : reinterpret_cast<const uint4*>(source)[i];
    }
  } else {
    for (int64_t i = first; i < width; i += step) target[i] = source == nullptr ? 0 : source[i];
  }
}

// x: tokens, y: parts of a row.
template <bool kVector>
__global__ void __launch_bounds__(kThreads) shift_kernel(const __grid_constant__ StatesProblem p) {
  const int64_t token = blockIdx.x;
  const int slot = p.token_slots[token];
  const int position = p.positions[token];
  const uint16_t* source = nullptr;
  if (slot >= 0 && position > 0) {
    if (goes_on_behind(p, token - 1)) {
      source = p.states + (token - 1) * p.states_stride;
    } else if (position % kPageTokens == 0) {
      source = page_tail(p, slot, position - 1);
    } else {
      source = p.carried + slot * p.carried_stride;
    }
  }
  copy_row<kVector>(source, p.out + token * p.out_stride, p.width);
}

template <bool kVector>
__global__ void __launch_bounds__(kThreads) keep_kernel(const __grid_constant__ StatesProblem p) {
  const int64_t token = blockIdx.x;
  const int slot = p.token_slots[token];
  if (slot < 0) return;
  const int position = p.positions[token];
  const uint16_t* source = p.states + token * p.states_stride;
  if ((position + 1) % kPageTokens == 0) {
    copy_row<kVector>(source, page_tail(p, slot, position), p.width);
  }
  if (!goes_on_behind(p, token)) {
    copy_row<kVector>(source, p.carried + slot * p.carried_stride, p.width);
  }
}

__global__ void __launch_bounds__(kThreads) begin_kernel(const __grid_constant__ BeginProblem p) {
  const int64_t result = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (result >= p.num_results) return;
  const int64_t row_len = 1 + p.draft_len;
  const bool decodes = result < p.num_decode_rows;
  const int64_t first =
      decodes ? result * row_len : p.num_decode_rows * row_len + (result - p.num_decode_rows);
  const int64_t count = decodes ? row_len : 1;
  const int slot = p.sampled_slots[first];
  const bool padding = slot < 0;
  const int num_accepted = padding ? 1 : p.num_accepted[result];
  const int kv_len = padding ? 0 : p.kv_lens[slot];
  const int64_t first_row = first + result * p.num_extra;
  const int position = padding ? 0 : p.positions[p.sampled_token_idx[first]] + 1;
  for (int64_t i = 0; i < count + p.num_extra; ++i) {
    const int64_t row = first_row + i;
    p.verified_positions[row] = padding ? 0 : position + static_cast<int>(i);
    if (p.num_extra == 0) continue;
    p.verified_slots[row] = slot;
    p.verified_tokens[row] = !padding && i < num_accepted ? p.sampled_tokens[first + i] : 0;
    p.source_rows[row] = static_cast<int>(first + (i < count ? i : count - 1));
  }
  const int last_row = static_cast<int>(first_row) + num_accepted - 1;
  p.last_rows[result] = last_row;
  if (p.num_extra > 0) {
    const int num_rows = static_cast<int>(count + p.num_extra);
    if (result == 0) p.verified_offsets[0] = 0;
    p.verified_offsets[result + 1] = static_cast<int>(first_row) + num_rows;
    p.verified_kv_lens[result] = padding ? 0 : position + num_rows;
    p.verified_batch_slots[result] = slot;
    p.draft_rows[result] = last_row;
  }
  p.token_ids[result] = padding ? 0 : p.last_tokens[slot];
  p.chain_positions[result] = kv_len;
  p.chain_slots[result] = slot;
  p.chain_kv_lens[result] = padding ? 0 : kv_len + 1;
  p.query_offsets[result + 1] = static_cast<int>(result) + 1;
  if (result == 0) p.query_offsets[0] = 0;
  if (padding) return;
  for (int64_t i = 0; i < p.max_draft_len; ++i) p.draft_tokens[slot * p.draft_stride + i] = -1;
}

// By value, then the lower id; the unsigned order of the upper half is the order of the floats.
__device__ inline uint64_t pack(float value, int id) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t{key} << 32 | ~static_cast<uint32_t>(id);
}

__device__ inline uint64_t warp_max(uint64_t value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = max(value, static_cast<uint64_t>(__shfl_xor_sync(kAllLanes, value, offset)));
  }
  return value;
}

// A block a row. Each thread keeps its best by value alone and packs it once.
__global__ void __launch_bounds__(kTakeThreads) take_kernel(const __grid_constant__ TakeProblem p) {
  __shared__ uint64_t best_of_warp[kTakeThreads / 32];
  const int64_t row = blockIdx.x;
  const int slot = p.slots[row];
  if (slot < 0) return;
  const float* logits = p.logits + row * p.logits_stride;
  const int vocab_size = static_cast<int>(p.vocab_size);
  float best = -INFINITY;
  int best_id = 0;
  const auto see = [&](float value, int id) {
    if (value > best) best = value, best_id = id;
  };
  int done = 0;
  if (reinterpret_cast<uintptr_t>(logits) % 16 == 0) {
    done = vocab_size / 4 * 4;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < vocab_size / 4; i += kTakeThreads) {
      const float4 four = reinterpret_cast<const float4*>(logits)[i];
      see(four.x, 4 * i);
      see(four.y, 4 * i + 1);
      see(four.z, 4 * i + 2);
      see(four.w, 4 * i + 3);
    }
  }
  for (int i = done + static_cast<int>(threadIdx.x); i < vocab_size; i += kTakeThreads) {
    see(logits[i], i);
  }
  uint64_t packed = warp_max(pack(best, best_id));
  if (threadIdx.x % 32 == 0) best_of_warp[threadIdx.x / 32] = packed;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  packed = warp_max(best_of_warp[threadIdx.x]);
  if (threadIdx.x > 0) return;
  const int token = static_cast<int>(~static_cast<uint32_t>(packed));
  if (p.draft_idx < p.sampling[slot].max_drafts) {
    p.draft_tokens[slot * p.draft_stride + p.draft_idx] = token;
  }
  if (p.num_extra > 0) {
    const int next = ++p.draft_rows[row];
    if (p.draft_idx < p.num_extra) p.verified_tokens[next] = token;
    return;
  }
  p.token_ids[row] = token;
  ++p.positions[row];
  ++p.kv_lens[row];
}

// Few rows are spread over blocks; many rows fill the device by themselves.
dim3 states_grid(const StatesProblem& p, bool vector) {
  const unsigned int parts =
      p.num_tokens >= 1024 ? 1 : blocks_of(vector ? p.width / 8 : p.width, kThreads);
  return dim3(static_cast<unsigned int>(p.num_tokens), parts < 32 ? parts : 32);
}

}  // namespace

void launch_shift(const StatesProblem& p, bool vector, cudaStream_t stream) {
  if (vector) {
    shift_kernel<true><<<states_grid(p, vector), kThreads, 0, stream>>>(p);
  } else {
    shift_kernel<false><<<states_grid(p, vector), kThreads, 0, stream>>>(p);
  }
}

void launch_keep(const StatesProblem& p, bool vector, cudaStream_t stream) {
  if (vector) {
    keep_kernel<true><<<states_grid(p, vector), kThreads, 0, stream>>>(p);
  } else {
    keep_kernel<false><<<states_grid(p, vector), kThreads, 0, stream>>>(p);
  }
}

void launch_begin(const BeginProblem& p, cudaStream_t stream) {
  begin_kernel<<<blocks_of(p.num_results, kThreads), kThreads, 0, stream>>>(p);
}

void launch_take(const TakeProblem& p, cudaStream_t stream) {
  take_kernel<<<static_cast<unsigned int>(p.num_rows), kTakeThreads, 0, stream>>>(p);
}

}  // namespace deepflight::cuda_drafts
