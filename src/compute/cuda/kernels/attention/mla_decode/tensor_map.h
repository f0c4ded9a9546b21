// The tensor maps of one layer's pages in the pool, and of the queries.
#pragma once

#include <cuda.h>

#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/runtime/tensor_map.h"

namespace deepflight::cuda_mla_decode {

// [num_pages][64][token] by boxes of a page's 64 tokens, `columns` elements (of e4m3: bytes) wide.
inline bool encode_pool_map(CUtensorMap& map, const MlaDecodeProblem& p, cuuint32_t columns,
                            CUtensorMapSwizzle swizzle) {
  const bool is_bf16 = p.format == PageFormat::kBF16;
  const auto token_bytes =
      static_cast<cuuint64_t>(page_token_bytes(p.format, p.latent_dim, p.rope_dim));
  const cuuint64_t dims[3] = {is_bf16 ? kTokenDim : token_bytes, kPageTokens,
                              static_cast<cuuint64_t>(p.num_pages)};
  const cuuint64_t strides[2] = {token_bytes, static_cast<cuuint64_t>(p.page_stride_bytes)};
  const cuuint32_t box[3] = {columns, kPageTokens, 1};
  // The L2 fetches more at once of pages that several blocks read (BF16, batch 64: 1% faster).
  // Those that one block reads would come 5% slower so.
  const CUtensorMapL2promotion promotion = p.num_heads > kTileRows
                                               ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B
                                               : CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  const char* base = static_cast<const char*>(p.pool) + p.layer_offset_bytes;
  return encode_tensor_map(
             map, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 3,
             base, dims, strides, box, swizzle, promotion) == CUDA_SUCCESS;
}

// [num_tokens * num_heads][576] of BF16, or of e4m3 where there are scales, by boxes of 64 rows and
// `columns`: a token's heads lie one after the other.
inline bool encode_query_map(CUtensorMap& map, const MlaDecodeProblem& p, cuuint32_t columns,
                             CUtensorMapSwizzle swizzle) {
  const bool is_bf16 = p.query_scales == nullptr;
  const cuuint64_t dims[2] = {kTokenDim, static_cast<cuuint64_t>(p.num_tokens * p.num_heads)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(p.q_head_stride * (is_bf16 ? 2 : 1))};
  const cuuint32_t box[2] = {columns, kTileRows};
  return encode_tensor_map(
             map, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
             p.q, dims, strides, box, swizzle) == CUDA_SUCCESS;
}

}  // namespace deepflight::cuda_mla_decode
