// The one pass over the logits that every row needs, split over the whole device: are they finite,
// which adjusted one is the best and, where the slot wants log-probabilities, the log-sum-exp of
// those given. Greedy rows need nothing more.
#include <cfloat>

#include "compute/cuda/kernels/sample_verify/rows.cuh"

namespace deepflight::cuda_sample_verify {
namespace {

constexpr int kThreads = 256;

struct Seen {
  float best = -INFINITY;  // adjusted
  int best_id;
  float raw_max = -INFINITY;
  bool bad = false;
};

template <bool kAdjusted>
__device__ inline void scan_part(const float* row, int begin, int end, const Adjustment& adjust,
                                 Seen& seen) {
  for_each_logit<kThreads, kAdjusted ? 1 : 4>(row, begin, end, [&](int id, float raw) {
    seen.bad |= !(fabsf(raw) <= FLT_MAX);
    seen.raw_max = fmaxf(seen.raw_max, raw);
    const float value = kAdjusted ? adjust(id, raw) : raw;
    if (value > seen.best) {
      seen.best = value;
      seen.best_id = id;
    }
  });
}

__global__ void __launch_bounds__(kThreads, kScanBlocksPerSm)
    row_scan_kernel(SampleProblem p, RowSplit split) {
  extern __shared__ uint32_t marks[];
  __shared__ uint64_t scratch[32];
  __shared__ double sums[32];
  __shared__ float maxima[32];
  const int part = blockIdx.x;
  const int64_t row_index = blockIdx.y;
  if (part == 0 && row_index == 0 && threadIdx.x == 0) *p.first_bad_row = -1;
  const int slot = p.slots[row_index];
  if (slot < 0) return;
  const float* row = p.logits + row_index * p.logits_stride;
  const int begin = part * split.part_size;
  const int end = min(begin + split.part_size, static_cast<int>(p.vocab_size));
  const Adjustment adjust = make_adjustment(p, row_index, begin, end, marks);
  Seen seen;
  seen.best_id = begin;  // where all are minus infinity, the first
  if (adjust.any()) {
    scan_part<true>(row, begin, end, adjust, seen);
  } else {
    scan_part<false>(row, begin, end, adjust, seen);
  }
  RowPart result;
  result.best = block_max(pack(order_key(seen.best), seen.best_id), scratch);
  result.num_bad = __syncthreads_or(seen.bad);
  result.raw_max = 0.0f;
  result.raw_sum = 0.0;
  if (p.sampling[slot].num_logprobs >= 0) {
    const float maximum = device::block_max(seen.raw_max, maxima);
    double sum = 0.0;
    for_each_logit<kThreads>(row, begin, end, [&](int, float raw) { sum += expf(raw - maximum); });
    result.raw_sum = block_sum_of(sum, sums);
    result.raw_max = maximum;
  }
  if (threadIdx.x == 0) {
    static_cast<RowPart*>(p.scratch)[row_index * split.num_splits + part] = result;
  }
}

}  // namespace

void launch_row_scan(const SampleProblem& p, const RowSplit& split, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(split.num_splits), static_cast<unsigned>(p.num_rows));
  const size_t marks = sizeof(uint32_t) * ((static_cast<size_t>(split.part_size) + 31) / 32);
  row_scan_kernel<<<grid, kThreads, marks, stream>>>(p, split);
}

}  // namespace deepflight::cuda_sample_verify
