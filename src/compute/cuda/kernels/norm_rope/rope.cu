// Rotary embedding in place and the write of latent rows to their pages. A block is one token and
// a run of heads; the last block of a token in y takes its latent row.
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"

namespace deepflight::cuda_norm_rope {
namespace {

using namespace deepflight::device;

constexpr int kThreads = 128;
constexpr int kPageTokens = 64;

__device__ inline __nv_bfloat16* bf16(uint16_t* bits) {
  return reinterpret_cast<__nv_bfloat16*>(bits);
}

__device__ inline float rounded(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

// Element 0 of the token's row in its page; null for padding.
__device__ inline char* pool_row(const RopeProblem& p, int64_t token, int position) {
  const PoolTarget& pool = p.pool;
  const int slot = pool.token_slots[token];
  if (slot < 0) return nullptr;
  const int64_t page = pool.page_table[slot * pool.page_table_stride + position / kPageTokens];
  const int64_t row = (page * pool.num_layers + pool.layer) * kPageTokens + position % kPageTokens;
  const int64_t element_bytes = pool.format == PoolFormat::kBF16 ? 2 : 1;
  return static_cast<char*>(pool.base) + row * pool.token_dim * element_bytes;
}

// Values are BF16 already (rounded), so that both formats store what the latent row holds.
__device__ inline void store_pool8(const PoolTarget& pool, char* row, int64_t column,
                                   const float (&values)[8]) {
  if (pool.format == PoolFormat::kBF16) {
    store8(reinterpret_cast<__nv_bfloat16*>(row) + column, values);
    return;
  }
  float scaled[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) scaled[i] = __fdiv_rn(values[i], pool.scale);
  uint2 packed;
  packed.x = to_e4m3x4(scaled[0], scaled[1], scaled[2], scaled[3]);
  packed.y = to_e4m3x4(scaled[4], scaled[5], scaled[6], scaled[7]);
  *reinterpret_cast<uint2*>(row + column) = packed;
}

// Eight pairs as they lie: two runs of 8 elements, at columns low_column and high_column.
struct Pairs8 {
  float low[8];
  float high[8];
};

struct Angles8 {
  float cosines[8];
  float sines[8];
};

__device__ inline void load_floats(const float* source, float (&values)[8]) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(source));
  const float4 high = __ldg(reinterpret_cast<const float4*>(source) + 1);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

// Rounded to BF16.
__device__ inline void rotate(const Angles8& angles, bool interleaved, Pairs8* pairs) {
  if (interleaved) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = pairs->low[2 * i], y = pairs->low[2 * i + 1];
      pairs->low[2 * i] = rounded(x * angles.cosines[i] - y * angles.sines[i]);
      pairs->low[2 * i + 1] = rounded(y * angles.cosines[i] + x * angles.sines[i]);
      const float u = pairs->high[2 * i], v = pairs->high[2 * i + 1];
      pairs->high[2 * i] = rounded(u * angles.cosines[4 + i] - v * angles.sines[4 + i]);
      pairs->high[2 * i + 1] = rounded(v * angles.cosines[4 + i] + u * angles.sines[4 + i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = pairs->low[i], y = pairs->high[i];
      pairs->low[i] = rounded(x * angles.cosines[i] - y * angles.sines[i]);
      pairs->high[i] = rounded(y * angles.cosines[i] + x * angles.sines[i]);
    }
  }
}

struct Columns {
  int low;
  int high;
};

__device__ inline Columns columns_of(const RopeProblem& p, int item) {
  const auto half = static_cast<int>(p.rope_dim / 2);
  return p.interleaved ? Columns{item * 16, item * 16 + 8} : Columns{item * 8, half + item * 8};
}

__device__ inline Angles8 angles_of(const RopeProblem& p, int position, int item) {
  const float* row = p.cos_sin + position * p.rope_dim;
  Angles8 angles;
  load_floats(row + item * 8, angles.cosines);
  load_floats(row + p.rope_dim / 2 + item * 8, angles.sines);
  return angles;
}

__device__ inline void latent_vector(const RopeProblem& p, int64_t token, int position) {
  const auto rope_dim = static_cast<int>(p.cos_sin == nullptr ? 0 : p.rope_dim);
  const auto plain_dim = static_cast<int>(p.pool.token_dim) - rope_dim;
  const int num_items = rope_dim / 16;
  __nv_bfloat16* latent = bf16(p.latent) + token * p.latent_stride;
  char* target = pool_row(p, token, position);
  for (int work = static_cast<int>(threadIdx.x); work < num_items + plain_dim / 8;
       work += kThreads) {
    if (work < num_items) {
      const Columns columns = columns_of(p, work);
      const Angles8 angles = angles_of(p, position, work);
      Pairs8 pairs;
      load8(latent + plain_dim + columns.low, pairs.low);
      load8(latent + plain_dim + columns.high, pairs.high);
      rotate(angles, p.interleaved, &pairs);
      store8(latent + plain_dim + columns.low, pairs.low);
      store8(latent + plain_dim + columns.high, pairs.high);
      if (target != nullptr) {
        store_pool8(p.pool, target, plain_dim + columns.low, pairs.low);
        store_pool8(p.pool, target, plain_dim + columns.high, pairs.high);
      }
    } else if (target != nullptr) {
      const int column = (work - num_items) * 8;
      float values[8];
      load8(latent + column, values);
      store_pool8(p.pool, target, column, values);
    }
  }
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads)
    rope_vector_kernel(const __grid_constant__ RopeProblem p, int num_items) {
  const int64_t token = blockIdx.x;
  const int position = p.positions[token];
  if (p.latent != nullptr && blockIdx.y == gridDim.y - 1) {
    latent_vector(p, token, position);
    return;
  }
  const int heads_per_pass = kThreads / num_items;
  const int item = static_cast<int>(threadIdx.x) % num_items;
  const int first = static_cast<int>(blockIdx.y) * heads_per_pass * kHeads +
                    static_cast<int>(threadIdx.x) / num_items;
  if (static_cast<int>(threadIdx.x) >= heads_per_pass * num_items) return;
  const Columns columns = columns_of(p, item);
  __nv_bfloat16* q = bf16(p.q_pe) + token * p.q_token_stride;
  Pairs8 pairs[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = first + i * heads_per_pass;
    if (head >= p.num_heads) continue;
    load8(q + head * p.q_head_stride + columns.low, pairs[i].low);
    load8(q + head * p.q_head_stride + columns.high, pairs[i].high);
  }
  const Angles8 angles = angles_of(p, position, item);
  __nv_bfloat16* copy =
      token < p.num_copied ? bf16(p.q_copy) + token * p.copy_token_stride : nullptr;
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = first + i * heads_per_pass;
    if (head >= p.num_heads) continue;
    rotate(angles, p.interleaved, &pairs[i]);
    store8(q + head * p.q_head_stride + columns.low, pairs[i].low);
    store8(q + head * p.q_head_stride + columns.high, pairs[i].high);
    if (copy != nullptr) {
      store8(copy + head * p.copy_head_stride + columns.low, pairs[i].low);
      store8(copy + head * p.copy_head_stride + columns.high, pairs[i].high);
    }
  }
}

// One pair in place; gives the two BF16 values.
__device__ inline void rotate_pair(const RopeProblem& p, int position, int pair,
                                   __nv_bfloat16* values, int* low, int* high) {
  const auto half = static_cast<int>(p.rope_dim / 2);
  *low = p.interleaved ? 2 * pair : pair;
  *high = p.interleaved ? 2 * pair + 1 : half + pair;
  const float cosine = p.cos_sin[position * p.rope_dim + pair];
  const float sine = p.cos_sin[position * p.rope_dim + half + pair];
  const float x = __bfloat162float(values[*low]);
  const float y = __bfloat162float(values[*high]);
  values[*low] = __float2bfloat16_rn(x * cosine - y * sine);
  values[*high] = __float2bfloat16_rn(y * cosine + x * sine);
}

__device__ inline void store_pool1(const PoolTarget& pool, char* row, int64_t column,
                                   __nv_bfloat16 value) {
  if (pool.format == PoolFormat::kBF16) {
    reinterpret_cast<__nv_bfloat16*>(row)[column] = value;
  } else {
    reinterpret_cast<uint8_t*>(row)[column] =
        to_e4m3(__fdiv_rn(__bfloat162float(value), pool.scale));
  }
}

__global__ void __launch_bounds__(kThreads)
    rope_generic_kernel(const __grid_constant__ RopeProblem p) {
  const int64_t token = blockIdx.x;
  const int position = p.positions[token];
  const auto half = static_cast<int>(p.cos_sin == nullptr ? 0 : p.rope_dim / 2);
  int low, high;
  for (int64_t work = threadIdx.x; work < p.num_heads * half; work += kThreads) {
    const int64_t head = work / half;
    __nv_bfloat16* q = bf16(p.q_pe) + token * p.q_token_stride + head * p.q_head_stride;
    rotate_pair(p, position, static_cast<int>(work % half), q, &low, &high);
    if (token < p.num_copied) {
      __nv_bfloat16* copy =
          bf16(p.q_copy) + token * p.copy_token_stride + head * p.copy_head_stride;
      copy[low] = q[low];
      copy[high] = q[high];
    }
  }
  if (p.latent == nullptr) return;
  __nv_bfloat16* latent = bf16(p.latent) + token * p.latent_stride;
  char* target = pool_row(p, token, position);
  const int64_t plain_dim = p.pool.token_dim - 2 * half;
  for (int64_t work = threadIdx.x; work < half + plain_dim; work += kThreads) {
    if (work >= half) {
      if (target != nullptr) store_pool1(p.pool, target, work - half, latent[work - half]);
      continue;
    }
    __nv_bfloat16* k_pe = latent + plain_dim;
    rotate_pair(p, position, static_cast<int>(work), k_pe, &low, &high);
    if (target == nullptr) continue;
    store_pool1(p.pool, target, plain_dim + low, k_pe[low]);
    store_pool1(p.pool, target, plain_dim + high, k_pe[high]);
  }
}

}  // namespace

