// Tokens of pages as tests write them, on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "compute/cuda/primitives/page_format.h"
#include "tensor/float_formats.h"

namespace deepflight::testing {

// Value `i` of token number `key`; gives what kernels see. Of kF8E4M3 `value` is what is stored and
// stands for `kv_scale` times as much; scales of kF8Group are any powers of two.
inline float write_token_value(uint8_t* token, PageFormat format, int64_t latent_dim, int64_t i,
                               int64_t key, float value, float kv_scale) {
  if (format == PageFormat::kF8E4M3) {
    token[i] = f32_to_f8e4m3(value);
    return f8e4m3_to_f32(token[i]) * kv_scale;
  }
  if (format == PageFormat::kF8Group && i < latent_dim) {
    const int64_t group = i / kPageGroup;
    const float scale = std::ldexp(1.0f, static_cast<int>((key + 2 * group) % 5) - 3);
    std::memcpy(token + scales_offset_bytes(latent_dim) + 4 * group, &scale, 4);
    token[i] = f32_to_f8e4m3(value / scale);
    return f8e4m3_to_f32(token[i]) * scale;
  }
  const uint16_t bits = f32_to_bf16(value);
  const int64_t at =
      format == PageFormat::kBF16 ? 2 * i : rope_offset_bytes(latent_dim) + 2 * (i - latent_dim);
  std::memcpy(token + at, &bits, 2);
  return bf16_to_f32(bits);
}

}  // namespace deepflight::testing
