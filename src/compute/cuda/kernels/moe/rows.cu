// Rows to the experts and back. Expanding copies bytes: one warp a row, 16 bytes a lane where the
// addresses allow. Batches that do not stay in the L2 go token by token instead, so that a row is
// read once and written topk times. The scales, which lie by block, are gathered in row order.
// Combining is one thread for eight columns of a token, which sums its rows in the order of k.
#include "compute/cuda/kernels/moe/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/warp.cuh"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_moe {
namespace {

using device::kWarpSize;

constexpr int kRowsPerBlock = 8;  // a warp each
constexpr int kThreads = kRowsPerBlock * kWarpSize;
constexpr int kLoadsInFlight = 8;

// Row copies as bytes or as 16-byte pieces; widths and strides are in units of T.
template <typename T>
struct Copy {
  const T* x;
  int64_t x_stride;
  T* out;
  int64_t out_stride;
  int64_t width;
  const int32_t* rows;
  const int32_t* positions;
  int64_t num_rows;
  int topk;
};

template <typename T>
__device__ inline void copy_row_part(const Copy<T>& copy, int64_t row) {
  const int lane = threadIdx.x % kWarpSize;
  const T* source = copy.x + copy.rows[row] / copy.topk * copy.x_stride;
  T* destination = copy.out + row * copy.out_stride;
  // blockIdx.y takes every gridDim.y-th piece of kLoadsInFlight warp accesses.
  const int64_t piece = int64_t{kLoadsInFlight} * kWarpSize;
  for (int64_t base = blockIdx.y * piece; base < copy.width; base += gridDim.y * piece) {
    T values[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const int64_t column = base + i * kWarpSize + lane;
      if (column < copy.width) values[i] = source[column];
    }
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const int64_t column = base + i * kWarpSize + lane;
      if (column < copy.width) destination[column] = values[i];
    }
  }
}

// Token's row to all its places.
template <typename T>
__device__ inline void copy_token_part(const Copy<T>& copy, int64_t token) {
  const int lane = threadIdx.x % kWarpSize;
  const T* source = copy.x + token * copy.x_stride;
  const int64_t piece = int64_t{kLoadsInFlight} * kWarpSize;
  for (int64_t base = blockIdx.y * piece; base < copy.width; base += gridDim.y * piece) {
    T values[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      const int64_t column = base + i * kWarpSize + lane;
      if (column < copy.width) values[i] = source[column];
    }
    for (int k = 0; k < copy.topk; ++k) {
      T* destination = copy.out + copy.positions[token * copy.topk + k] * copy.out_stride;
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) {
        const int64_t column = base + i * kWarpSize + lane;
        if (column < copy.width) destination[column] = values[i];
      }
    }
  }
}

// One warp's share: a row, or a token's rows.
template <typename T, bool kByToken>
__device__ inline void copy_part(const Copy<T>& copy) {
  const int64_t index = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarpSize;
  if constexpr (kByToken) {
    if (index < copy.num_rows / copy.topk) copy_token_part(copy, index);
  } else {
    if (index < copy.num_rows) copy_row_part(copy, index);
  }
}

template <typename T, bool kByToken>
__global__ void __launch_bounds__(kThreads) expand_kernel(Copy<T> copy) {
  copy_part<T, kByToken>(copy);
}

struct ScaleCopy {
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  int num_blocks;
};

// A block's scales are those of rows [first, first + kRowsPerBlock * (kByToken ? topk : 1)).
template <typename T, bool kByToken>
__global__ void __launch_bounds__(kThreads) expand_fp8_kernel(Copy<T> copy, ScaleCopy scales) {
  copy_part<T, kByToken>(copy);
  const int rows_per_block = kByToken ? kRowsPerBlock * copy.topk : kRowsPerBlock;
  const int step = static_cast<int>(gridDim.y) * kThreads;
#pragma unroll 2
  for (int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
       i < scales.num_blocks * rows_per_block; i += step) {
    const int64_t row = int64_t{blockIdx.x} * rows_per_block + i % rows_per_block;
    const int block = i / rows_per_block;
    if (row < copy.num_rows) {
      scales.out[block * scales.out_stride + row] =
          scales.x[block * scales.x_stride + copy.rows[row] / copy.topk];
    }
  }
}

bool aligned_16(const void* pointer, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride_bytes % 16 == 0;
}

// Splits the columns while the rows alone do not give every SM a few blocks.
dim3 expand_grid(int64_t num_rows, int64_t width_in_units) {
  const int64_t row_blocks = (num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const int64_t pieces =
      (width_in_units + kLoadsInFlight * kWarpSize - 1) / (kLoadsInFlight * kWarpSize);
  constexpr int64_t kEnoughBlocks = 512;
  int64_t splits = 1;
  while (splits < pieces && row_blocks * splits < kEnoughBlocks) ++splits;
  return dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(splits));
}

// Whether the copy can be done in 16-byte pieces. A row's last piece may then go past `width`, up
// to the stride, which is why the width must be whole pieces too.
template <typename T>
Copy<uint4> in_pieces(const Copy<T>& copy) {
  constexpr int64_t kPerPiece = 16 / sizeof(T);
  return {reinterpret_cast<const uint4*>(copy.x),
          copy.x_stride / kPerPiece,
          reinterpret_cast<uint4*>(copy.out),
          copy.out_stride / kPerPiece,
          copy.width / kPerPiece,
          copy.rows,
          copy.positions,
          copy.num_rows,
          copy.topk};
}

