// out = x or silu(gate) * up, to BF16 and to e4m3 with a scale per 1x128 block. A block of 128 is
// 16 lanes times 8 values, so its largest magnitude takes four shuffles and no shared memory.
#include "compute/cuda/kernels/quantize/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/pdl.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_quantize {
namespace {

using namespace deepflight::device;

constexpr int kThreads = 256;
constexpr int kBlock = 128;      // columns of an FP8 block
constexpr int kBlockLanes = 16;  // threads that share one

__device__ inline const __nv_bfloat16* bf16(const uint16_t* bits) {
  return reinterpret_cast<const __nv_bfloat16*>(bits);
}
__device__ inline __nv_bfloat16* bf16(uint16_t* bits) {
  return reinterpret_cast<__nv_bfloat16*>(bits);
}

template <bool kSwiglu, int kInFlight>
__global__ void __launch_bounds__(kThreads)
    vector_kernel(const __grid_constant__ RowsProblem p, unsigned int blocks_per_row,
                  int64_t num_blocks) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int64_t num_rows =
      p.num_valid == nullptr ? p.num_rows : min(p.num_rows, int64_t{*p.num_valid});
  const int lane = static_cast<int>(threadIdx.x) % kBlockLanes;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads / kBlockLanes) * kInFlight +
                        threadIdx.x / kBlockLanes;
  float values[kInFlight][8];
  float ups[kSwiglu ? kInFlight : 1][8];
  unsigned int rows[kInFlight], blocks[kInFlight];
  bool active[kInFlight];
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    const int64_t block = first + i * (kThreads / kBlockLanes);
    rows[i] = static_cast<unsigned int>(block) / blocks_per_row;
    blocks[i] = static_cast<unsigned int>(block) - rows[i] * blocks_per_row;
    const int64_t column = int64_t{blocks[i]} * kBlock + lane * 8;
    active[i] = block < num_blocks && rows[i] < num_rows && column < p.width;
#pragma unroll
    for (int j = 0; j < 8; ++j) values[i][j] = 0.0f;
    if (!active[i]) continue;
    load8(bf16(p.gate) + rows[i] * p.in_stride + column, values[i]);
    if constexpr (kSwiglu) load8(bf16(p.up) + rows[i] * p.in_stride + column, ups[i]);
  }
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    const int64_t column = int64_t{blocks[i]} * kBlock + lane * 8;
    if constexpr (kSwiglu) {
      if (active[i]) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          values[i][j] = __bfloat162float(__float2bfloat16_rn(silu(values[i][j]) * ups[i][j]));
        }
        if (p.out != nullptr) store8(bf16(p.out) + rows[i] * p.out_stride + column, values[i]);
      }
    }
    if (p.fp8.values == nullptr) continue;
    float largest = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(values[i][j]));
    largest = warp_max<kBlockLanes>(largest);
    if (!active[i]) continue;
    const float factor = e4m3_block_factor(largest);
    uint2 packed;
    packed.x = to_e4m3x4(values[i][0] * factor, values[i][1] * factor, values[i][2] * factor,
                         values[i][3] * factor);
    packed.y = to_e4m3x4(values[i][4] * factor, values[i][5] * factor, values[i][6] * factor,
                         values[i][7] * factor);
    *reinterpret_cast<uint2*>(p.fp8.values + rows[i] * p.fp8.value_stride + column) = packed;
    if (lane == 0) {
      p.fp8.scales[blocks[i] * p.fp8.scale_stride + rows[i]] = e4m3_block_scale(largest);
    }
  }
}

// A warp takes a 1x128 block, a lane every 32nd value.
template <bool kSwiglu>
__global__ void __launch_bounds__(kThreads)
    generic_kernel(const __grid_constant__ RowsProblem p, int64_t blocks_per_row) {
  const int64_t num_rows =
      p.num_valid == nullptr ? p.num_rows : min(p.num_rows, int64_t{*p.num_valid});
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t block_idx =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kWarpSize) + threadIdx.x / kWarpSize;
  const int64_t row = block_idx / blocks_per_row;
  const int64_t block = block_idx % blocks_per_row;
  if (row >= num_rows) return;
  float values[4];
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t column = block * kBlock + lane + j * kWarpSize;
    values[j] = 0.0f;
    if (column >= p.width) continue;
    values[j] = __bfloat162float(bf16(p.gate)[row * p.in_stride + column]);
    if constexpr (kSwiglu) {
      const float up = __bfloat162float(bf16(p.up)[row * p.in_stride + column]);
      const __nv_bfloat16 rounded = __float2bfloat16_rn(silu(values[j]) * up);
      values[j] = __bfloat162float(rounded);
      if (p.out != nullptr) bf16(p.out)[row * p.out_stride + column] = rounded;
    }
    largest = fmaxf(largest, fabsf(values[j]));
  }
  if (p.fp8.values == nullptr) return;
  largest = warp_max(largest);
  const float factor = e4m3_block_factor(largest);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t column = block * kBlock + lane + j * kWarpSize;
    if (column < p.width) {
      p.fp8.values[row * p.fp8.value_stride + column] = to_e4m3(values[j] * factor);
    }
  }
  if (lane == 0) p.fp8.scales[block * p.fp8.scale_stride + row] = e4m3_block_scale(largest);
}

int64_t blocks_per_row_of(const RowsProblem& p) { return (p.width + kBlock - 1) / kBlock; }

template <int kInFlight>
void launch_in_flight(const RowsProblem& p, cudaStream_t stream) {
  const int64_t blocks_per_row = blocks_per_row_of(p);
  const int64_t num_blocks = p.num_rows * blocks_per_row;
  const int64_t per_cta = kThreads / kBlockLanes * kInFlight;
  const auto grid = static_cast<unsigned int>((num_blocks + per_cta - 1) / per_cta);
  void (*kernel)(RowsProblem, unsigned int, int64_t) =
      p.up != nullptr ? &vector_kernel<true, kInFlight> : &vector_kernel<false, kInFlight>;
  launch_early(kernel, grid, kThreads, stream, p, static_cast<unsigned int>(blocks_per_row),
               num_blocks);
}

}  // namespace

void launch_vector(const RowsProblem& problem, int blocks_in_flight, cudaStream_t stream) {
  if (blocks_in_flight == 1) return launch_in_flight<1>(problem, stream);
  if (blocks_in_flight == 2) return launch_in_flight<2>(problem, stream);
  launch_in_flight<4>(problem, stream);
}

void launch_generic(const RowsProblem& p, cudaStream_t stream) {
  const int64_t blocks_per_row = blocks_per_row_of(p);
  const int64_t per_cta = kThreads / kWarpSize;
  const auto grid =
      static_cast<unsigned int>((p.num_rows * blocks_per_row + per_cta - 1) / per_cta);
  void (*kernel)(RowsProblem, int64_t) =
      p.up != nullptr ? &generic_kernel<true> : &generic_kernel<false>;
  kernel<<<grid, kThreads, 0, stream>>>(p, blocks_per_row);
}

}  // namespace deepflight::cuda_quantize
