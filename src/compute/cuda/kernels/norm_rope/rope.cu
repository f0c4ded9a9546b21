// Rotary embedding in place and the write of latent rows to their pages. A block is one token and
// a run of heads; the last block of a token in y takes its latent row.
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/primitives/kv_token.cuh"
#include "compute/cuda/primitives/pdl.cuh"

namespace deepflight::cuda_norm_rope {
namespace {

using namespace deepflight::device;

constexpr int kThreads = 128;
constexpr int kPageTokens = 64;

__device__ inline __nv_bfloat16* bf16(uint16_t* bits) {
  return reinterpret_cast<__nv_bfloat16*>(bits);
}

// Element 0 of the token's row in its page; null for padding.
__device__ inline char* pool_row(const RopeProblem& p, int64_t token, int position) {
  const PoolTarget& pool = p.pool;
  const int slot = pool.token_slots[token];
  if (slot < 0) return nullptr;
  const int64_t page = pool.page_table[slot * pool.page_table_stride + position / kPageTokens];
  const int64_t row = pool.layer * kPageTokens + position % kPageTokens;
  const int64_t latent_dim = pool.token_dim - pool.rope_dim;
  return static_cast<char*>(pool.base) + page * pool.page_stride_bytes +
         row * page_token_bytes(pool.format, latent_dim, pool.rope_dim);
}

// Of a token of kF8Group, its rope, so that column `token_dim - rope_dim` is the first of it.
__device__ inline __nv_bfloat16* group_rope(const PoolTarget& pool, char* row) {
  const int64_t latent_dim = pool.token_dim - pool.rope_dim;
  return reinterpret_cast<__nv_bfloat16*>(row + rope_offset_bytes(latent_dim)) - latent_dim;
}
__device__ inline bool is_grouped(const PoolTarget& pool, int64_t column) {
  return pool.format == PageFormat::kF8Group && column < pool.token_dim - pool.rope_dim;
}

// What the latent row holds, in any format; of kF8Group rope alone.
__device__ inline void store_pool8(const PoolTarget& pool, char* row, int64_t column,
                                   const Bf16x8& values) {
  if (pool.format == PageFormat::kBF16) {
    *reinterpret_cast<Bf16x8*>(row + column * 2) = values;
    return;
  }
  if (pool.format == PageFormat::kF8Group) {
    *reinterpret_cast<Bf16x8*>(group_rope(pool, row) + column) = values;
    return;
  }
  float scaled[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(values.pairs[i]);
    scaled[2 * i] = __fdiv_rn(pair.x, pool.scale);
    scaled[2 * i + 1] = __fdiv_rn(pair.y, pool.scale);
  }
  uint2 packed;
  packed.x = to_e4m3x4(scaled[0], scaled[1], scaled[2], scaled[3]);
  packed.y = to_e4m3x4(scaled[4], scaled[5], scaled[6], scaled[7]);
  *reinterpret_cast<uint2*>(row + column) = packed;
}

__device__ inline float largest_of(const Bf16x8& values) {
  float largest = 0.0f;
#pragma unroll
  for (const __nv_bfloat162& bits : values.pairs) {
    const float2 pair = __bfloat1622float2(bits);
    largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
  }
  return largest;
}

// Latents of kF8Group with their scales; 16 neighbouring threads have a group.
__device__ inline void store_groups(const PoolTarget& pool, char* row,
                                    const __nv_bfloat16* latent) {
  constexpr int kUnits = kPageGroup / 8;
  const auto latent_dim = static_cast<int>(pool.token_dim - pool.rope_dim);
  const int num_units = latent_dim / 8, end = (num_units + 31) / 32 * 32;  // of whole warps
  auto* scales = reinterpret_cast<float*>(row + scales_offset_bytes(latent_dim));
  for (int unit = static_cast<int>(threadIdx.x); unit < end; unit += kThreads) {
    const Bf16x8 values =
        unit < num_units ? *reinterpret_cast<const Bf16x8*>(latent + unit * 8) : Bf16x8{};
    float largest = largest_of(values);
#pragma unroll
    for (int i = 1; i < kUnits; i *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, i));
    }
    if (unit >= num_units) continue;
    const float scale = kv_group_scale(largest);
    float scaled[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __bfloat1622float2(values.pairs[i]);
      scaled[2 * i] = __fdiv_rn(pair.x, scale);
      scaled[2 * i + 1] = __fdiv_rn(pair.y, scale);
    }
    *reinterpret_cast<uint2*>(row + unit * 8) =
        make_uint2(to_e4m3x4(scaled[0], scaled[1], scaled[2], scaled[3]),
                   to_e4m3x4(scaled[4], scaled[5], scaled[6], scaled[7]));
    if (unit % kUnits == 0) scales[unit / kUnits] = scale;
  }
}

