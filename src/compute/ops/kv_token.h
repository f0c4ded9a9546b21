// A token's values to the bytes of a KV pool's format, and back, on the host: what write_kv() and
// the readers of pages do, the GPU's kernels to the same bits.
#pragma once

#include <cstdint>

#include "compute/ops/step_state.h"

namespace deepflight {

// The scale of kF8Group for latents up to `largest`: the least power of two under which they fit
// into e4m3, within [2^-15, 2^7]. So a stored latent is a value of F16 and of BF16, exactly; beyond
// 448 * 2^7 = 57344 it saturates.
float kv_group_scale(float largest);

// values: F32 [token_dim], latent then rope. target, source: token_bytes() of the pool, any
// alignment. Numbers that are not (NaN) stay so.
void store_kv_token(const KvPool& pool, int64_t layer, const float* values, void* target);
void load_kv_token(const KvPool& pool, int64_t layer, const void* source, float* values);

}  // namespace deepflight
