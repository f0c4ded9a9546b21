// The BF16 product on tensor cores, dense or grouped: a block takes 64 rows of one group and 128
// columns, in slabs of 64 of k through a ring of three shared-memory stages. Eight warps, each
// 32 x 32, by mma.sync. With a few rows a group (decode) it streams weights; two or three blocks an
// SM keep enough of them on their way. An element's sum runs over k from the first slab to the
// last, in one block: the same bits with any rows beside it.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/gemm_bf16/kernels.h"
#include "compute/cuda/primitives/mma.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::gemm_bf16 {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 64;      // of x a block
constexpr int kColumns = 128;  // rows of w
constexpr int kSlab = 64;      // of k
constexpr int kStages = 3;
constexpr int kChunks = kSlab / 8;  // 16-byte pieces of a row of a slab
constexpr int kStageBytes = (kRows + kColumns) * kSlab * 2;
constexpr int kSharedBytes = kStages * kStageBytes;

struct Groups {
  const int32_t* offsets = nullptr;  // null: dense, a batch takes the place of a group
  int num = 0;
};

struct Tile {
  int group;
  int begin;  // row of x
  int end;    // of the group's rows
};

// The rows of tile `tile`, tiles counted group by group: every warp looks for itself, 32 groups at
// a time. An empty range past the last tile.
__device__ Tile find_tile(const Groups& groups, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
  for (int base = 0; base < groups.num; base += device::kWarpSize) {
    const int group = base + lane;
    int begin = 0, end = 0;
    if (group < groups.num) begin = groups.offsets[group], end = groups.offsets[group + 1];
    const int count = (end - begin + kRows - 1) / kRows;
    int sum = count;
#pragma unroll
    for (int offset = 1; offset < device::kWarpSize; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    const unsigned found = __ballot_sync(0xffffffffu, tile < sum);
    if (found != 0) {
      const int source = __ffs(static_cast<int>(found)) - 1;
      const int first = __shfl_sync(0xffffffffu, sum - count, source);
      const int tile_begin = begin + (tile - first) * kRows;
      return {base + source, __shfl_sync(0xffffffffu, tile_begin, source),
              __shfl_sync(0xffffffffu, end, source)};
    }
    tile -= __shfl_sync(0xffffffffu, sum, device::kWarpSize - 1);
  }
  return {0, 0, 0};
}

// Where 16-byte piece `chunk` of a row lies: the pieces of a row change places with the row, so
// that eight rows' pieces of one column lie in different banks.
__device__ inline int piece(int row, int chunk) {
  return (row * kChunks + (chunk ^ (row % kChunks))) * 16;
}

// num_rows rows of a slab; rows from num_valid on and k beyond the matrix become zeros.
template <int kNumRows>
__device__ inline void load_slab(uint32_t shared, const __nv_bfloat16* source, int64_t stride,
                                 int num_valid, int k, int size_k) {
#pragma unroll
  for (int i = 0; i < kNumRows * kChunks / kThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = index / kChunks, chunk = index % kChunks;
    const bool valid = row < num_valid && k + chunk * 8 < size_k;
    const __nv_bfloat16* from = valid ? source + row * stride + k + chunk * 8 : source;
    device::cp_async_16(shared + piece(row, chunk), from, valid);
  }
}

struct Sums {
  float values[2][4][4];  // 16-row blocks, 8-column blocks, fragments
};

__device__ inline void multiply_slab(uint32_t x, uint32_t w, int warp_row, int warp_column,
                                     Sums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
#pragma unroll
  for (int k = 0; k < kChunks; k += 2) {
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      device::ldmatrix_x4(a[i], x + piece(warp_row + 16 * i + lane % 16, k + lane / 16));
      const int row = warp_column + 16 * i + lane / 16 * 8 + lane % 8;
      device::ldmatrix_x4(b[i], w + piece(row, k + lane / 8 % 2));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        device::mma_bf16_16816(sums.values[i][j], a[i],
                               {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
      }
    }
  }
}

__device__ inline void store_pair(__nv_bfloat16* out, float a, float b) {
  *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(a, b);
}
__device__ inline void store_pair(float* out, float a, float b) {
  *reinterpret_cast<float2*>(out) = make_float2(a, b);
}

// `out`: of the group; `warp_column` counts from the matrix's first.
template <typename Out>
__device__ inline void store(const Sums& sums, const Bf16GemmProblem& p, const Tile& tile, Out* out,
                             int warp_row, int warp_column) {
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = tile.begin + warp_row + 16 * i + 8 * half + lane / 4;
      if (row >= tile.end) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = warp_column + 8 * j + lane % 4 * 2;
        if (column >= p.n) continue;  // n is even
        store_pair(out + row * p.out_stride + column, sums.values[i][j][2 * half],
                   sums.values[i][j][2 * half + 1]);
      }
    }
  }
}

