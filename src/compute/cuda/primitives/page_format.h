// Formats of the KV pool's tokens as kernels are told. A token of kF8Group: e4m3 latents, an F32
// scale for each 128 of them, a power of two, then rope as BF16. Plain data, for the host too.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define DF_HOST_DEVICE __host__ __device__
#else
#define DF_HOST_DEVICE
#endif

namespace deepflight {

enum class PageFormat : uint8_t { kBF16, kF8E4M3, kF8Group };

inline constexpr int kPageGroup = 128;

// Of a token of kF8Group.
DF_HOST_DEVICE inline int64_t scales_offset_bytes(int64_t latent_dim) {
  return (latent_dim + 3) / 4 * 4;
}
DF_HOST_DEVICE inline int64_t rope_offset_bytes(int64_t latent_dim) {
  return scales_offset_bytes(latent_dim) + 4 * ((latent_dim + kPageGroup - 1) / kPageGroup);
}

DF_HOST_DEVICE inline int64_t page_token_bytes(PageFormat format, int64_t latent_dim,
                                               int64_t rope_dim) {
  if (format == PageFormat::kF8Group)
    return (rope_offset_bytes(latent_dim) + 2 * rope_dim + 3) / 4 * 4;
  return (latent_dim + rope_dim) * (format == PageFormat::kBF16 ? 2 : 1);
}

// Tokens and their parts may be read and written 16 bytes at a time (e4m3 8).
DF_HOST_DEVICE inline bool page_tokens_fit_vectors(PageFormat format, int64_t latent_dim,
                                                   int64_t rope_dim) {
  if (latent_dim % 8 != 0 || rope_dim % 8 != 0) return false;
  return format != PageFormat::kF8Group ||
         (rope_offset_bytes(latent_dim) % 16 == 0 &&
          page_token_bytes(format, latent_dim, rope_dim) % 16 == 0);
}

}  // namespace deepflight
