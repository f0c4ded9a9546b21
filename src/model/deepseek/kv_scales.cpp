#include "model/deepseek/kv_scales.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "tensor/float_formats.h"

namespace deepflight {
namespace {

// Behind "model.layers.N.self_attn.": as llm-compressor writes it, vLLM calls it, ModelOpt writes
// it (two ways), and as one scale of keys and values was called before.
constexpr std::array kNames = {std::string_view("k_scale"), std::string_view("attn.k_scale"),
                               std::string_view("kv_a_proj_with_mqa.k_scale"),
                               std::string_view("k_proj.k_scale"), std::string_view("kv_scale")};

Result<float> load_scale(const Checkpoint& checkpoint, const std::string& name) {
  ASSIGN_OR_RETURN(const StoredTensor tensor, checkpoint.tensor(name));
  if (!tensor.is_float() || tensor.values.num_elements() != 1) {
    return invalid_argument("tensor '{}': expected one number (F32, BF16 or F16), found {}", name,
                            tensor.values.to_string());
  }
  float scale = 0.0f;
  to_f32(tensor.values, &scale);
  if (!std::isfinite(scale) || scale <= 0.0f) {
    return invalid_argument("tensor '{}': a KV scale of {}, must be above 0", name, scale);
  }
  return scale;
}

}  // namespace

bool is_kv_scale(std::string_view name) {
  return name.find(".self_attn.") != name.npos &&
         (name.ends_with(".k_scale") || name.ends_with(".v_scale") || name.ends_with(".kv_scale"));
}

Result<std::vector<float>> load_kv_scales(const Checkpoint& checkpoint, int64_t num_layers) {
  std::vector<float> scales(static_cast<size_t>(num_layers), 1.0f);
  bool any = false;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (const std::string_view path : kNames) {
      const std::string name = fmt::format("model.layers.{}.self_attn.{}", layer, path);
      if (!checkpoint.contains(name)) continue;
      ASSIGN_OR_RETURN(scales[static_cast<size_t>(layer)], load_scale(checkpoint, name));
      any = true;
      break;
    }
  }
  if (!any) scales.clear();
  return scales;
}

}  // namespace deepflight
