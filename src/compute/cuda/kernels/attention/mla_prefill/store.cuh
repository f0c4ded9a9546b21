// A tile's outputs to memory, and joined with those of earlier chunks.
#pragma once

#include "compute/cuda/kernels/attention/mla_prefill/layout.cuh"
#include "compute/cuda/kernels/attention/mla_prefill/softmax.cuh"
#include "compute/cuda/primitives/shared_memory.cuh"
#include "compute/cuda/primitives/wgmma.cuh"

namespace deepflight::cuda_mla_prefill {

using namespace device;  // NOLINT: headers of this kernel

// A sequence has keys in several chunks.
__device__ inline bool joins_chunks(const Tile& tile) {
  return tile.has_past || tile.diagonal + tile.num_rows > tile.num_keys;
}

// Where a sequence has keys in several chunks: joins the outputs of a row with those of earlier
// chunks, and leaves the next one what it needs. `sum`: of the row's weights; `factor`: what the
// outputs are to be multiplied by, 1 after it. A quad of lanes holds the row, `kSecond` of its two.
template <int kSecond>
__device__ inline void join_chunks(const WgmmaParams& p, const Tile& tile, int local, float offset,
                                   float sum, float (&o)[64], float& factor) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool valid = local < tile.num_rows;
  const int64_t token = tile.first_query + local;
  float* stored_lse = p.lse + tile.head * p.num_tokens + token;
  const float lse = offset * 0.693147181f + logf(sum);
  float joined = lse;
  if (tile.has_past && valid) {
    const float old_lse = *stored_lse;
    const float larger = fmaxf(lse, old_lse);
    joined = larger + logf(expf(lse - larger) + expf(old_lse - larger));
    factor *= expf(lse - joined);
    const float before = expf(old_lse - joined);
    const __nv_bfloat16* out = p.out + token * p.out_stride + tile.head * kValueDim + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 old = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(out + 8 * i));
      float* values = o + 4 * i + 2 * kSecond;
      values[0] = values[0] * factor + before * old.x;
      values[1] = values[1] * factor + before * old.y;
    }
    factor = 1.0f;
  }
  __syncwarp();  // all four have read the old ones
  if (valid && lane % 4 == 0 && tile.diagonal + local >= tile.num_keys) *stored_lse = joined;
}

// The normalised outputs of a warp's 16 rows, of which a thread holds parts of `row` and the eighth
// from it. By way of 2 KB of shared memory, half of the columns at a time, so that a warp stores
// whole lines.
template <bool kJoins>
__device__ inline void store_rows(const WgmmaParams& p, uint32_t staging, const Tile& tile, int row,
                                  const RowState& state, float (&o)[64]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum[2], factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = warp_sum<4>(state.sum[r]);
    factor[r] = sum[r] > 0.0f ? __fdividef(1.0f, sum[r]) : 0.0f;
  }
  if (kJoins && joins_chunks(tile)) {
    join_chunks<0>(p, tile, row, state.offset[0], sum[0], o, factor[0]);
    join_chunks<1>(p, tile, row + 8, state.offset[1], sum[1], o, factor[1]);
  }
  const int first = row - lane / 4 + lane / 8;  // that this lane stores a chunk of, and 4, 8, 12 on
  __nv_bfloat16* out =
      p.out + (tile.first_query + first) * p.out_stride + tile.head * kValueDim + lane % 8 * 8;
  const int num_rows = tile.num_rows - first;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {  // 16 columns
      const float* values = o + half * 32 + 4 * i;
      store_matrices(staging + chunk_of_128(lane % 16, i + lane / 16),
                     pack_bf16(values[0] * factor[0], values[1] * factor[0]),
                     pack_bf16(values[2] * factor[1], values[3] * factor[1]),
                     pack_bf16(values[4] * factor[0], values[5] * factor[0]),
                     pack_bf16(values[6] * factor[1], values[7] * factor[1]));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      const uint4 bits = load_shared_vector(staging + chunk_of_128(i + lane / 8, lane % 8));
      if (i < num_rows) *reinterpret_cast<uint4*>(out + i * p.out_stride + half * 64) = bits;
    }
    __syncwarp();
  }
}

}  // namespace deepflight::cuda_mla_prefill
