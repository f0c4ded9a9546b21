// Values of a token of the KV pool, in any of its formats.
#pragma once

#include <cuda_bf16.h>

#include "compute/cuda/primitives/ld_st.cuh"
#include "compute/cuda/primitives/page_format.h"

namespace deepflight::device {

// The scale of a group of kF8Group whose largest magnitude is `largest`: the arithmetic of
// kv_group_scale() on the host.
__device__ inline float kv_group_scale(float largest) {
  const unsigned bits = __float_as_uint(__fdiv_rn(largest, 448.0f));
  const int exponent = static_cast<int>(bits >> 23) - 127 + ((bits & 0x7fffff) != 0 ? 1 : 0);
  return __uint_as_float(static_cast<unsigned>(min(max(exponent, -15), 7) + 127) << 23);
}

// Value `column` of a token; `scale` is kF8E4M3's.
template <PageFormat kFormat>
__device__ inline float kv_value(const uint8_t* token, int column, int latent_dim, float scale) {
  if constexpr (kFormat == PageFormat::kBF16) {
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(token)[column]);
  } else if constexpr (kFormat == PageFormat::kF8E4M3) {
    return from_e4m3x2(token[column]).x * scale;
  } else {
    if (column >= latent_dim) {
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(
          token + rope_offset_bytes(latent_dim))[column - latent_dim]);
    }
    const float* scales = reinterpret_cast<const float*>(token + scales_offset_bytes(latent_dim));
    return from_e4m3x2(token[column]).x * scales[column / kPageGroup];
  }
}

// Eight values from `column` on; tokens fit vectors.
template <PageFormat kFormat>
__device__ inline void load_kv_values(const uint8_t* token, int column, int latent_dim, float scale,
                                      float (&values)[8]) {
  if constexpr (kFormat == PageFormat::kBF16) {
    load8(reinterpret_cast<const __nv_bfloat16*>(token) + column, values);
    return;
  }
  if constexpr (kFormat == PageFormat::kF8Group) {
    if (column >= latent_dim) {
      load8(reinterpret_cast<const __nv_bfloat16*>(token + rope_offset_bytes(latent_dim)) + column -
                latent_dim,
            values);
      return;
    }
    scale = reinterpret_cast<const float*>(token +
                                           scales_offset_bytes(latent_dim))[column / kPageGroup];
  }
  const uint2 bits = *reinterpret_cast<const uint2*>(token + column);
  const unsigned words[2] = {bits.x, bits.y};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = from_e4m3x2(static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2))));
    values[2 * i] = pair.x * scale;
    values[2 * i + 1] = pair.y * scale;
  }
}

}  // namespace deepflight::device
