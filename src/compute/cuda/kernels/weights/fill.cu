// Random weights (compute/ops/random_fill.h): a thread makes 16 elements, four Philox calls, and
// stores them as one or two 16-byte words. Products are __fmul_rn, so that they round as the
// host's.
#include <algorithm>

#include "compute/cuda/kernels/weights/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"

namespace deepflight::cuda_weights {
namespace {

using namespace deepflight::device;

constexpr int kThreads = 256;
constexpr int kPerThread = 16;

__device__ inline float sum_of(uint32_t word) { return static_cast<float>(random_sum(word)); }

// Four elements as four bytes, or as eight in two words.
__device__ inline uint32_t fp8_of(const std::array<uint32_t, 4>& words) {
  return to_e4m3x4(__fmul_rn(sum_of(words[0]), 0.875f), __fmul_rn(sum_of(words[1]), 0.875f),
                   __fmul_rn(sum_of(words[2]), 0.875f), __fmul_rn(sum_of(words[3]), 0.875f));
}
__device__ inline uint32_t bf16_pair(uint32_t low, uint32_t high, float step) {
  const __nv_bfloat162 pair =
      __floats2bfloat162_rn(__fmul_rn(sum_of(low), step), __fmul_rn(sum_of(high), step));
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(const __grid_constant__ FillProblem p, float step, bool aligned) {
  constexpr int kBytes = kPerThread * (kFp8 ? 1 : 2);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPerThread;
  if (first >= p.count) return;
  union {
    uint4 vectors[kBytes / 16];
    uint32_t words[kBytes / 4];
    uint8_t bytes[kBytes];
    uint16_t halves[kBytes / 2];
  } out;
#pragma unroll
  for (int i = 0; i < kPerThread / 4; ++i) {
    const auto words = random_words(p.fill.stream, static_cast<uint64_t>(first / 4 + i), 0);
    if constexpr (kFp8) {
      out.words[i] = fp8_of(words);
    } else {
      out.words[2 * i] = bf16_pair(words[0], words[1], step);
      out.words[2 * i + 1] = bf16_pair(words[2], words[3], step);
    }
  }
  if (aligned && first + kPerThread <= p.count) {
    auto* target = reinterpret_cast<uint4*>(static_cast<char*>(p.values) + first * (kFp8 ? 1 : 2));
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) target[i] = out.vectors[i];
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (first + i >= p.count) break;
    if constexpr (kFp8) {
      static_cast<uint8_t*>(p.values)[first + i] = out.bytes[i];
    } else {
      static_cast<uint16_t*>(p.values)[first + i] = out.halves[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    scale_kernel(const __grid_constant__ FillProblem p, float unit) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group * 4 >= p.num_scales) return;
  const auto words = random_words(p.fill.stream, static_cast<uint64_t>(group), 1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float factor = 0.75f + static_cast<float>(words[i] & 0xff) * 0x1p-9f;  // exact
    if (group * 4 + i < p.num_scales) p.scales[group * 4 + i] = __fmul_rn(unit, factor);
  }
}

unsigned int num_blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned int>((count + per_block - 1) / per_block);
}

}  // namespace

void launch_fill_values(const FillProblem& problem, cudaStream_t stream) {
  const unsigned int grid = num_blocks(problem.count, kThreads * kPerThread);
  const bool aligned = reinterpret_cast<uintptr_t>(problem.values) % 16 == 0;
  const float step = problem.fill.step();
  if (problem.fp8) {
    fill_kernel<true><<<grid, kThreads, 0, stream>>>(problem, step, aligned);
  } else {
    fill_kernel<false><<<grid, kThreads, 0, stream>>>(problem, step, aligned);
  }
}

void launch_fill_scales(const FillProblem& problem, cudaStream_t stream) {
  const float unit = random_scale(128, problem.fill.step());  // the factor is then 1
  scale_kernel<<<num_blocks(problem.num_scales, kThreads * 4), kThreads, 0, stream>>>(problem,
                                                                                      unit);
}

}  // namespace deepflight::cuda_weights
