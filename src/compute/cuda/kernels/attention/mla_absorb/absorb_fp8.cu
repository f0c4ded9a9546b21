// q_nope W_UK and q_pe to rows of e4m3 with a scale each. A block has a head, whose W_UK lies in
// shared memory, and walks tiles of 64 tokens; four warpgroups multiply, 128 columns each, by BF16
// WGMMA. A row's largest value is looked for over all of them, before any is rounded.
#include <cuda.h>
#include <cuda_bf16.h>

#include <algorithm>

#include "compute/cuda/kernels/attention/mla_absorb/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/mbarrier.cuh"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/primitives/tma.cuh"
#include "compute/cuda/primitives/warp.cuh"
#include "compute/cuda/primitives/wgmma.cuh"
#include "compute/cuda/primitives/wgmma_16bit.cuh"
#include "compute/cuda/runtime/tensor_map.h"

namespace deepflight::cuda_mla_absorb {
namespace {

using namespace deepflight::device;

constexpr int kGroups = 4;  // warpgroups
constexpr int kThreads = kGroups * 128;
constexpr int kTileRows = 64;
constexpr int kBoxColumns = 64;                           // of BF16, 128 bytes
constexpr int kBoxRows = 256;                             // of W_UK, the most that a copy takes
constexpr int kHalfBytes = kLatentDim * kBoxColumns * 2;  // of W_UK: 64 of k
constexpr int kXBoxBytes = kTileRows * kBoxColumns * 2;
constexpr int kStages = 2;  // of x
// Shared memory, from an address that is aligned to 1024.
constexpr int kX = 2 * kHalfBytes;
constexpr int kLargest = kX + kStages * 2 * kXBoxBytes;
constexpr int kLargestBytes = (kGroups + 1) * kTileRows * 4;
constexpr int kBarriers = kLargest + kStages * kLargestBytes;
constexpr int kSharedBytes = kBarriers + (1 + kStages) * 8 + 1024;

// Barriers: W_UK has come, and a stage of x.
__device__ inline uint32_t w_full(uint32_t shared) { return shared + kBarriers; }
__device__ inline uint32_t x_full(uint32_t shared, int stage) {
  return shared + kBarriers + (1 + stage) * 8;
}

struct Params {
  CUtensorMap x;     // [token][head][128], boxes of 64 tokens and 64 columns
  CUtensorMap w_uk;  // [head][512][128], boxes of 256 rows and 64 columns
  const __nv_bfloat16* rope;
  int64_t q_stride, q_head_stride;
  uint8_t* out;
  float* scales;
  int num_tokens, num_heads;
};

// The power of two by which `largest` comes to between 224 and 448, and its inverse. 2^-100 in
// place of less; no infinity.
struct Power {
  __device__ explicit Power(float largest) {
    constexpr uint32_t kPastThreeQuarters = 0x1fffff;  // an exponent more beyond 1.75
    const uint32_t bits = __float_as_uint(fminf(fmaxf(largest, 0x1p-100f), 0x1.fp126f));
    const uint32_t exponent = (bits + kPastThreeQuarters) >> 23;
    value = __uint_as_float((262 - exponent) << 23);
    inverse = __uint_as_float((exponent - 8) << 23);
  }
  float value, inverse;
};

// 64 columns of row r, 0 or 1, of a thread's two, times `by`, to e4m3: of the four threads that
// share them, thread t gets columns 16 t to + 15.
__device__ inline uint4 round_row(const float (&sums)[32], int r, float by) {
  uint32_t words[4];  // columns 16 i + 2 t, the next, and those 8 on
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* at = sums + i * 8 + 2 * r;
    words[i] = to_e4m3x4(at[0] * by, at[1] * by, at[4] * by, at[5] * by);
  }
  const uint4 row = transpose_quad(words);
  return {__byte_perm(row.x, row.y, 0x5410), __byte_perm(row.z, row.w, 0x5410),
          __byte_perm(row.x, row.y, 0x7632), __byte_perm(row.z, row.w, 0x7632)};
}

__device__ inline void load_x(const Params& p, uint32_t shared, int tile, int stage) {
  const uint32_t full = x_full(shared, stage);
  barrier_arrive_expect(full, 2 * kXBoxBytes);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    load_box(shared + kX + (2 * stage + i) * kXBoxBytes, &p.x, full, i * kBoxColumns,
             static_cast<int>(blockIdx.x), tile * kTileRows);
  }
}

