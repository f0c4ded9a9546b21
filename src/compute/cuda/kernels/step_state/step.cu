// The state of the slots around a step. Sums are of integers: atomics do not change them from run
// to run.
#include "compute/cuda/kernels/step_state/kernels.h"

namespace deepflight::cuda_step_state {
namespace {

constexpr int kThreads = 256;
constexpr int kDeltaBlocks = 8;  // blocks of an admission's tokens, and of the page grants

unsigned int blocks_of(int64_t items, int64_t per_block) {
  return static_cast<unsigned int>((items + per_block - 1) / per_block);
}

// By 16-byte pieces of a row, or by elements. x: rows, y: parts of a row.
template <bool kVector>
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherProblem p) {
  const int64_t row = blockIdx.x;
  const int64_t id = p.row_ids[row];
  const uint16_t* source = p.x + (id >= 0 && id < p.num_source_rows ? id : 0) * p.x_stride;
  uint16_t* target = p.out + row * p.out_stride;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kThreads;
  if constexpr (kVector) {
    for (int64_t i = first; i < p.width / 8; i += step) {
      reinterpret_cast<uint4*>(target)[i] = reinterpret_cast<const uint4*>(source)[i];
    }
  } else {
    for (int64_t i = first; i < p.width; i += step) target[i] = source[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const __grid_constant__ PrepareProblem p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= p.num_rows) return;
  const int32_t slot = p.slots[row];
  const bool padding = slot < 0;
  const int32_t kv_len = padding ? 0 : p.state.kv_lens[slot];
  const auto row_len = static_cast<int32_t>(1 + p.draft_len);
  for (int32_t i = 0; i < row_len; ++i) {
    const int32_t id = padding  ? 0
                       : i == 0 ? p.state.last_tokens[slot]
                                : p.state.draft_tokens[slot * p.state.draft_stride + i - 1];
    p.token_ids[row * row_len + i] = id < 0 ? 0 : id;
    p.positions[row * row_len + i] = padding ? 0 : kv_len + i;
  }
  p.row_kv_lens[row] = padding ? 0 : kv_len + row_len;
}

// How many of a decode row's sampled tokens are output.
__device__ inline int32_t count_accepted(const UpdateProblem& p, int64_t slot,
                                         const int32_t* tokens) {
  const int32_t* drafts = p.state.draft_tokens + slot * p.state.draft_stride;
  int32_t num_accepted = 1;
  while (num_accepted <= p.draft_len && drafts[num_accepted - 1] == tokens[num_accepted - 1]) {
    ++num_accepted;
  }
  return num_accepted;
}

__device__ inline void take_result(const UpdateProblem& p, int64_t result) {
  const int64_t row_len = 1 + p.draft_len;
  const bool decodes = result < p.num_decode_rows;
  const int64_t first =
      decodes ? result * row_len : p.num_decode_rows * row_len + (result - p.num_decode_rows);
  const int32_t slot = p.sampled_slots[first];
  if (slot < 0) return;
  const State& state = p.state;
  const int32_t* tokens = p.sampled_tokens + first;
  const int32_t num_accepted = decodes && p.draft_len > 0 ? count_accepted(p, slot, tokens) : 1;
  if (decodes) state.kv_lens[slot] += num_accepted;
  for (int32_t i = 0; i < num_accepted; ++i) {
    const int32_t token = tokens[i];
    if (token >= 0 && token < state.vocab_size) {
      ++state.output_counts[slot * state.output_counts_stride + token];
    }
    if (state.thinking == nullptr) continue;
    if (token == state.sampling[slot].think_start) state.thinking[slot] = 1;
    if (token == state.sampling[slot].think_end) state.thinking[slot] = 0;
  }
  state.num_outputs[slot] += num_accepted;
  state.last_tokens[slot] = tokens[num_accepted - 1];
  if (p.num_accepted != nullptr) p.num_accepted[result] = num_accepted;
}

__global__ void __launch_bounds__(kThreads) update_kernel(const __grid_constant__ UpdateProblem p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t num_decode_tokens = p.num_decode_rows * (1 + p.draft_len);
  if (i >= num_decode_tokens && i < p.num_tokens) {
    const int32_t slot = p.token_slots[i];
    const bool last = i + 1 == p.num_tokens || p.token_slots[i + 1] != slot;
    if (slot >= 0 && last) p.state.kv_lens[slot] = p.positions[i] + 1;
  }
  const int64_t num_results = p.num_decode_rows + p.num_sampled_rows - num_decode_tokens;
  if (i < num_results) take_result(p, i);
}

// Zeroes [begin, end), this thread's share: 16 bytes at a time but for the ragged ends.
__device__ inline void zero_bytes(uint8_t* begin, uint8_t* end, int64_t thread,
                                  int64_t num_threads) {
  const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin) % 16);
  int64_t head = (16 - misaligned) % 16;
  if (head > end - begin) head = end - begin;
  const int64_t vectors = (end - begin - head) / 16;
  uint8_t* body = begin + head;
  uint8_t* tail = body + vectors * 16;
  for (int64_t i = thread; i < vectors; i += num_threads) {
    reinterpret_cast<uint4*>(body)[i] = make_uint4(0, 0, 0, 0);
  }
  if (thread < head) begin[thread] = 0;
  if (thread < end - tail) tail[thread] = 0;
}

