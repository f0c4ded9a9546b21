// ModelWeights: the checkpoint's tensors packed for a backend, in the structure of the forward
// pass. Made once at start; read-only afterwards.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "base/result.h"
#include "compute/ops/backend.h"
#include "model/deepseek/config.h"
#include "model/weights/checkpoint.h"

namespace deepflight {

struct AttentionWeights {
  LinearWeight qkv_a;    // [q_lora (or heads * qk_head) + kv_lora + rope, hidden]
  TensorView q_a_norm;   // [q_lora]; empty without q_lora
  TensorView kv_a_norm;  // [kv_lora]
  LinearWeight q_b;      // [heads * qk_head, q_lora]; unused without q_lora
  KvUpWeight kv_up;
  LinearWeight o;  // [hidden, heads * v]
};

struct MoeLayerWeights {
  LinearWeight router;     // [experts, hidden]
  TensorView router_bias;  // [experts]; empty without one
  MoeWeights experts;
};

struct LayerWeights {
  TensorView input_norm;      // [hidden]
  TensorView attention_norm;  // [hidden]
  AttentionWeights attention;
  std::optional<MlpWeights> dense;  // exactly one of the two
  std::optional<MoeLayerWeights> moe;
};

// Predicts the token after the next one (model/deepseek/mtp.h). Embedding and head are the model's.
struct MtpWeights {
  TensorView embed_norm;    // [hidden]
  TensorView state_norm;    // [hidden]
  LinearWeight projection;  // [hidden, 2 * hidden]; input is [embedding, state], both normed
  LayerWeights layer;
  TensorView final_norm;  // [hidden]
};

struct ModelWeights {
  TensorView embedding;  // [vocab, hidden], activation dtype
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden]
  LinearWeight lm_head;   // [vocab, hidden]
  RopeTable rope;         // for positions [0, max_positions)
  std::vector<MtpWeights> mtp;

  std::vector<Buffer> buffers;  // memory of the views above
};

// Loads the model and its first num_mtp_modules MTP modules, which must be there (match_table).
// `on_progress` is told the bytes of each tensor read.
Result<ModelWeights> load_model_weights(const DeepseekConfig& config, const Checkpoint& checkpoint,
                                        int64_t max_positions, Backend& backend,
                                        const std::function<void(int64_t)>& on_progress,
                                        int num_mtp_modules = 0);

}  // namespace deepflight
