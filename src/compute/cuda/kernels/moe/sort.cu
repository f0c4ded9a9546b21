// A stable counting sort of (token, k) by expert. Every warp takes a contiguous run of rows and
// counts its experts; a scan over the experts, and over the warps within an expert, gives each warp
// its first place per expert; then the warps place their rows, 32 at a time in order. Counts are
// integers, so atomics do not make the result depend on anything.
#include "compute/cuda/kernels/moe/kernels.h"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_moe {
namespace {

using device::kWarpSize;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr unsigned kAll = 0xffffffffu;
static_assert(kMaxExperts <= kThreads, "one thread an expert");

__device__ inline int expert_of(const SortProblem& p, int64_t row) {
  return static_cast<int>(
      min(static_cast<uint32_t>(p.topk_ids[row]), static_cast<uint32_t>(p.num_experts - 1)));
}

// Sum of the values of all lower threads of the block. `sums` is kWarps ints of shared memory.
__device__ inline int block_exclusive_sum(int value, int* sums) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  int inclusive = value;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const int other = __shfl_up_sync(kAll, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == kWarpSize - 1) sums[warp] = inclusive;
  __syncthreads();
  int below = lane < warp ? sums[lane] : 0;
  below = __reduce_add_sync(kAll, below);
  return below + inclusive - value;
}

// counts[warp][expert] of the block's rows [begin, end), each warp `rows_per_warp` of them.
__device__ inline void count_rows(const SortProblem& p, int64_t begin, int64_t end,
                                  int64_t rows_per_warp, int* counts) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  for (int i = threadIdx.x; i < kWarps * p.num_experts; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int64_t first = begin + warp * rows_per_warp;
  const int64_t last = min(first + rows_per_warp, end);
#pragma unroll 4
  for (int64_t row = first + lane; row < last; row += kWarpSize) {
    atomicAdd(&counts[warp * p.num_experts + expert_of(p, row)], 1);
  }
  __syncthreads();
}

// Turns this thread's expert's counts into each warp's first place, starting at `place`.
__device__ inline void counts_to_places(const SortProblem& p, int place, int* counts) {
  const int expert = threadIdx.x;
  if (expert < p.num_experts) {
    for (int warp = 0; warp < kWarps; ++warp) {
      const int count = counts[warp * p.num_experts + expert];
      counts[warp * p.num_experts + expert] = place;
      place += count;
    }
  }
  __syncthreads();
}

__device__ inline int count_of_expert(const SortProblem& p, const int* counts) {
  const int expert = threadIdx.x;
  int total = 0;
  if (expert < p.num_experts) {
    for (int warp = 0; warp < kWarps; ++warp) total += counts[warp * p.num_experts + expert];
  }
  return total;
}

__device__ inline void place_rows(const SortProblem& p, int64_t begin, int64_t end,
                                  int64_t rows_per_warp, int* places) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int64_t first = begin + warp * rows_per_warp;
  const int64_t last = min(first + rows_per_warp, end);
  for (int64_t base = first; base < last; base += kWarpSize) {
    const int64_t row = base + lane;
    const bool valid = row < last;
    const int expert = valid ? expert_of(p, row) : p.num_experts;
    const unsigned peers = __match_any_sync(kAll, expert);
    const int rank = __popc(peers & ((1u << lane) - 1));
    int place = 0;
    if (valid) place = places[warp * p.num_experts + expert];
    __syncwarp();
    if (valid) {
      if (rank == 0) places[warp * p.num_experts + expert] = place + __popc(peers);
      p.positions[row] = place + rank;
      p.rows[place + rank] = static_cast<int32_t>(row);
    }
    __syncwarp();
  }
}

__device__ inline int64_t run_of_warp(int64_t num_rows) {
  const int64_t per_warp = (num_rows + kWarps - 1) / kWarps;
  return (per_warp + kWarpSize - 1) / kWarpSize * kWarpSize;
}

