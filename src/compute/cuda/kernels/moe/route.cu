// Routing: one warp a token. Lane l holds experts [l * V, (l + 1) * V) in registers, so that a
// group of experts is a run of lanes. The exponentials are made in double and rounded: the CPU's
// expf is right to half a unit in nearly all cases, and near-ties must resolve alike.
#include "compute/cuda/kernels/moe/kernels.h"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_moe {
namespace {

using device::kWarpSize;

constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAll = 0xffffffffu;

// Unsigned order of the floats' order; never 0, which marks an expert that is taken.
__device__ inline uint32_t order_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

template <int V>
__device__ inline void score(const RouteProblem& p, const float (&logits)[V], int first,
                             float (&raw)[V]) {
  if (!p.softmax) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      raw[j] = 1.0f / (1.0f + static_cast<float>(exp(-static_cast<double>(logits[j]))));
    }
    return;
  }
  float maximum = -INFINITY;
#pragma unroll
  for (int j = 0; j < V; ++j) maximum = fmaxf(maximum, logits[j]);
  maximum = device::warp_max(maximum);
  double sum = 0.0;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    raw[j] = static_cast<float>(exp(static_cast<double>(logits[j] - maximum)));
    if (first + j < p.num_experts) sum += raw[j];
  }
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kAll, sum, offset);
  }
#pragma unroll
  for (int j = 0; j < V; ++j) raw[j] /= static_cast<float>(sum);
}

// best and second of two such pairs.
__device__ inline void merge_top2(float& best, float& second, float other_best,
                                  float other_second) {
  if (other_best > best) {
    second = fmaxf(best, other_second);
    best = other_best;
  } else {
    second = fmaxf(second, other_best);
  }
}

// Groups of whole lanes (kLanes of them, a power of two). Tells whether this lane's group is kept.
template <int V>
__device__ inline bool keep_group_of_lanes(const RouteProblem& p, const float (&choice)[V],
                                           int lanes) {
  float best = -INFINITY;
  float second = -INFINITY;
#pragma unroll
  for (int j = 0; j < V; ++j) merge_top2(best, second, choice[j], -INFINITY);
  for (int offset = 1; offset < lanes; offset *= 2) {
    const float other_best = __shfl_xor_sync(kAll, best, offset);
    const float other_second = __shfl_xor_sync(kAll, second, offset);
    merge_top2(best, second, other_best, other_second);
  }
  const float value = p.group_rank == GroupRank::kTop2Sum ? best + second : best;
  const int group = static_cast<int>(threadIdx.x % kWarpSize) / lanes;
  int rank = 0;
  for (int other = 0; other < p.num_groups; ++other) {
    const float other_value = __shfl_sync(kAll, value, other * lanes);
    rank += other_value > value || (other_value == value && other < group);
  }
  return rank < p.topk_groups;
}

// Any groups: through shared memory. `choices` holds num_experts values, `scores` num_groups.
__device__ void score_groups(const RouteProblem& p, const float* choices, float* scores) {
  const int lane = threadIdx.x % kWarpSize;
  const int group_size = p.num_experts / p.num_groups;
  for (int group = lane; group < p.num_groups; group += kWarpSize) {
    float best = -INFINITY;
    float second = -INFINITY;
    for (int i = 0; i < group_size; ++i) {
      merge_top2(best, second, choices[group * group_size + i], -INFINITY);
    }
    scores[group] = p.group_rank == GroupRank::kTop2Sum ? best + second : best;
  }
  __syncwarp();
}

__device__ inline bool keep_group(const RouteProblem& p, const float* scores, int group) {
  const float value = scores[group];
  int rank = 0;
  for (int other = 0; other < p.num_groups; ++other) {
    rank += scores[other] > value || (scores[other] == value && other < group);
  }
  return rank < p.topk_groups;
}