// The same, a thread a group; gaps before the scales and at the end become zeros.
__device__ inline void store_groups_generic(const PoolTarget& pool, char* row,
                                            const __nv_bfloat16* latent) {
  const auto latent_dim = static_cast<int>(pool.token_dim - pool.rope_dim);
  const auto scales_at = static_cast<int>(scales_offset_bytes(latent_dim));
  auto* bytes = reinterpret_cast<uint8_t*>(row);
  for (int first = static_cast<int>(threadIdx.x) * kPageGroup; first < latent_dim;
       first += kThreads * kPageGroup) {
    const int last = min(first + kPageGroup, latent_dim);
    float largest = 0.0f;
    for (int i = first; i < last; ++i) {
      largest = fmaxf(largest, fabsf(__bfloat162float(latent[i])));
    }
    const float scale = kv_group_scale(largest);
    for (int i = first; i < last; ++i) {
      bytes[i] = to_e4m3(__fdiv_rn(__bfloat162float(latent[i]), scale));
    }
    reinterpret_cast<float*>(row + scales_at)[first / kPageGroup] = scale;
  }
  if (threadIdx.x == 0) {
    for (int i = latent_dim; i < scales_at; ++i) bytes[i] = 0;
    const int64_t end = rope_offset_bytes(latent_dim) + 2 * pool.rope_dim;
    const int64_t token_bytes = page_token_bytes(pool.format, latent_dim, pool.rope_dim);
    for (int64_t i = end; i < token_bytes; ++i) bytes[i] = 0;
  }
}

__device__ inline Bf16x8 load_bf16x8(const __nv_bfloat16* source) {
  return *reinterpret_cast<const Bf16x8*>(source);
}
__device__ inline void store_bf16x8(__nv_bfloat16* target, const Bf16x8& values) {
  *reinterpret_cast<Bf16x8*>(target) = values;
}

// Halves of a rotation, rounded in one way: left to the compiler, which product the sum takes in
// could differ between kernels of this file, and with it a token's bits between sizes of a step.
__device__ inline float turn_first(float a, float b, float cosine, float sine) {
  return __fmaf_rn(a, cosine, -__fmul_rn(b, sine));
}
__device__ inline float turn_second(float a, float b, float cosine, float sine) {
  return __fmaf_rn(b, cosine, __fmul_rn(a, sine));
}

// What a thread turns of a head, by 16-byte pieces so that neighbours touch neighbouring ones: four
// pairs in one piece, or, where the halves are the pairs, eight in two.
template <bool kInterleaved>
struct Item {
  static constexpr int kPieces = kInterleaved ? 1 : 2;
  static constexpr int kPairs = 4 * kPieces;

  __device__ Item(const RopeProblem& p, int item_idx)
      : idx(item_idx), piece_distance(static_cast<int>(p.rope_dim / 2)) {}
  __device__ int column(int piece) const { return idx * 8 + piece * piece_distance; }
  __device__ void load_angles(const RopeProblem& p, int position) {
    const float* row = p.cos_sin + position * p.rope_dim + idx * kPairs;
#pragma unroll
    for (int i = 0; i < kPairs; i += 4) {
      const float4 c = __ldg(reinterpret_cast<const float4*>(row + i));
      const float4 s = __ldg(reinterpret_cast<const float4*>(row + p.rope_dim / 2 + i));
      cosines[i] = c.x, cosines[i + 1] = c.y, cosines[i + 2] = c.z, cosines[i + 3] = c.w;
      sines[i] = s.x, sines[i + 1] = s.y, sines[i + 2] = s.z, sines[i + 3] = s.w;
    }
  }
  __device__ void rotate(Bf16x8 (&pieces)[kPieces]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kInterleaved) {
        const float2 v = __bfloat1622float2(pieces[0].pairs[i]);
        pieces[0].pairs[i] = __floats2bfloat162_rn(turn_first(v.x, v.y, cosines[i], sines[i]),
                                                   turn_second(v.x, v.y, cosines[i], sines[i]));
      } else {
        const float2 x = __bfloat1622float2(pieces[0].pairs[i]);
        const float2 y = __bfloat1622float2(pieces[1].pairs[i]);
        const float c = cosines[2 * i], s = sines[2 * i];
        const float d = cosines[2 * i + 1], t = sines[2 * i + 1];
        pieces[0].pairs[i] =
            __floats2bfloat162_rn(turn_first(x.x, y.x, c, s), turn_first(x.y, y.y, d, t));
        pieces[1].pairs[i] =
            __floats2bfloat162_rn(turn_second(x.x, y.x, c, s), turn_second(x.y, y.y, d, t));
      }
    }
  }

  int idx;
  int piece_distance;
  float cosines[kPairs];
  float sines[kPairs];
};