void launch_rope_vector(const RopeProblem& p, int heads_per_thread, cudaStream_t stream) {
  const int num_items = p.rope_dim == 0 ? 1 : static_cast<int>(p.rope_dim / 16);
  const int64_t heads_per_block = int64_t{kThreads / num_items} * heads_per_thread;
  const int64_t head_blocks =
      p.cos_sin == nullptr ? 0 : (p.num_heads + heads_per_block - 1) / heads_per_block;
  const dim3 grid(static_cast<unsigned int>(p.num_tokens),
                  static_cast<unsigned int>(head_blocks + (p.latent != nullptr ? 1 : 0)));
  if (grid.y == 0) return;
  if (heads_per_thread == 1) {
    rope_vector_kernel<1><<<grid, kThreads, 0, stream>>>(p, num_items);
  } else if (heads_per_thread == 2) {
    rope_vector_kernel<2><<<grid, kThreads, 0, stream>>>(p, num_items);
  } else {
    rope_vector_kernel<4><<<grid, kThreads, 0, stream>>>(p, num_items);
  }
}

void launch_rope_generic(const RopeProblem& p, cudaStream_t stream) {
  rope_generic_kernel<<<static_cast<unsigned int>(p.num_tokens), kThreads, 0, stream>>>(p);
}

}  // namespace deepflight::cuda_norm_rope