// x: parts of a slot's rows, y: admissions.
__global__ void __launch_bounds__(kThreads) zero_kernel(const __grid_constant__ DeltasProblem p) {
  const int64_t slot = p.admissions[blockIdx.y].slot;
  if (slot < 0 || slot >= p.state.num_slots) return;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t num_threads = static_cast<int64_t>(gridDim.x) * kThreads;
  int32_t* counts = p.state.output_counts + slot * p.state.output_counts_stride;
  zero_bytes(reinterpret_cast<uint8_t*>(counts),
             reinterpret_cast<uint8_t*>(counts + p.state.vocab_size), thread, num_threads);
  uint8_t* seen = p.state.prompt_seen + slot * p.state.prompt_seen_stride;
  zero_bytes(seen, seen + p.state.vocab_size, thread, num_threads);
}

__device__ inline void copy_settings(const DeltasProblem& p, const SlotDelta& delta) {
  const State& state = p.state;
  const int64_t slot = delta.slot;
  const int64_t num_biases = min(int64_t{delta.sampling.num_biases}, state.max_biases);
  for (int64_t i = threadIdx.x; i < num_biases; i += kThreads) {
    state.bias_ids[slot * state.bias_ids_stride + i] = p.bias_ids[delta.first_bias + i];
    state.bias_values[slot * state.bias_values_stride + i] = p.bias_values[delta.first_bias + i];
  }
  const int64_t num_banned = min(int64_t{delta.sampling.num_banned}, state.max_banned);
  for (int64_t i = threadIdx.x; i < num_banned; i += kThreads) {
    state.banned_ids[slot * state.banned_ids_stride + i] = p.banned_ids[delta.first_banned + i];
  }
  if (threadIdx.x == 0) {
    state.num_outputs[slot] = delta.num_outputs;
    state.kv_lens[slot] = delta.kv_len;
    state.sampling[slot] = delta.sampling;
    if (state.thinking != nullptr) state.thinking[slot] = delta.thinking;
    for (int64_t i = 0; i < state.max_draft_len; ++i) {
      state.draft_tokens[slot * state.draft_stride + i] = -1;
    }
    // What the slot's last sequence ended with must not put the mask in force.
    if (delta.sampling.mask != kMaskOff) state.last_tokens[slot] = -1;
  }
}

