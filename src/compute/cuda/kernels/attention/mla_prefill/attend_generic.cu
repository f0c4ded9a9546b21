// Attention over a chunk's expanded keys and values for any widths: a block of plain code for each
// (query, head). The oracle of the fast kernel, and what small models run.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_prefill {
namespace {

constexpr int kThreads = 128;  // also keys at a time

struct GenericParams {
  AttendProblem a;
  Chunk chunk;
};

__device__ float score_of(const __nv_bfloat16* key, const __nv_bfloat16* k_pe, const float* query,
                          int nope_dim, int rope_dim) {
  float sum = 0.0f;
  for (int i = 0; i < nope_dim; ++i) sum += query[i] * __bfloat162float(key[i]);
  for (int i = 0; i < rope_dim; ++i) sum += query[nope_dim + i] * __bfloat162float(k_pe[i]);
  return sum;
}

// Shared memory: query [nope_dim + rope_dim], output [v_dim], weights [kThreads], scratch [2][32].
__global__ void __launch_bounds__(kThreads)
    attend_generic_kernel(const __grid_constant__ GenericParams params) {
  extern __shared__ float shared[];
  const AttendProblem& a = params.a;
  const int qk_dim = a.nope_dim + a.rope_dim;
  float* query = shared;
  float* output = query + qk_dim;
  float* weights = output + a.v_dim;
  float* scratch = weights + kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int tile = static_cast<int>(blockIdx.x);
  int index = params.chunk.num_pieces - 1;
  while (params.chunk.pieces[index].first_tile > tile) --index;
  const Piece& piece = params.chunk.pieces[index];
  const int local = tile - piece.first_tile;
  const int64_t row = piece.first_query + local;
  const int num_visible = min(piece.diagonal + local, piece.num_keys - 1) + 1;
  const int64_t head_width = a.nope_dim + a.v_dim;
  const __nv_bfloat16* expanded = static_cast<const __nv_bfloat16*>(a.expanded);
  const __nv_bfloat16* k_pe = static_cast<const __nv_bfloat16*>(a.k_pe);

  const __nv_bfloat16* source =
      static_cast<const __nv_bfloat16*>(a.q) + row * a.q_stride + head * a.q_head_stride;
  for (int i = thread; i < qk_dim; i += kThreads) query[i] = __bfloat162float(source[i]);
  for (int i = thread; i < a.v_dim; i += kThreads) output[i] = 0.0f;
  __syncthreads();

  float maximum = -INFINITY, sum = 0.0f;
  const int first_seen = piece.kv_begin > 0 ? 0 : a.first_key;
  for (int begin = 0; begin < num_visible; begin += kThreads) {
    const int count = min(kThreads, num_visible - begin);
    const int first = max(first_seen - begin, 0);
    if (first >= count) continue;
    const int64_t first_row = piece.first_key + begin;
    float score = -INFINITY;
    if (thread >= first && thread < count) {
      const int64_t key_row = first_row + thread;
      score =
          a.softmax_scale * score_of(expanded + (key_row * a.num_heads + head) * head_width,
                                     k_pe + key_row * a.rope_dim, query, a.nope_dim, a.rope_dim);
    }
    const float new_maximum = fmaxf(maximum, device::block_max(score, scratch));
    const float weight = expf(score - new_maximum);
    const float old_factor = expf(maximum - new_maximum);
    weights[thread] = weight;
    sum = sum * old_factor + device::block_sum(weight, scratch + 32);
    maximum = new_maximum;
    for (int i = thread; i < a.v_dim; i += kThreads) {
      float value = output[i] * old_factor;
      for (int k = first; k < count; ++k) {
        value +=
            weights[k] *
            __bfloat162float(
                expanded[((first_row + k) * a.num_heads + head) * head_width + a.nope_dim + i]);
      }
      output[i] = value;
    }
    __syncthreads();
  }

  // Joins what earlier chunks gave: weights of the two parts by their softmax's denominators.
  const float lse = maximum + logf(sum);
  float* stored_lse = a.lse + head * a.num_tokens + row;
  float now = sum > 0.0f ? 1.0f / sum : 0.0f, before = 0.0f, joined = lse;
  if (piece.kv_begin > 0) {
    const float old_lse = *stored_lse;
    const float larger = fmaxf(lse, old_lse);
    joined = larger + logf(expf(lse - larger) + expf(old_lse - larger));
    now *= expf(lse - joined);
    before = expf(old_lse - joined);
  }
  __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out) + row * a.out_stride +
                       static_cast<int64_t>(head) * a.v_dim;
  for (int i = thread; i < a.v_dim; i += kThreads) {
    float value = output[i] * now;
    if (piece.kv_begin > 0) value += before * __bfloat162float(out[i]);
    out[i] = __float2bfloat16_rn(value);
  }
  __syncthreads();  // all have read the old one
  if (thread == 0 && piece.diagonal + local >= piece.num_keys) *stored_lse = joined;
}

}  // namespace

void launch_attend_generic(const AttendProblem& problem, const Chunk& chunk, cudaStream_t stream) {
  const GenericParams params = {problem, chunk};
  const int64_t floats =
      problem.nope_dim + problem.rope_dim + problem.v_dim + kThreads + 2 * device::kWarpSize;
  const dim3 grid(static_cast<unsigned>(chunk.num_tiles), static_cast<unsigned>(problem.num_heads));
  attend_generic_kernel<<<grid, kThreads, floats * sizeof(float), stream>>>(params);
}

}  // namespace deepflight::cuda_mla_prefill