template <typename Out, bool kGrouped>
__global__ void __launch_bounds__(kThreads, 2) mma_kernel(const Bf16GemmProblem p, Groups groups) {
  extern __shared__ __align__(128) uint8_t memory[];
  device::allow_next_kernel();
  device::wait_for_previous_kernel();
  Tile tile = {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y) * kRows,
               static_cast<int>(p.m)};
  if constexpr (kGrouped) tile = find_tile(groups, static_cast<int>(blockIdx.y));
  if (tile.begin >= tile.end) return;
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  const int num_rows = min(kRows, tile.end - tile.begin);
  const int num_columns = min(kColumns, static_cast<int>(p.n) - first_column);
  const int size_k = static_cast<int>(p.k);
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + tile.group * p.x_batch_stride +
                  tile.begin * p.x_stride;
  const auto* w = static_cast<const __nv_bfloat16*>(p.w) + tile.group * p.w_batch_stride +
                  first_column * p.w_stride;
  const uint32_t shared = device::shared_address(memory);
  const int num_slabs = (size_k + kSlab - 1) / kSlab;
  const auto load = [&](int slab) {
    if (slab < num_slabs) {
      const uint32_t stage = shared + slab % kStages * kStageBytes;
      load_slab<kRows>(stage, x, p.x_stride, num_rows, slab * kSlab, size_k);
      load_slab<kColumns>(stage + kRows * kSlab * 2, w, p.w_stride, num_columns, slab * kSlab,
                          size_k);
    }
    device::cp_async_commit();
  };
  const int warp = static_cast<int>(threadIdx.x) / device::kWarpSize;
  const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
  Sums sums = {};
#pragma unroll
  for (int slab = 0; slab < kStages - 1; ++slab) load(slab);
  for (int slab = 0; slab < num_slabs; ++slab) {
    device::cp_async_wait<kStages - 2>();
    __syncthreads();  // the slab is there, and all have left the stage that is loaded next
    load(slab + kStages - 1);
    const uint32_t stage = shared + slab % kStages * kStageBytes;
    // Warps whose rows are all padding have nothing to sum.
    if (warp_row < num_rows) {
      multiply_slab(stage, stage + kRows * kSlab * 2, warp_row, warp_column, sums);
    }
  }
  store(sums, p, tile, static_cast<Out*>(p.out) + tile.group * p.out_batch_stride, warp_row,
        first_column + warp_column);
}

// `row_tiles`: as many as there can be.
template <typename Out, bool kGrouped>
cudaError_t launch(const Bf16GemmProblem& p, const Groups& groups, int64_t row_tiles,
                   cudaStream_t stream) {
  const auto kernel = &mma_kernel<Out, kGrouped>;
  static const cudaError_t attribute =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (attribute != cudaSuccess) return attribute;
  const dim3 grid(static_cast<unsigned>((p.n + kColumns - 1) / kColumns),
                  static_cast<unsigned>(row_tiles), static_cast<unsigned>(p.batch));
  device::launch_early_shared(kernel, grid, kThreads, kSharedBytes, stream, p, groups);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_mma(const Bf16GemmProblem& p, cudaStream_t stream) {
  const int64_t row_tiles = (p.m + kRows - 1) / kRows;
  return p.out_f32 ? launch<float, false>(p, {}, row_tiles, stream)
                   : launch<__nv_bfloat16, false>(p, {}, row_tiles, stream);
}

cudaError_t launch_grouped_mma(const Bf16GroupedProblem& grouped, cudaStream_t stream) {
  Bf16GemmProblem p;
  p.x = grouped.x, p.x_stride = grouped.x_stride;
  p.w = grouped.w, p.w_stride = grouped.k, p.w_batch_stride = grouped.n * grouped.k;
  p.out = grouped.out, p.out_stride = grouped.out_stride;
  p.m = grouped.m, p.n = grouped.n, p.k = grouped.k;
  return launch<__nv_bfloat16, true>(p, {grouped.offsets, grouped.num_groups},
                                     (p.m + kRows - 1) / kRows + grouped.num_groups, stream);
}

}  // namespace deepflight::gemm_bf16