// A slot's mask. NOTE: a slot may be admitted in the same launch; both then write the same mode.
__device__ inline void copy_mask(const DeltasProblem& p, int64_t index, int64_t thread,
                                 int64_t num_threads) {
  const State& state = p.state;
  const int64_t slot = p.mask_slots[index];
  if (slot < 0 || slot >= state.num_slots) return;
  for (int64_t i = thread; i < state.mask_words; i += num_threads) {
    state.token_masks[slot * state.token_masks_stride + i] = p.masks[index * p.masks_stride + i];
  }
  if (thread == 0) state.sampling[slot].mask = p.mask_modes[index];
}

// y: admissions, then the page grants, then the masks; x: parts of their arrays.
__global__ void __launch_bounds__(kThreads) delta_kernel(const __grid_constant__ DeltasProblem p) {
  const State& state = p.state;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t num_threads = static_cast<int64_t>(gridDim.x) * kThreads;
  if (blockIdx.y == p.num_admissions) {
    for (int64_t i = thread; i < p.num_page_grants; i += num_threads) {
      const int64_t slot = p.grant_slots[i];
      const int64_t page_idx = p.grant_page_idx[i];
      if (slot < 0 || slot >= state.num_slots || page_idx < 0 || page_idx >= state.max_pages) {
        continue;
      }
      state.page_table[slot * state.page_table_stride + page_idx] = p.grant_pages[i];
    }
    return;
  }
  if (blockIdx.y > p.num_admissions) {
    return copy_mask(p, blockIdx.y - p.num_admissions - 1, thread, num_threads);
  }
  const SlotDelta& delta = p.admissions[blockIdx.y];
  const int64_t slot = delta.slot;
  if (slot < 0 || slot >= state.num_slots) return;
  for (int64_t k = thread; k < delta.num_tokens; k += num_threads) {
    const int64_t token = p.tokens[delta.first_token + k];
    if (token < 0 || token >= state.vocab_size) continue;
    if (k < delta.num_prompt_tokens) {
      state.prompt_seen[slot * state.prompt_seen_stride + token] = 1;
    } else {
      atomicAdd(&state.output_counts[slot * state.output_counts_stride + token], 1);
    }
  }
  if (blockIdx.x == 0) copy_settings(p, delta);
}

}  // namespace

void launch_gather(const GatherProblem& p, bool vector, cudaStream_t stream) {
  const int64_t pieces = vector ? p.width / 8 : p.width;
  // Few rows are spread over blocks; many rows fill the device by themselves.
  const unsigned int blocks = p.num_rows >= 1024 ? 1 : blocks_of(pieces, kThreads);
  const dim3 grid(static_cast<unsigned int>(p.num_rows), blocks < 32 ? blocks : 32);
  if (vector) {
    gather_kernel<true><<<grid, kThreads, 0, stream>>>(p);
  } else {
    gather_kernel<false><<<grid, kThreads, 0, stream>>>(p);
  }
}

void launch_prepare(const PrepareProblem& p, cudaStream_t stream) {
  prepare_kernel<<<blocks_of(p.num_rows, kThreads), kThreads, 0, stream>>>(p);
}

void launch_update(const UpdateProblem& p, cudaStream_t stream) {
  const int64_t items = p.num_tokens > p.num_sampled_rows ? p.num_tokens : p.num_sampled_rows;
  update_kernel<<<blocks_of(items, kThreads), kThreads, 0, stream>>>(p);
}

void launch_deltas(const DeltasProblem& p, cudaStream_t stream) {
  const auto num_admissions = static_cast<unsigned int>(p.num_admissions);
  if (num_admissions > 0 && p.state.vocab_size > 0) {
    const unsigned int blocks = blocks_of(p.state.vocab_size * 4, int64_t{kThreads} * 16 * 2);
    zero_kernel<<<dim3(blocks, num_admissions), kThreads, 0, stream>>>(p);
  }
  const auto num_masks = static_cast<unsigned int>(p.num_masks);
  delta_kernel<<<dim3(kDeltaBlocks, num_admissions + 1 + num_masks), kThreads, 0, stream>>>(p);
}

}  // namespace deepflight::cuda_step_state
