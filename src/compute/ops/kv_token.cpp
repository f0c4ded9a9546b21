// Formats of a KV pool's tokens; see kv_token.h.
#include "compute/ops/kv_token.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/float_formats.h"

namespace deepflight {
namespace {

void store_bf16(const float* values, int64_t count, uint8_t* target) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = f32_to_bf16(values[i]);
    std::memcpy(target + 2 * i, &bits, sizeof(bits));
  }
}

void load_bf16(const uint8_t* source, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, sizeof(bits));
    values[i] = bf16_to_f32(bits);
  }
}

void store_e4m3(const float* values, int64_t count, float scale, uint8_t* target) {
  for (int64_t i = 0; i < count; ++i) target[i] = f32_to_f8e4m3(values[i] / scale);
}

void load_e4m3(const uint8_t* source, int64_t count, float scale, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = f8e4m3_to_f32(source[i]) * scale;
}

void store_groups(const KvPool& pool, const float* values, uint8_t* target) {
  const int64_t latent_dim = pool.token_dim - pool.rope_dim;
  std::memset(target, 0, pool.token_bytes());  // gaps
  for (int64_t group = 0; group < pool.num_groups(); ++group) {
    const int64_t first = group * kKvGroup, count = std::min<int64_t>(kKvGroup, latent_dim - first);
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) largest = std::fmax(largest, std::abs(values[first + i]));
    const float scale = kv_group_scale(largest);
    store_e4m3(values + first, count, scale, target + first);
    std::memcpy(target + pool.scales_offset_bytes() + 4 * group, &scale, sizeof(scale));
  }
  store_bf16(values + latent_dim, pool.rope_dim, target + pool.rope_offset_bytes());
}

void load_groups(const KvPool& pool, const uint8_t* source, float* values) {
  const int64_t latent_dim = pool.token_dim - pool.rope_dim;
  for (int64_t group = 0; group < pool.num_groups(); ++group) {
    const int64_t first = group * kKvGroup;
    float scale;
    std::memcpy(&scale, source + pool.scales_offset_bytes() + 4 * group, sizeof(scale));
    load_e4m3(source + first, std::min<int64_t>(kKvGroup, latent_dim - first), scale,
              values + first);
  }
  load_bf16(source + pool.rope_offset_bytes(), pool.rope_dim, values + latent_dim);
}

}  // namespace

float kv_group_scale(float largest) {
  const auto bits = std::bit_cast<uint32_t>(largest / kF8E4M3Max);
  const int exponent = static_cast<int>(bits >> 23) - 127 + ((bits & 0x7fffff) != 0 ? 1 : 0);
  return std::ldexp(1.0f, std::clamp(exponent, -15, 7));
}

void store_kv_token(const KvPool& pool, int64_t layer, const float* values, void* target) {
  auto* bytes = static_cast<uint8_t*>(target);
  switch (pool.format) {
    case KvFormat::kF32:
      std::memcpy(target, values, pool.token_bytes());
      return;
    case KvFormat::kBF16:
      return store_bf16(values, pool.token_dim, bytes);
    case KvFormat::kF8E4M3:
      return store_e4m3(values, pool.token_dim, pool.scale(layer), bytes);
    case KvFormat::kF8Group:
      return store_groups(pool, values, bytes);
  }
}

void load_kv_token(const KvPool& pool, int64_t layer, const void* source, float* values) {
  const auto* bytes = static_cast<const uint8_t*>(source);
  switch (pool.format) {
    case KvFormat::kF32:
      std::memcpy(values, source, pool.token_bytes());
      return;
    case KvFormat::kBF16:
      return load_bf16(bytes, pool.token_dim, values);
    case KvFormat::kF8E4M3:
      return load_e4m3(bytes, pool.token_dim, pool.scale(layer), values);
    case KvFormat::kF8Group:
      return load_groups(pool, bytes, values);
  }
}

}  // namespace deepflight