// The best topk experts, one round each; lane k keeps number k's id and weight.
template <int V>
__device__ inline void take_best(const RouteProblem& p, uint32_t (&keys)[V], const float (&raw)[V],
                                 int64_t token) {
  const int lane = threadIdx.x % kWarpSize;
  int my_id = 0;
  float my_weight = 0.0f;
  float sum = 0.0f;
  for (int k = 0; k < p.topk; ++k) {
    uint32_t best = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) best = max(best, keys[j]);
    const uint32_t best_of_all = __reduce_max_sync(kAll, best);
    int index = V;
#pragma unroll
    for (int j = V - 1; j >= 0; --j) {
      if (keys[j] == best_of_all) index = j;
    }
    // The lowest lane that has it has the lowest expert that has it.
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, index < V))) - 1;
    float weight = 0.0f;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (index == j) {
        weight = raw[j];
        if (lane == owner) keys[j] = 0;
      }
    }
    weight = __shfl_sync(kAll, weight, owner);
    index = __shfl_sync(kAll, index, owner);
    sum += weight;
    if (lane == k) {
      my_id = owner * V + index;
      my_weight = weight;
    }
  }
  const float factor = p.scaling_factor / (p.normalize ? sum + 1e-20f : 1.0f);
  if (lane < p.topk) {
    p.topk_ids[token * p.ids_stride + lane] = my_id;
    p.topk_weights[token * p.weights_stride + lane] = my_weight * factor;
  }
}

// kLaneGroups: a group is a power of two of whole lanes. Else groups go through shared memory.
template <int V, bool kLaneGroups>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize) route_kernel(RouteProblem p) {
  extern __shared__ float shared[];
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (token >= p.num_tokens) return;
  const float* logits_row = p.logits + token * p.logits_stride;
  const int first = lane * V;
  float logits[V];
  if (V % 4 == 0 && first + V <= p.num_experts &&
      reinterpret_cast<uintptr_t>(logits_row) % 16 == 0) {
#pragma unroll
    for (int j = 0; j < V / 4; ++j) {
      const float4 four = reinterpret_cast<const float4*>(logits_row + first)[j];
      logits[4 * j] = four.x;
      logits[4 * j + 1] = four.y;
      logits[4 * j + 2] = four.z;
      logits[4 * j + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      logits[j] = first + j < p.num_experts ? logits_row[first + j] : -INFINITY;
    }
  }
  float raw[V], choice[V];
  score<V>(p, logits, first, raw);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const bool exists = first + j < p.num_experts;
    choice[j] = exists ? raw[j] + (p.bias != nullptr ? p.bias[first + j] : 0.0f) : -INFINITY;
  }
  bool keep[V];
#pragma unroll
  for (int j = 0; j < V; ++j) keep[j] = true;
  if (p.group_rank != GroupRank::kNone && p.topk_groups < p.num_groups) {
    const int group_size = p.num_experts / p.num_groups;
    if constexpr (kLaneGroups) {
      const bool kept = keep_group_of_lanes<V>(p, choice, group_size / V);
#pragma unroll
      for (int j = 0; j < V; ++j) keep[j] = kept;
    } else {
      float* choices = shared + warp * 2 * p.num_experts;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if (first + j < p.num_experts) choices[first + j] = choice[j];
      }
      __syncwarp();
      score_groups(p, choices, choices + p.num_experts);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        keep[j] = first + j < p.num_experts &&
                  keep_group(p, choices + p.num_experts, (first + j) / group_size);
      }
    }
  }
  uint32_t keys[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    keys[j] = first + j < p.num_experts ? order_key(keep[j] ? choice[j] : -INFINITY) : 0;
  }
  take_best<V>(p, keys, raw, token);
}

template <int V>
void launch_with(const RouteProblem& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.num_tokens + kWarpsPerBlock - 1) / kWarpsPerBlock));
  const dim3 block(kWarpsPerBlock * kWarpSize);
  const int group_size = p.num_experts / p.num_groups;
  const int lanes = group_size / V;
  if (p.group_rank == GroupRank::kNone ||
      (group_size % V == 0 && (lanes & (lanes - 1)) == 0 && lanes <= kWarpSize)) {
    route_kernel<V, true><<<grid, block, 0, stream>>>(p);
  } else {
    const size_t shared = sizeof(float) * 2 * kWarpsPerBlock * p.num_experts;
    route_kernel<V, false><<<grid, block, shared, stream>>>(p);
  }
}

}  // namespace

void launch_route(const RouteProblem& p, cudaStream_t stream) {
  const int values = (p.num_experts + kWarpSize - 1) / kWarpSize;
  if (values <= 2) return launch_with<2>(p, stream);
  if (values <= 4) return launch_with<4>(p, stream);
  if (values <= 8) return launch_with<8>(p, stream);
  if (values <= 12) return launch_with<12>(p, stream);
  if (values <= 16) return launch_with<16>(p, stream);
  launch_with<32>(p, stream);
}

}  // namespace deepflight::cuda_moe
