// Tokens of a chunk out of the pages, to dense BF16 rows: latents for the expansion product, and
// the rope part of the keys that all heads share.
#include <cuda_bf16.h>

#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/primitives/kv_token.cuh"

namespace deepflight::cuda_mla_prefill {
namespace {

constexpr int kThreads = 256;

struct GatherParams {
  const uint8_t* pool;  // at this layer
  int64_t page_stride_bytes;
  const int32_t* slots;
  const int32_t* page_table;
  int64_t page_table_stride;
  float kv_scale;
  int32_t latent_dim;
  int32_t rope_dim;
  __nv_bfloat16* latent;
  __nv_bfloat16* k_pe;
  int32_t* counter;
  Chunk chunk;
};

// kWidth: elements a thread moves, 8 where rows are aligned for it.
template <PageFormat kFormat, int kWidth>
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherParams p) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.counter = 0;
  const int token_dim = p.latent_dim + p.rope_dim;
  const int units = token_dim / kWidth;
  const int64_t total = static_cast<int64_t>(p.chunk.num_rows) * units;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int row = static_cast<int>(i / units);
    const int column = static_cast<int>(i % units) * kWidth;
    int index = p.chunk.num_pieces - 1;
    while (p.chunk.pieces[index].first_key > row) --index;
    const Piece& piece = p.chunk.pieces[index];
    const int key = row - piece.first_key;
    float values[kWidth] = {};
    if (key < piece.num_keys) {
      const int position = piece.kv_begin + key;
      const int64_t page =
          p.page_table[p.slots[piece.sequence] * p.page_table_stride + position / kPageTokens];
      const uint8_t* token =
          p.pool + page * p.page_stride_bytes +
          position % kPageTokens * page_token_bytes(kFormat, p.latent_dim, p.rope_dim);
      if constexpr (kWidth == 8) {
        device::load_kv_values<kFormat>(token, column, p.latent_dim, p.kv_scale, values);
      } else {
        values[0] = device::kv_value<kFormat>(token, column, p.latent_dim, p.kv_scale);
      }
    }
    __nv_bfloat16* target =
        column < p.latent_dim
            ? p.latent + static_cast<int64_t>(row) * p.latent_dim + column
            : p.k_pe + static_cast<int64_t>(row) * p.rope_dim + column - p.latent_dim;
    if constexpr (kWidth == 8) {
      device::store8(target, values);
    } else {
      *target = __float2bfloat16_rn(values[0]);
    }
  }
}

}  // namespace

void launch_gather(const MlaPrefillProblem& problem, const Chunk& chunk, void* latent, void* k_pe,
                   int32_t* counter, cudaStream_t stream) {
  GatherParams p;
  p.pool = static_cast<const uint8_t*>(problem.pool) + problem.layer_offset_bytes;
  p.page_stride_bytes = problem.page_stride_bytes;
  p.slots = problem.slots;
  p.page_table = problem.page_table;
  p.page_table_stride = problem.page_table_stride;
  p.kv_scale = problem.kv_scale;
  p.latent_dim = static_cast<int32_t>(problem.latent_dim);
  p.rope_dim = static_cast<int32_t>(problem.rope_dim);
  p.latent = static_cast<__nv_bfloat16*>(latent);
  p.k_pe = static_cast<__nv_bfloat16*>(k_pe);
  p.counter = counter;
  p.chunk = chunk;
  const bool vector = page_tokens_fit_vectors(problem.format, p.latent_dim, p.rope_dim) &&
                      problem.page_stride_bytes % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(p.pool) % 16 == 0;
  const int64_t units = (problem.latent_dim + problem.rope_dim) / (vector ? 8 : 1);
  const int64_t blocks = (chunk.num_rows * units + kThreads - 1) / kThreads;
  void (*kernel)(GatherParams) = nullptr;
  switch (problem.format) {
    case PageFormat::kBF16:
      kernel = vector ? gather_kernel<PageFormat::kBF16, 8> : gather_kernel<PageFormat::kBF16, 1>;
      break;
    case PageFormat::kF8E4M3:
      kernel =
          vector ? gather_kernel<PageFormat::kF8E4M3, 8> : gather_kernel<PageFormat::kF8E4M3, 1>;
      break;
    case PageFormat::kF8Group:
      kernel =
          vector ? gather_kernel<PageFormat::kF8Group, 8> : gather_kernel<PageFormat::kF8Group, 1>;
      break;
  }
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p);
}

}  // namespace deepflight::cuda_mla_prefill
