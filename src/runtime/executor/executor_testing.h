// For tests of executor and engine: a tiny model with random weights behind the CPU backend.
#pragma once

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "compute/cpu/cpu_backend.h"
#include "model/deepseek/config.h"
#include "model/deepseek/dummy_weights.h"
#include "model/deepseek/model_weights.h"
#include "runtime/executor/executor.h"

namespace deepflight {

inline constexpr int32_t kTinyEos = 1;

// Two layers, the second with grouped experts: every op of the forward pass, in microseconds.
inline DeepseekConfig tiny_config(int vocab_size = 96) {
  const nlohmann::json json = {{"architectures", {"DeepseekV3ForCausalLM"}},
                               {"model_type", "deepseek_v3"},
                               {"eos_token_id", kTinyEos},
                               {"first_k_dense_replace", 1},
                               {"hidden_act", "silu"},
                               {"hidden_size", 32},
                               {"intermediate_size", 32},
                               {"kv_lora_rank", 16},
                               {"max_position_embeddings", 512},
                               {"moe_intermediate_size", 16},
                               {"n_group", 2},
                               {"n_routed_experts", 4},
                               {"n_shared_experts", 1},
                               {"norm_topk_prob", true},
                               {"num_attention_heads", 2},
                               {"num_experts_per_tok", 2},
                               {"num_hidden_layers", 2},
                               {"num_key_value_heads", 2},
                               {"q_lora_rank", 24},
                               {"qk_nope_head_dim", 16},
                               {"qk_rope_head_dim", 8},
                               {"rms_norm_eps", 1e-6},
                               {"rope_theta", 10000},
                               {"routed_scaling_factor", 2.5},
                               {"scoring_func", "sigmoid"},
                               {"topk_group", 1},
                               {"topk_method", "noaux_tc"},
                               {"torch_dtype", "bfloat16"},
                               {"v_head_dim", 16},
                               {"vocab_size", vocab_size}};
  return DeepseekConfig::parse(json).value();
}

struct TinyModel {
  explicit TinyModel(uint64_t seed = 1, int num_threads = 1, int vocab_size = 96)
      : config(tiny_config(vocab_size)), backend({.num_threads = num_threads}) {
    load(dummy_checkpoint(config, tensor_table(config), seed));
  }
  void load(const Checkpoint& checkpoint) {
    weights = load_model_weights(config, checkpoint, config.max_position_embeddings, backend, {},
                                 static_cast<int>(config.num_nextn_predict_layers))
                  .value();
  }

  DeepseekConfig config;
  CpuBackend backend;
  ModelWeights weights;
};

// One with MTP modules whose drafts are right some of the time: the layers of model and modules add
// little to the embedding, and a module's projection passes the embedding on, so that all of them
// mostly say what follows the last token.
struct DraftingModel : TinyModel {
  explicit DraftingModel(int num_modules = 1, uint64_t seed = 1, int num_threads = 1)
      : TinyModel(seed, num_threads) {
    config.num_nextn_predict_layers = num_modules;
    std::vector<DummyTensor> tensors;
    for (const TensorRow& row : tensor_table(config)) {
      DummyTensor& tensor = tensors.emplace_back(DummyTensor{.name = row.name, .shape = row.shape});
      const bool ends_block = row.kind == TensorKind::kOProj || row.kind == TensorKind::kMlpDown ||
                              row.kind == TensorKind::kExpertDown ||
                              row.kind == TensorKind::kSharedDown;
      if (row.shape.size() == 1) {
        tensor.mean = row.kind == TensorKind::kRouterBias ? 0.0f : 1.0f;
      } else {
        tensor.standard_deviation =
            (ends_block ? kLayerShare : 1.0f) / std::sqrt(static_cast<float>(row.shape[1]));
      }
    }
    load(Checkpoint::dummy(std::move(tensors), seed));
    const int64_t hidden = config.hidden_size;
    std::vector<float> identity(hidden * 2 * hidden);
    for (int64_t i = 0; i < hidden; ++i) identity[i * 2 * hidden + i] = kEmbeddingShare;
    // Some of the state, so that it matters.
    for (int64_t i = 0; i < hidden; ++i) identity[i * 2 * hidden + hidden + i] = kStateShare;
    const StoredMatrix matrix{TensorView::of(identity.data(), {hidden, 2 * hidden}), {}, {}};
    for (MtpWeights& module : weights.mtp) {
      module.projection = backend.pack_linear(std::span(&matrix, 1));
    }
  }

  static constexpr float kLayerShare = 0.06f;
  static constexpr float kEmbeddingShare = 0.2f;
  static constexpr float kStateShare = 0.03f;
};

}  // namespace deepflight
