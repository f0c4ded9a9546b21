// Scales of an e4m3 KV cache that a checkpoint was calibrated for. A layer's cache holds one latent
// and one rope vector a token, which keys and values are both made of, so the scale of keys counts
// and that of values has no use.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/weights/checkpoint.h"

namespace deepflight {

// Whether a tensor is such a scale, of keys or of values, under any of the names that are in use.
bool is_kv_scale(std::string_view name);

// A scale a layer, 1 where the checkpoint has none; empty if it has none at all. A stored value is
// e4m3(value / scale). An error if one is not a single number above 0.
Result<std::vector<float>> load_kv_scales(const Checkpoint& checkpoint, int64_t num_layers);

}  // namespace deepflight
