// The second launch: one block a row chooses the token from what the scan of the row's parts says.
// Greedy rows are done at once; the others look for at most three places in the order of the tokens
// (top-k's end, top-p's end, the draw), see select.cuh.
#include "compute/cuda/kernels/sample_verify/select.cuh"
#include "compute/ops/philox.h"

namespace deepflight::cuda_sample_verify {
namespace {

// All parts of a row as one.
__device__ RowPart join_parts(const RowPart* parts, int num_parts) {
  const int lane = threadIdx.x % kWarpSize;
  RowPart whole = {0, 0.0, -INFINITY, 0};
  for (int i = lane; i < num_parts; i += kWarpSize) {
    whole.best = max(whole.best, parts[i].best);
    whole.raw_max = fmaxf(whole.raw_max, parts[i].raw_max);
    whole.num_bad += parts[i].num_bad;
  }
  whole.best = warp_max(whole.best);
  whole.raw_max = device::warp_max(whole.raw_max);
  whole.num_bad = __reduce_add_sync(kAllLanes, whole.num_bad);
  for (int i = lane; i < num_parts; i += kWarpSize) {
    whole.raw_sum += parts[i].raw_sum * exp(static_cast<double>(parts[i].raw_max) - whole.raw_max);
  }
  whole.raw_sum = warp_sum_of(whole.raw_sum);
  return whole;
}

// The `count` best tokens of the row into shared.sorted, in order. The count'th largest of the
// threads' own best bounds what need be collected.
template <int kThreads>
__device__ void sort_best(const float* row, int vocab_size, int count, SelectShared& shared) {
  uint64_t own = 0;
  for_each_logit<kThreads>(
      row, 0, vocab_size, [&](int id, float logit) { own = max(own, pack(order_key(logit), id)); });
  uint64_t* bests = shared.list;
  bests[threadIdx.x] = own;
  if (threadIdx.x == 0) {
    shared.place.mass = 0;  // the bound
    shared.num_sorted = 0;
  }
  __syncthreads();
  int rank = 0;
  for (int i = 0; i < kThreads; ++i) rank += bests[i] > own;
  if (own != 0 && rank == count - 1) shared.place.mass = own;
  __syncthreads();
  const auto bound = static_cast<uint32_t>(shared.place.mass >> 32);
  for_each_logit<kThreads>(row, 0, vocab_size, [&](int id, float logit) {
    const uint32_t key = order_key(logit);
    if (key >= bound) {
      const int index = atomicAdd(&shared.num_sorted, 1);
      if (index < kMaxListed) shared.sorted[index] = pack(key, id);
    }
  });
  __syncthreads();
  if (shared.num_sorted <= kMaxListed) {
    const Adjustment none = {};
    Selector<kThreads, false>{row, vocab_size, none, Weigher(0.0f, 1.0f), shared}.sort();
    return;
  }
  // Too many ties: one after the other.
  uint64_t last = ~uint64_t{0};
  for (int i = 0; i < count; ++i) {
    uint64_t next = 0;
    for_each_logit<kThreads>(row, 0, vocab_size, [&](int id, float logit) {
      const uint64_t packed = pack(order_key(logit), id);
      if (packed < last) next = max(next, packed);
    });
    last = block_max(next, shared.scratch);
    __syncthreads();
    if (threadIdx.x == 0) shared.sorted[i] = last;
  }
  __syncthreads();
}

enum class Stage { kTopK, kTopP, kDraw };

__device__ inline uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }
__device__ inline uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// Top-k, top-p and min-p each keep a first part of the order; the shortest counts.
template <int kThreads, bool kAdjusted>
__device__ int draw(const SlotSampling& params, const float* row, int vocab_size, float best,
                    const Adjustment& adjust, int num_outputs, SelectShared& shared) {
  Selector<kThreads, kAdjusted> selector{row, vocab_size, adjust, Weigher(best, params.temperature),
                                         shared};
  const bool has_top_k = params.top_k > 0 && params.top_k < vocab_size;
  const uint64_t passed = selector.weigh(has_top_k, params.min_p);
  uint64_t limit = shared.bins.mass[kNumBins - 1];
  Place place = {0, 0};
#pragma unroll 1
  for (int i = 0; i < 3; ++i) {
    const auto stage = static_cast<Stage>(i);
    Threshold threshold = {false, 1};
    if (stage == Stage::kTopK) {
      threshold = {true, static_cast<uint64_t>(params.top_k)};
      if (!has_top_k || threshold.value >= shared.bins.count[kNumBins - 1]) continue;
    } else if (stage == Stage::kTopP) {
      if (!(params.top_p < 1.0f)) continue;
      threshold.value =
          __double2ull_rz(ceil(static_cast<double>(params.top_p) * static_cast<double>(limit)));
    } else {
      if (params.min_p > 0.0f) {
        limit = smaller(limit, larger(passed, static_cast<uint64_t>(kUnitMass)));
      }
      const double uniform = philox_uniform(params.seed, static_cast<uint32_t>(num_outputs));
      threshold.value = __double2ull_rz(uniform * static_cast<double>(limit)) + 1;
    }
    if (!threshold.by_count) threshold.value = smaller(larger(threshold.value, 1), limit);
    place = selector.find(threshold, stage != Stage::kDraw);
    limit = place.mass;
  }
  return place.token;
}

// Relaxed acceptance: the draft is one of the best, and not much worse than the very best, whose
// adjusted logit is `best`. The whole block takes part.
template <int kThreads>
__device__ bool passes_relaxed(const SlotSampling& params, const float* row, int vocab_size,
                               float best, const Adjustment& adjust, int draft,
                               SelectShared& shared) {
  __shared__ double sums[32];
  const float own = adjust(draft, row[draft]);
  double sum = 0.0;
  uint64_t num_better = 0;
  for_each_logit<kThreads, 1>(row, 0, vocab_size, [&](int id, float raw) {
    const float logit = adjust(id, raw);
    sum += expf(logit - best);
    num_better += logit > own || (logit == own && id < draft);
  });
  sum = block_sum_of(sum, sums);
  num_better = block_sum_of(num_better, shared.scratch);
  __syncthreads();
  const double gap = (1.0 - exp(static_cast<double>(own) - best)) / sum;
  return num_better < static_cast<uint64_t>(params.relaxed_topn) && gap <= params.relaxed_delta;
}

__device__ inline bool is_thinking(const SampleProblem& p, int slot, const RowDrafts& drafts) {
  bool thinking = p.thinking[slot] != 0;
  for (int i = 0; i < drafts.num_before; ++i) {
    if (drafts.tokens[i] == p.sampling[slot].think_start) thinking = true;
    if (drafts.tokens[i] == p.sampling[slot].think_end) thinking = false;
  }
  return thinking;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 640 / kThreads)
    choose_token_kernel(SampleProblem p, RowSplit split) {
  extern __shared__ uint4 dynamic[];
  SelectShared& shared = *reinterpret_cast<SelectShared*>(dynamic);
  auto* marks = reinterpret_cast<uint32_t*>(&shared + 1);
  __shared__ RowPart whole;
  __shared__ Adjustment adjust;  // here to spare registers
  __shared__ double normalizer;
  const int64_t row_index = blockIdx.x;
  const int slot = p.slots[row_index];
  if (slot < 0) {
    if (threadIdx.x == 0) p.tokens[row_index] = 0;
    return;
  }
  if (threadIdx.x < kWarpSize) {
    const RowPart joined = join_parts(
        static_cast<const RowPart*>(p.scratch) + row_index * split.num_splits, split.num_splits);
    if (threadIdx.x == 0) whole = joined;
  }
  const SlotSampling& params = p.sampling[slot];
  const float* row = p.logits + row_index * p.logits_stride;
  const auto vocab_size = static_cast<int>(p.vocab_size);
  __syncthreads();
  if (whole.num_bad != 0) {
    if (threadIdx.x == 0) {
      p.tokens[row_index] = 0;
      // As unsigned numbers -1 is the largest.
      atomicMin(reinterpret_cast<unsigned*>(p.first_bad_row), static_cast<unsigned>(row_index));
    }
    return;
  }
  const bool wants_logprobs = params.num_logprobs >= 0;
  if (wants_logprobs && threadIdx.x == 0) {
    normalizer = static_cast<double>(whole.raw_max) + log(whole.raw_sum);
  }
  __syncthreads();
  if (wants_logprobs) {
    const int count = min(min(params.num_logprobs, static_cast<int>(p.max_logprobs)), vocab_size);
    if (count > 0) {
      sort_best<kThreads>(row, vocab_size, count, shared);
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint64_t packed = shared.sorted[i];
        p.top_ids[row_index * p.top_ids_stride + i] = packed_id(packed);
        p.top_logprobs[row_index * p.top_logprobs_stride + i] =
            static_cast<float>(packed_value(packed) - normalizer);
      }
      __syncthreads();
    }
  }
  int token = packed_id(whole.best);
  const float best = packed_value(whole.best);
  const RowDrafts drafts = row_drafts(p, row_index, slot);
  const int num_outputs = p.num_outputs[slot] + drafts.num_before;
  const bool simulated = drafts.next >= 0 && params.simulated_acceptance >= 0.0f;
  const bool relaxed = drafts.next >= 0 && !simulated && params.relaxed_topn > 0 &&
                       p.thinking != nullptr && is_thinking(p, slot, drafts);
  const bool draws = params.temperature != 0.0f;
  if ((draws || relaxed) && fabsf(best) < INFINITY) {
    const Adjustment made = make_adjustment(p, row_index, 0, vocab_size, marks);
    if (threadIdx.x == 0) adjust = made;
    __syncthreads();
    if (relaxed &&
        passes_relaxed<kThreads>(params, row, vocab_size, best, adjust, drafts.next, shared)) {
      token = drafts.next;
    } else if (draws) {
      token =
          adjust.any()
              ? draw<kThreads, true>(params, row, vocab_size, best, adjust, num_outputs, shared)
              : draw<kThreads, false>(params, row, vocab_size, best, adjust, num_outputs, shared);
    }
  }
  if (simulated) {
    const double uniform = philox_uniform(~params.seed, static_cast<uint32_t>(num_outputs));
    if (uniform < params.simulated_acceptance) {
      token = drafts.next;
    } else if (token == drafts.next) {
      token = (token + 1) % vocab_size;
    }
  }
  if (threadIdx.x == 0) {
    p.tokens[row_index] = token;
    if (wants_logprobs) p.logprobs[row_index] = static_cast<float>(row[token] - normalizer);
  }
}

size_t shared_bytes(int64_t vocab_size) {
  return sizeof(SelectShared) + sizeof(uint32_t) * static_cast<size_t>((vocab_size + 31) / 32);
}

template <int kThreads>
void launch_with(const SampleProblem& p, const RowSplit& split, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(choose_token_kernel<kThreads>),
      cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes(kMaxVocabSize)));
  static_cast<void>(allowed);
  choose_token_kernel<kThreads>
      <<<static_cast<unsigned>(p.num_rows), kThreads, shared_bytes(p.vocab_size), stream>>>(p,
                                                                                            split);
}

}  // namespace

void launch_choose_token(const SampleProblem& p, const RowSplit& split, bool small_blocks,
                         cudaStream_t stream) {
  if (small_blocks) {
    launch_with<320>(p, split, stream);
  } else {
    launch_with<640>(p, split, stream);
  }
}

}  // namespace deepflight::cuda_sample_verify