// Token by token where the tokens' rows would not stay in the L2 until their next reading.
template <typename T>
bool by_token(const Copy<T>& copy) {
  const int64_t x_bytes = copy.num_rows / copy.topk * copy.width * sizeof(T);
  return copy.positions != nullptr && x_bytes > DeviceInfo::current().l2_bytes / 4;
}

template <typename T>
bool fits_pieces(const Copy<T>& copy) {
  const int64_t size = sizeof(T);
  return aligned_16(copy.x, copy.x_stride * size) && aligned_16(copy.out, copy.out_stride * size) &&
         copy.width * size % 16 == 0;
}

// kColumns (8 or 1) columns of a token a thread.
template <int kColumns>
__global__ void __launch_bounds__(128) combine_kernel(CombineProblem p, unsigned blocks_per_token) {
  // A token's blocks are neighbours, so that its rows are read whole at about the same time.
  const int64_t token = blockIdx.x / blocks_per_token;
  const int64_t column =
      (int64_t{blockIdx.x % blocks_per_token} * blockDim.x + threadIdx.x) * kColumns;
  if (column >= p.width) return;
  const auto* expert_out = static_cast<const __nv_bfloat16*>(p.expert_out) + column;
  const int32_t* positions = p.positions + token * p.topk;
  const float* weights = p.weights + token * p.weights_stride;
  float total[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) total[i] = 0.0f;
  if (p.base != nullptr) {
    const auto* base = static_cast<const __nv_bfloat16*>(p.base) + token * p.base_stride + column;
    if constexpr (kColumns == 8) {
      device::load8(base, total);
    } else {
      total[0] = __bfloat162float(*base);
    }
  }
  for (int first = 0; first < p.topk; first += kLoadsInFlight) {
    float values[kLoadsInFlight][kColumns];
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      if (first + k >= p.topk) break;
      const __nv_bfloat16* row = expert_out + positions[first + k] * p.expert_stride;
      if constexpr (kColumns == 8) {
        device::load8(row, values[k]);
      } else {
        values[k][0] = __bfloat162float(*row);
      }
    }
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      if (first + k >= p.topk) break;
      const float weight = weights[first + k];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) total[i] += weight * values[k][i];
    }
  }
  auto* out = static_cast<__nv_bfloat16*>(p.out) + token * p.out_stride + column;
  if constexpr (kColumns == 8) {
    device::store8(out, total);
  } else {
    *out = __float2bfloat16_rn(total[0]);
  }
}

}  // namespace

namespace {

template <typename T>
void expand_with(const Copy<T>& copy, cudaStream_t stream) {
  if (by_token(copy)) {
    const dim3 grid = expand_grid(copy.num_rows / copy.topk, copy.width);
    expand_kernel<T, true><<<grid, kThreads, 0, stream>>>(copy);
  } else {
    const dim3 grid = expand_grid(copy.num_rows, copy.width);
    expand_kernel<T, false><<<grid, kThreads, 0, stream>>>(copy);
  }
}

template <typename T>
void expand_fp8_with(const Copy<T>& copy, const ScaleCopy& scales, cudaStream_t stream) {
  if (by_token(copy)) {
    const dim3 grid = expand_grid(copy.num_rows / copy.topk, copy.width);
    expand_fp8_kernel<T, true><<<grid, kThreads, 0, stream>>>(copy, scales);
  } else {
    const dim3 grid = expand_grid(copy.num_rows, copy.width);
    expand_fp8_kernel<T, false><<<grid, kThreads, 0, stream>>>(copy, scales);
  }
}

}  // namespace

void launch_expand(const ExpandProblem& p, cudaStream_t stream) {
  const Copy<uint16_t> copy = {static_cast<const uint16_t*>(p.x),
                               p.x_stride,
                               static_cast<uint16_t*>(p.out),
                               p.out_stride,
                               p.width,
                               p.rows,
                               p.positions,
                               p.num_rows,
                               p.topk};
  if (fits_pieces(copy)) {
    expand_with(in_pieces(copy), stream);
  } else {
    expand_with(copy, stream);
  }
}

void launch_expand_fp8(const ExpandFp8Problem& p, cudaStream_t stream) {
  const Copy<uint8_t> copy = {p.x.values,         p.x.value_stride, p.out.values,
                              p.out.value_stride, p.width,          p.rows,
                              p.positions,        p.num_rows,       p.topk};
  const ScaleCopy scales = {p.x.scales, p.x.scale_stride, p.out.scales, p.out.scale_stride,
                            static_cast<int>(Fp8Rows::num_scale_blocks(p.width))};
  if (fits_pieces(copy)) {
    expand_fp8_with(in_pieces(copy), scales, stream);
  } else {
    expand_fp8_with(copy, scales, stream);
  }
}

void launch_combine(const CombineProblem& p, cudaStream_t stream) {
  const bool vectors =
      aligned_16(p.expert_out, p.expert_stride * 2) && aligned_16(p.out, p.out_stride * 2) &&
      (p.base == nullptr || aligned_16(p.base, p.base_stride * 2)) && p.width % 8 == 0;
  constexpr int kBlock = 128;
  const int64_t threads = vectors ? p.width / 8 : p.width;
  const auto per_token = static_cast<unsigned>((threads + kBlock - 1) / kBlock);
  const auto grid = static_cast<unsigned>(p.num_tokens * per_token);
  if (vectors) {
    combine_kernel<8><<<grid, kBlock, 0, stream>>>(p, per_token);
  } else {
    combine_kernel<1><<<grid, kBlock, 0, stream>>>(p, per_token);
  }
}

}  // namespace deepflight::cuda_moe