__global__ void __launch_bounds__(kThreads) sort_one_block_kernel(SortProblem p) {
  extern __shared__ int counts[];
  __shared__ int sums[kWarps];
  const int64_t run = run_of_warp(p.num_rows);
  count_rows(p, 0, p.num_rows, run, counts);
  const int first = block_exclusive_sum(count_of_expert(p, counts), sums);
  if (threadIdx.x < p.num_experts) p.offsets[threadIdx.x] = first;
  if (threadIdx.x == 0) p.offsets[p.num_experts] = static_cast<int32_t>(p.num_rows);
  counts_to_places(p, first, counts);
  place_rows(p, 0, p.num_rows, run, counts);
}

// The larger problems: scratch[block][expert] holds the counts, then the first places.
__global__ void __launch_bounds__(kThreads) sort_count_kernel(SortProblem p) {
  extern __shared__ int counts[];
  auto* block_counts = static_cast<int32_t*>(p.scratch) + int64_t{blockIdx.x} * p.num_experts;
  for (int i = threadIdx.x; i < p.num_experts; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int64_t begin = int64_t{blockIdx.x} * kSortTileRows;
  const int64_t end = min(begin + kSortTileRows, p.num_rows);
#pragma unroll
  for (int i = 0; i < kSortTileRows / kThreads; ++i) {
    const int64_t row = begin + i * kThreads + threadIdx.x;
    if (row < end) atomicAdd(&counts[expert_of(p, row)], 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.num_experts; i += kThreads) block_counts[i] = counts[i];
}

__global__ void __launch_bounds__(kThreads) sort_scan_kernel(SortProblem p, int num_blocks) {
  __shared__ int sums[kWarps];
  const int expert = threadIdx.x;
  auto* counts = static_cast<int32_t*>(p.scratch);
  int total = 0;
  if (expert < p.num_experts) {
#pragma unroll 8
    for (int block = 0; block < num_blocks; ++block) {
      total += counts[int64_t{block} * p.num_experts + expert];
    }
  }
  int place = block_exclusive_sum(total, sums);
  if (expert == 0) p.offsets[p.num_experts] = static_cast<int32_t>(p.num_rows);
  if (expert >= p.num_experts) return;
  p.offsets[expert] = place;
#pragma unroll 8
  for (int block = 0; block < num_blocks; ++block) {
    int32_t& count = counts[int64_t{block} * p.num_experts + expert];
    const int block_count = count;
    count = place;
    place += block_count;
  }
}

__global__ void __launch_bounds__(kThreads) sort_place_kernel(SortProblem p) {
  extern __shared__ int counts[];
  const int64_t begin = int64_t{blockIdx.x} * kSortTileRows;
  const int64_t end = min(begin + kSortTileRows, p.num_rows);
  const int64_t run = kSortTileRows / kWarps;
  count_rows(p, begin, end, run, counts);
  const int expert = threadIdx.x;
  const auto* places = static_cast<const int32_t*>(p.scratch);
  const int place =
      expert < p.num_experts ? places[int64_t{blockIdx.x} * p.num_experts + expert] : 0;
  counts_to_places(p, place, counts);
  place_rows(p, begin, end, run, counts);
}

size_t count_bytes(int num_experts) { return sizeof(int) * kWarps * num_experts; }

// Past 48 KB (384 experts) a kernel must have been told so; once is enough.
void allow_shared(const void* kernel) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(count_bytes(kMaxExperts)));
}

}  // namespace

void launch_sort_one_block(const SortProblem& p, cudaStream_t stream) {
  static const bool allowed =
      (allow_shared(reinterpret_cast<const void*>(sort_one_block_kernel)), true);
  static_cast<void>(allowed);
  sort_one_block_kernel<<<1, kThreads, count_bytes(p.num_experts), stream>>>(p);
}

void launch_sort_blocks(const SortProblem& p, cudaStream_t stream) {
  static const bool allowed =
      (allow_shared(reinterpret_cast<const void*>(sort_place_kernel)), true);
  static_cast<void>(allowed);
  const auto num_blocks = static_cast<unsigned>((p.num_rows + kSortTileRows - 1) / kSortTileRows);
  sort_count_kernel<<<num_blocks, kThreads, sizeof(int) * p.num_experts, stream>>>(p);
  sort_scan_kernel<<<1, kThreads, 0, stream>>>(p, static_cast<int>(num_blocks));
  sort_place_kernel<<<num_blocks, kThreads, count_bytes(p.num_experts), stream>>>(p);
}

}  // namespace deepflight::cuda_moe
