// kv_b_proj to BF16, as it is and with W_UK transposed, by tiles of 32x32 through shared memory.
#include "compute/cuda/kernels/weights/kernels.h"
#include "compute/cuda/primitives/ld_st.cuh"

namespace deepflight::cuda_weights {
namespace {

constexpr int kTile = 32;
constexpr int kRowsAtOnce = 8;
constexpr int64_t kScaleBlock = 128;

__device__ inline uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// blockIdx: tile of the latent, tile of the head's rows, head.
__global__ void __launch_bounds__(kTile* kRowsAtOnce)
    split_kernel(const __grid_constant__ KvUpProblem p) {
  __shared__ uint16_t tile[kTile][kTile + 2];
  const int64_t head = blockIdx.z;
  const int64_t head_dim = p.nope_dim + p.v_dim;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t column = first_column + threadIdx.x;
  const int64_t scales_per_row = (p.latent_dim + kScaleBlock - 1) / kScaleBlock;
#pragma unroll
  for (int i = 0; i < kTile; i += kRowsAtOnce) {
    const int64_t row_in_head = first_row + i + threadIdx.y;
    if (row_in_head >= head_dim || column >= p.latent_dim) continue;
    const int64_t row = head * head_dim + row_in_head;
    const int64_t at = row * p.latent_dim + column;
    uint16_t bits;
    if (p.scales == nullptr) {
      bits = static_cast<const uint16_t*>(p.values)[at];
    } else {
      __nv_fp8_e4m3 code;
      code.__x = static_cast<const uint8_t*>(p.values)[at];
      const float scale = p.scales[row / kScaleBlock * scales_per_row + column / kScaleBlock];
      bits = bf16_bits(__fmul_rn(static_cast<float>(code), scale));
    }
    p.expand[at] = bits;
    tile[i + threadIdx.y][threadIdx.x] = bits;
  }
  __syncthreads();
  const int64_t row_in_head = first_row + threadIdx.x;
  if (row_in_head >= p.nope_dim) return;
#pragma unroll
  for (int i = 0; i < kTile; i += kRowsAtOnce) {
    const int64_t latent = first_column + i + threadIdx.y;
    if (latent >= p.latent_dim) continue;
    p.absorb_k[(head * p.latent_dim + latent) * p.nope_dim + row_in_head] =
        tile[threadIdx.x][i + threadIdx.y];
  }
}

}  // namespace

void launch_split_kv_up(const KvUpProblem& problem, cudaStream_t stream) {
  const auto tiles = [](int64_t size) {
    return static_cast<unsigned int>((size + kTile - 1) / kTile);
  };
  const dim3 grid(tiles(problem.latent_dim), tiles(problem.nope_dim + problem.v_dim),
                  static_cast<unsigned int>(problem.num_heads));
  split_kernel<<<grid, dim3(kTile, kRowsAtOnce), 0, stream>>>(problem);
}

}  // namespace deepflight::cuda_weights