// A tile of products: columns 128 group + 64 b, rows as accumulators have them.
using Sums = float[2][32];
__device__ inline void multiply(Sums& sums, uint32_t shared, int group, int stage) {
  const Matrices<16, 1024> x(shared + kX + stage * 2 * kXBoxBytes);
  const Matrices<16, 1024> w(shared + group * 128 * kBoxColumns * 2);
  pin(sums[0]);
  pin(sums[1]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kNopeDim / 16; ++step) {
    const int half = step / 4, at = step % 4 * 32;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      wgmma_n64<false>(sums[b], x.at(half * kXBoxBytes + at),
                       w.at(half * kHalfBytes + b * 64 * kBoxColumns * 2 + at), step > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(sums[0]);
  pin(sums[1]);
}

__global__ void __launch_bounds__(kThreads, 1) absorb_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint8_t memory[];
  const uint32_t shared = (shared_address(memory) + 1023) / 1024 * 1024;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int group = static_cast<int>(uniform(thread / 128));
  const auto head = static_cast<int>(blockIdx.x);
  const int num_tiles = (p.num_tokens + kTileRows - 1) / kTileRows;
  const auto step = static_cast<int>(gridDim.y);
  if (thread == 0) {
    barrier_init(w_full(shared), 1);
    for (int i = 0; i < kStages; ++i) barrier_init(x_full(shared, i), 1);
    barrier_init_fence();
    barrier_arrive_expect(w_full(shared), 2 * kHalfBytes);
    for (int i = 0; i < 2 * kLatentDim / kBoxRows; ++i) {
      const int half = i / 2, first = i % 2 * kBoxRows;
      load_box(shared + half * kHalfBytes + first * kBoxColumns * 2, &p.w_uk, w_full(shared),
               half * kBoxColumns, first, head);
    }
  }
  __syncthreads();
  allow_next_kernel();
  wait_for_previous_kernel();
  const auto first = static_cast<int>(blockIdx.y);
  if (thread == 0) {
    for (int i = 0; i < kStages && first + i * step < num_tiles; ++i) {
      load_x(p, shared, first + i * step, i);
    }
  }
  barrier_wait(w_full(shared), 0);
  // Eight threads have a row's rope; four, rows `row` and `row + 8` of a warp's block of 16.
  const int rope_row = thread / 8, part = thread % 8;
  const int row = thread / 32 % 4 * 16 + lane / 4;
  int stage = 0;
  uint32_t parity = 0;
#pragma unroll 1
  for (int tile = first; tile < num_tiles; tile += step) {
    const int begin = tile * kTileRows;
    float rope[8] = {};
    if (begin + rope_row < p.num_tokens) {
      load8(p.rope + (begin + rope_row) * p.q_stride + head * p.q_head_stride + part * 8, rope);
    }
    barrier_wait(x_full(shared, stage), parity);
    Sums sums;
    multiply(sums, shared, group, stage);

    // The largest of rows' shares: [group, or rope][row].
    const uint32_t largest = shared + kLargest + stage * kLargestBytes;
    float top[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      top[i / 2 % 2] = fmaxf(top[i / 2 % 2], fabsf(sums[i / 32][i % 32]));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = warp_max<4>(top[r]);
      if (lane % 4 == 0) store_shared(largest + (group * kTileRows + row + 8 * r) * 4, top[r]);
    }
    float rope_top = 0.0f;
#pragma unroll
    for (const float value : rope) rope_top = fmaxf(rope_top, fabsf(value));
    rope_top = warp_max<8>(rope_top);
    if (part == 0) store_shared(largest + (kGroups * kTileRows + rope_row) * 4, rope_top);
    __syncthreads();  // the rows' largest are there, and x is read
    if (thread == 0 && tile + kStages * step < num_tiles) {
      load_x(p, shared, tile + kStages * step, stage);
    }
    const auto power_of = [&](int r) {
      float all = 0.0f;
#pragma unroll
      for (int i = 0; i <= kGroups; ++i) {
        all = fmaxf(all, load_shared(largest + (i * kTileRows + r) * 4));
      }
      return Power(all);
    };
    const auto out_of = [&](int r) {
      return p.out + ((begin + r) * int64_t{p.num_heads} + head) * kQueryDim;
    };
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float by = power_of(row + 8 * r).value;
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const uint4 codes = round_row(sums[b], r, by);
        if (begin + row + 8 * r >= p.num_tokens) continue;
        *reinterpret_cast<uint4*>(out_of(row + 8 * r) + group * 128 + b * 64 + lane % 4 * 16) =
            codes;
      }
    }
    if (begin + rope_row < p.num_tokens) {
      const Power power = power_of(rope_row);
#pragma unroll
      for (float& value : rope) value *= power.value;
      *reinterpret_cast<uint2*>(out_of(rope_row) + kLatentDim + part * 8) =
          make_uint2(to_e4m3x4(rope[0], rope[1], rope[2], rope[3]),
                     to_e4m3x4(rope[4], rope[5], rope[6], rope[7]));
      if (part == 0) p.scales[(begin + rope_row) * p.num_heads + head] = power.inverse;
    }
    stage ^= 1;
    if (stage == 0) parity ^= 1;
  }
}

