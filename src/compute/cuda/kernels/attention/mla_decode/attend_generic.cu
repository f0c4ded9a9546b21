// Absorbed attention for any widths: a block of plain code for each (token, head), all keys of a
// sequence in one block. Order of the sums is fixed, so runs are bit-identical.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/primitives/kv_token.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / device::kWarpSize;

// The sequence of a token: the last that begins at or before it (empty ones begin there too).
__device__ int sequence_of(const int32_t* offsets, int num_sequences, int token) {
  int low = 0, high = num_sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Shared memory: query [latent + rope], output [latent], scores [64], scratch [2][32].
template <PageFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    attend_generic_kernel(const __grid_constant__ MlaDecodeProblem p, float kv_scale) {
  extern __shared__ float shared[];
  const int latent = static_cast<int>(p.latent_dim);
  const int dim = latent + static_cast<int>(p.rope_dim);
  const auto token_bytes = static_cast<int>(page_token_bytes(kFormat, latent, dim - latent));
  float* query = shared;
  float* output = query + dim;
  float* scores = output + latent;
  float* scratch = scores + kPageTokens;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % device::kWarpSize, warp = thread / device::kWarpSize;
  const int token = static_cast<int>(blockIdx.x / p.num_heads);
  const int head = static_cast<int>(blockIdx.x % p.num_heads);
  const int sequence = sequence_of(p.query_offsets, static_cast<int>(p.num_sequences), token);
  const int end = p.query_offsets[sequence + 1];
  const int slot = p.slots[sequence];
  __nv_bfloat16* out =
      static_cast<__nv_bfloat16*>(p.out) + token * p.out_stride + head * p.out_head_stride;
  if (slot < 0 || token >= end) {
    for (int i = thread; i < latent; i += kThreads) out[i] = __float2bfloat16_rn(0.0f);
    return;
  }
  const int num_visible = p.kv_lens[sequence] - (end - 1 - token);
  const int32_t* pages = p.page_table + slot * p.page_table_stride;

  const __nv_bfloat16* source =
      static_cast<const __nv_bfloat16*>(p.q) + token * p.q_stride + head * p.q_head_stride;
  for (int i = thread; i < dim; i += kThreads) query[i] = __bfloat162float(source[i]);
  for (int i = thread; i < latent; i += kThreads) output[i] = 0.0f;
  __syncthreads();

  float maximum = -INFINITY, sum = 0.0f;
  for (int begin = 0; begin < num_visible; begin += kPageTokens) {
    const int count = min(kPageTokens, num_visible - begin);
    const int first = max(static_cast<int>(p.first_key) - begin, 0);
    if (first >= count) continue;
    const uint8_t* rows = static_cast<const uint8_t*>(p.pool) +
                          pages[begin / kPageTokens] * p.page_stride_bytes + p.layer_offset_bytes;
    for (int key = first + warp; key < count; key += kWarps) {
      float score = 0.0f;
      for (int i = lane; i < dim; i += device::kWarpSize) {
        score += query[i] * device::kv_value<kFormat>(rows + key * token_bytes, i, latent, 1.0f);
      }
      score = device::warp_sum(score);
      if (lane == 0) scores[key] = score * kv_scale * p.softmax_scale;
    }
    __syncthreads();
    const float score = thread >= first && thread < count ? scores[thread] : -INFINITY;
    const float new_maximum = fmaxf(maximum, device::block_max(score, scratch));
    const float weight = expf(score - new_maximum);
    const float old_factor = expf(maximum - new_maximum);
    if (thread < count) scores[thread] = weight;
    sum = sum * old_factor + device::block_sum(weight, scratch + device::kWarpSize);
    maximum = new_maximum;
    for (int i = thread; i < latent; i += kThreads) {
      float value = output[i] * old_factor;
      for (int key = first; key < count; ++key)
        value += scores[key] * device::kv_value<kFormat>(rows + key * token_bytes, i, latent, 1.0f);
      output[i] = value;
    }
    __syncthreads();
  }
  const float factor = sum > 0.0f ? kv_scale / sum : 0.0f;
  for (int i = thread; i < latent; i += kThreads) out[i] = __float2bfloat16_rn(output[i] * factor);
}

}  // namespace

int64_t generic_shared_bytes(const MlaDecodeProblem& p) {
  return (2 * p.latent_dim + p.rope_dim + kPageTokens + 2 * device::kWarpSize) *
         static_cast<int64_t>(sizeof(float));
}

void launch_attend_generic(const MlaDecodeProblem& p, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(p.num_tokens * p.num_heads);
  const auto bytes = static_cast<size_t>(generic_shared_bytes(p));
  switch (p.format) {
    case PageFormat::kBF16:
      attend_generic_kernel<PageFormat::kBF16><<<grid, kThreads, bytes, stream>>>(p, 1.0f);
      break;
    case PageFormat::kF8E4M3:
      attend_generic_kernel<PageFormat::kF8E4M3><<<grid, kThreads, bytes, stream>>>(p, p.kv_scale);
      break;
    case PageFormat::kF8Group:
      attend_generic_kernel<PageFormat::kF8Group><<<grid, kThreads, bytes, stream>>>(p, 1.0f);
      break;
  }
}

}  // namespace deepflight::cuda_mla_decode
