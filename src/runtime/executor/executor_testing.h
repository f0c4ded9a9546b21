// For tests of executor and engine: a tiny model with random weights behind the CPU backend.
#pragma once

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
    const Checkpoint checkpoint = dummy_checkpoint(config, tensor_table(config), seed);
    weights =
        load_model_weights(config, checkpoint, config.max_position_embeddings, backend, {}).value();
  }

  DeepseekConfig config;
  CpuBackend backend;
  ModelWeights weights;
};

}  // namespace deepflight
