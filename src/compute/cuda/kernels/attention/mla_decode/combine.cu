// Joins the partial results of split groups: out = sum_i 2^(lse_i - max) out_i, normalised, in the
// order of the parts. A few hundred blocks walk over the rows, 128 threads to a row.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kRowThreads = 128;
constexpr int kRowsAtOnce = 2;
constexpr int kBlocksPerSm = 8;
constexpr int kChunks = kMaxParts / device::kWarpSize;

struct CombineParams {
  const Schedule* schedule;
  const float* partials;
  const float* lse;
  __nv_bfloat16* out;
  int64_t out_stride, out_head_stride;
  int num_heads;
};

__device__ void combine_row(const CombineParams& p, const Group& group, int num_lanes, int lane_idx,
                            int local) {
  const int row = (group.first_tile + lane_idx) * kTileRows + local;
  const int token = row / p.num_heads;
  if (token >= group.num_queries) return;
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
  // The first split is the second of its block's slots unless its part began with the group.
  const auto slot_of = [&](int split) {
    const int block = (group.first_part + split) * num_lanes + lane_idx;
    return 2 * block + (split == 0 && group.begins_part == 0 ? 1 : 0);
  };
  float weights[kChunks], largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int split = i * device::kWarpSize + lane;
    weights[i] = split < group.num_splits ? p.lse[slot_of(split) * kTileRows + local] : -INFINITY;
    largest = fmaxf(largest, weights[i]);
  }
  largest = device::warp_max(largest);
  if (largest == -INFINITY) largest = 0.0f;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    weights[i] = exp2f(weights[i] - largest);
    total += weights[i];
  }
  total = device::warp_sum(total);
  const float factor = total > 0.0f ? 1.0f / total : 0.0f;

  const int column = static_cast<int>(threadIdx.x) % kRowThreads * 4;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int count = min(group.num_splits - i * device::kWarpSize, device::kWarpSize);
#pragma unroll 8
    for (int j = 0; j < count; ++j) {
      const float weight = __shfl_sync(0xffffffffu, weights[i], j);
      const int64_t slot = slot_of(i * device::kWarpSize + j);
      const float4 value = *reinterpret_cast<const float4*>(
          p.partials + (slot * kTileRows + local) * kLatentDim + column);
      sum.x += weight * value.x;
      sum.y += weight * value.y;
      sum.z += weight * value.z;
      sum.w += weight * value.w;
    }
  }
  const __nv_bfloat162 low = __floats2bfloat162_rn(sum.x * factor, sum.y * factor);
  const __nv_bfloat162 high = __floats2bfloat162_rn(sum.z * factor, sum.w * factor);
  __nv_bfloat16* out = p.out + int64_t{group.first_token + token} * p.out_stride +
                       int64_t{row - token * p.num_heads} * p.out_head_stride + column;
  *reinterpret_cast<uint2*>(out) =
      make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
}

__global__ void __launch_bounds__(kRowThreads* kRowsAtOnce) combine_kernel(const CombineParams p) {
  // The schedule is older than the kernel before this one, its results are not.
  const int num_lanes = p.schedule->num_lanes;
  const int num_rows = p.schedule->num_split_groups * num_lanes * kTileRows;
  const int first =
      static_cast<int>(blockIdx.x) * kRowsAtOnce + static_cast<int>(threadIdx.x) / kRowThreads;
  if (first >= num_rows) return;
  Group group = p.schedule->split_groups[first / kTileRows / num_lanes];
  device::wait_for_previous_kernel();
  for (int i = first; i < num_rows; i += static_cast<int>(gridDim.x) * kRowsAtOnce) {
    const int lane_idx = i / kTileRows % num_lanes;
    if (i != first) group = p.schedule->split_groups[i / kTileRows / num_lanes];
    if (lane_idx < group.num_tiles) combine_row(p, group, num_lanes, lane_idx, i % kTileRows);
  }
}

}  // namespace

cudaError_t launch_combine(const MlaDecodeProblem& problem, int num_sms, const float* partials,
                           const float* lse, cudaStream_t stream) {
  const CombineParams p = {static_cast<const Schedule*>(problem.metadata),
                           partials,
                           lse,
                           static_cast<__nv_bfloat16*>(problem.out),
                           problem.out_stride,
                           problem.out_head_stride,
                           static_cast<int>(problem.num_heads)};
  device::launch_early(combine_kernel, dim3(static_cast<unsigned>(num_sms * kBlocksPerSm)),
                       dim3(kRowThreads * kRowsAtOnce), stream, p);
  return cudaGetLastError();
}

}  // namespace deepflight::cuda_mla_decode