// BF16, three dimensions, by boxes 128 bytes wide, swizzled.
bool encode(CUtensorMap& map, const void* base, const cuuint64_t (&dims)[3],
            const cuuint64_t (&strides)[2], const cuuint32_t (&box)[3]) {
  return encode_tensor_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, base, dims, strides, box,
                           CU_TENSOR_MAP_SWIZZLE_128B) == CUDA_SUCCESS;
}

}  // namespace

cudaError_t launch_absorb_fp8(const MlaAbsorbProblem& problem, int num_sms, cudaStream_t stream) {
  static const cudaError_t attribute = cudaFuncSetAttribute(
      absorb_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (attribute != cudaSuccess) return attribute;
  const auto heads = static_cast<cuuint64_t>(problem.num_heads);
  const auto tokens = static_cast<cuuint64_t>(problem.num_tokens);
  Params p;
  if (!encode(p.x, problem.q, {kNopeDim, heads, tokens},
              {static_cast<cuuint64_t>(problem.q_head_stride * 2),
               static_cast<cuuint64_t>(problem.q_stride * 2)},
              {kBoxColumns, 1, kTileRows}) ||
      !encode(p.w_uk, problem.w_uk, {kNopeDim, kLatentDim, heads},
              {kNopeDim * 2, kLatentDim * kNopeDim * 2}, {kBoxColumns, kBoxRows, 1})) {
    return cudaErrorInvalidValue;
  }
  p.rope = static_cast<const __nv_bfloat16*>(problem.q) + kNopeDim;
  p.q_stride = problem.q_stride, p.q_head_stride = problem.q_head_stride;
  p.out = problem.out, p.scales = problem.scales;
  p.num_tokens = static_cast<int>(problem.num_tokens);
  p.num_heads = static_cast<int>(problem.num_heads);
  const int num_tiles = (p.num_tokens + kTileRows - 1) / kTileRows;
  const dim3 grid(static_cast<unsigned>(p.num_heads),
                  static_cast<unsigned>(std::clamp(num_sms / p.num_heads, 1, num_tiles)));
  launch_early_shared(absorb_kernel, grid, dim3(kThreads), kSharedBytes, stream, p);
  return cudaGetLastError();
}

}  // namespace deepflight::cuda_mla_absorb
