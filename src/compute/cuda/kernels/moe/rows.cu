// Rows to the experts and back. Expanding copies bytes: one warp a row, 16 bytes a lane where the
// addresses allow; the scales, which lie by block, are gathered eight rows at a time. Combining is
// one thread for eight columns of a token, which sums that token's rows in the order of k.
#include "compute/cuda/kernels/moe/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/warp.cuh"

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

template <typename T>
__global__ void __launch_bounds__(kThreads) expand_kernel(Copy<T> copy) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarpSize;
  if (row < copy.num_rows) copy_row_part(copy, row);
}

struct ScaleCopy {
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  int num_blocks;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) expand_fp8_kernel(Copy<T> copy, ScaleCopy scales) {
  const int64_t first_row = int64_t{blockIdx.x} * kRowsPerBlock;
  const int64_t row = first_row + threadIdx.x / kWarpSize;
  if (row < copy.num_rows) copy_row_part(copy, row);
  const int64_t scale_row = first_row + threadIdx.x % kRowsPerBlock;
  if (scale_row >= copy.num_rows) return;
  const int64_t token = copy.rows[scale_row] / copy.topk;
  const int step = static_cast<int>(gridDim.y) * kThreads / kRowsPerBlock;
  int block =
      (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) / kRowsPerBlock;
#pragma unroll 2
  for (; block < scales.num_blocks; block += step) {
    scales.out[block * scales.out_stride + scale_row] = scales.x[block * scales.x_stride + token];
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
          copy.num_rows,
          copy.topk};
}

template <typename T>
bool fits_pieces(const Copy<T>& copy) {
  const int64_t size = sizeof(T);
  return aligned_16(copy.x, copy.x_stride * size) && aligned_16(copy.out, copy.out_stride * size) &&
         copy.width * size % 16 == 0;
}

// kColumns (8 or 1) columns of a token a thread.
template <int kColumns>
__global__ void __launch_bounds__(128) combine_kernel(CombineProblem p) {
  const int64_t token = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kColumns;
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

void launch_expand(const ExpandProblem& p, cudaStream_t stream) {
  const Copy<uint16_t> copy = {static_cast<const uint16_t*>(p.x),
                               p.x_stride,
                               static_cast<uint16_t*>(p.out),
                               p.out_stride,
                               p.width,
                               p.rows,
                               p.num_rows,
                               p.topk};
  if (fits_pieces(copy)) {
    const auto pieces = in_pieces(copy);
    expand_kernel<<<expand_grid(p.num_rows, pieces.width), kThreads, 0, stream>>>(pieces);
  } else {
    expand_kernel<<<expand_grid(p.num_rows, p.width), kThreads, 0, stream>>>(copy);
  }
}

void launch_expand_fp8(const ExpandFp8Problem& p, cudaStream_t stream) {
  const Copy<uint8_t> copy = {p.x.values, p.x.value_stride, p.out.values, p.out.value_stride,
                              p.width,    p.rows,           p.num_rows,   p.topk};
  const ScaleCopy scales = {p.x.scales, p.x.scale_stride, p.out.scales, p.out.scale_stride,
                            static_cast<int>(Fp8Rows::num_scale_blocks(p.width))};
  if (fits_pieces(copy)) {
    const auto pieces = in_pieces(copy);
    expand_fp8_kernel<<<expand_grid(p.num_rows, pieces.width), kThreads, 0, stream>>>(pieces,
                                                                                      scales);
  } else {
    expand_fp8_kernel<<<expand_grid(p.num_rows, p.width), kThreads, 0, stream>>>(copy, scales);
  }
}

void launch_combine(const CombineProblem& p, cudaStream_t stream) {
  const bool vectors =
      aligned_16(p.expert_out, p.expert_stride * 2) && aligned_16(p.out, p.out_stride * 2) &&
      (p.base == nullptr || aligned_16(p.base, p.base_stride * 2)) && p.width % 8 == 0;
  constexpr int kBlock = 128;
  const int64_t threads = vectors ? p.width / 8 : p.width;
  const dim3 grid(static_cast<unsigned>(p.num_tokens),
                  static_cast<unsigned>((threads + kBlock - 1) / kBlock));
  if (vectors) {
    combine_kernel<8><<<grid, kBlock, 0, stream>>>(p);
  } else {
    combine_kernel<1><<<grid, kBlock, 0, stream>>>(p);
  }
}

}  // namespace deepflight::cuda_moe