template <bool kInterleaved>
__device__ inline void latent_vector(const RopeProblem& p, int64_t token, int num_items) {
  constexpr int kPieces = Item<kInterleaved>::kPieces;
  const int position = p.positions[token];
  const auto plain_dim =
      static_cast<int>(p.pool.token_dim - (p.cos_sin == nullptr ? 0 : p.rope_dim));
  if (p.cos_sin == nullptr) num_items = 0;
  __nv_bfloat16* latent = bf16(p.latent) + token * p.latent_stride;
  char* target = pool_row(p, token, position);
  for (int work = static_cast<int>(threadIdx.x); work < num_items + plain_dim / 8;
       work += kThreads) {
    if (work < num_items) {
      Item<kInterleaved> item(p, work);
      item.load_angles(p, position);
      Bf16x8 pieces[kPieces];
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        pieces[i] = load_bf16x8(latent + plain_dim + item.column(i));
      }
      item.rotate(pieces);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        store_bf16x8(latent + plain_dim + item.column(i), pieces[i]);
        if (target != nullptr) {
          store_pool8(p.pool, target, plain_dim + item.column(i), pieces[i]);
        }
      }
    } else if (target != nullptr) {
      const int column = (work - num_items) * 8;
      if (is_grouped(p.pool, column)) continue;
      store_pool8(p.pool, target, column, load_bf16x8(latent + column));
    }
  }
  if (target != nullptr && p.pool.format == PageFormat::kF8Group) {
    store_groups(p.pool, target, latent);
  }
}

template <bool kInterleaved, int kHeads>
__global__ void __launch_bounds__(kThreads)
    rope_vector_kernel(const __grid_constant__ RopeProblem p, int num_items) {
  constexpr int kPieces = Item<kInterleaved>::kPieces;
  allow_next_kernel();
  wait_for_previous_kernel();
  const int64_t token = blockIdx.x;
  if (p.latent != nullptr && blockIdx.y == gridDim.y - 1) {
    latent_vector<kInterleaved>(p, token, num_items);
    return;
  }
  const int heads_per_pass = kThreads / num_items;
  const int first = static_cast<int>(blockIdx.y) * heads_per_pass * kHeads +
                    static_cast<int>(threadIdx.x) / num_items;
  if (static_cast<int>(threadIdx.x) >= heads_per_pass * num_items) return;
  Item<kInterleaved> item(p, static_cast<int>(threadIdx.x) % num_items);
  __nv_bfloat16* q = bf16(p.q_pe) + token * p.q_token_stride;
  Bf16x8 pieces[kHeads][kPieces];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int head = first + h * heads_per_pass;
    if (head >= p.num_heads) continue;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      pieces[h][i] = load_bf16x8(q + head * p.q_head_stride + item.column(i));
    }
  }
  item.load_angles(p, p.positions[token]);
  __nv_bfloat16* copy =
      token < p.num_copied ? bf16(p.q_copy) + token * p.copy_token_stride : nullptr;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int head = first + h * heads_per_pass;
    if (head >= p.num_heads) continue;
    item.rotate(pieces[h]);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      store_bf16x8(q + head * p.q_head_stride + item.column(i), pieces[h][i]);
      if (copy != nullptr) {
        store_bf16x8(copy + head * p.copy_head_stride + item.column(i), pieces[h][i]);
      }
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
  if (pool.format == PageFormat::kBF16) {
    reinterpret_cast<__nv_bfloat16*>(row)[column] = value;
  } else if (pool.format == PageFormat::kF8Group) {
    if (!is_grouped(pool, column)) group_rope(pool, row)[column] = value;
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
  if (target != nullptr && p.pool.format == PageFormat::kF8Group) {
    store_groups_generic(p.pool, target, latent);
  }
}

}  // namespace

void launch_rope_vector(const RopeProblem& p, int heads_per_thread, cudaStream_t stream) {
  const auto num_items = static_cast<int>(p.rope_dim / (p.interleaved ? 8 : 16));
  int64_t head_blocks = 0;
  if (p.cos_sin != nullptr && p.num_heads > 0) {
    const int64_t heads_per_block = int64_t{kThreads / num_items} * heads_per_thread;
    head_blocks = (p.num_heads + heads_per_block - 1) / heads_per_block;
  }
  const dim3 grid(static_cast<unsigned int>(p.num_tokens),
                  static_cast<unsigned int>(head_blocks + (p.latent != nullptr ? 1 : 0)));
  void (*kernel)(RopeProblem, int);
  if (heads_per_thread == 1) {
    kernel = p.interleaved ? &rope_vector_kernel<true, 1> : &rope_vector_kernel<false, 1>;
  } else if (heads_per_thread == 2) {
    kernel = p.interleaved ? &rope_vector_kernel<true, 2> : &rope_vector_kernel<false, 2>;
  } else {
    kernel = p.interleaved ? &rope_vector_kernel<true, 4> : &rope_vector_kernel<false, 4>;
  }
  launch_early(kernel, grid, kThreads, stream, p, num_items);
}

void launch_rope_generic(const RopeProblem& p, cudaStream_t stream) {
  rope_generic_kernel<<<static_cast<unsigned int>(p.num_tokens), kThreads, 0, stream>>>(p);
}

}  // namespace deepflight::cuda_norm_rope
