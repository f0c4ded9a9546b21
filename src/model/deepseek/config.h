// DeepseekConfig: what a model directory's config.json says, checked. Everything that changes the
// model's mathematics is either a field here or refused by name; the forward pass, the tensor table
// and the memory plan read nothing else. The oracle for the meaning of each field is transformers'
// DeepseekV3 and DeepseekV2 (tests/golden).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"

namespace deepflight {

enum class Architecture { kDeepseekV2, kDeepseekV3 };

enum class ScoringFunc {
  kSigmoid,  // V3
  kSoftmax,  // V2
};

enum class TopkMethod {
  kGreedy,              // the top k of all scores
  kGroupLimitedGreedy,  // V2: groups ranked by their best score
  kNoauxTc,             // V3: groups ranked by the sum of their two best biased scores
};

enum class RopeScalingType { kNone, kLinear, kYarn };

enum class WeightQuantization {
  kNone,
  kFp8Block128,  // e4m3 with one F32 scale per 128x128 block
};

struct RopeScaling {
  RopeScalingType type = RopeScalingType::kNone;
  double factor = 1.0;
  int64_t original_max_position_embeddings = 0;  // yarn
  double beta_fast = 32.0;                       // yarn
  double beta_slow = 1.0;                        // yarn
  double mscale = 0.0;                           // yarn; 0: not given
  double mscale_all_dim = 0.0;                   // yarn; 0: not given
  double attention_factor = 0.0;                 // yarn; 0: derived from factor and the mscales
};

struct DeepseekConfig {
  Architecture architecture = Architecture::kDeepseekV3;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;  // MTP modules not counted
  int64_t max_position_embeddings = 0;

  // Multi-head latent attention.
  int64_t num_heads = 0;
  int64_t q_lora_rank = 0;  // 0: q_proj straight from the hidden state
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  double rope_theta = 10000.0;
  RopeScaling rope;
  // Rope pairs are (x[2i], x[2i+1]), as all published checkpoints have them; false: (x[i],
  // x[i + rope_dim / 2]).
  bool rope_interleaved = true;

  // Feed-forward.
  int64_t intermediate_size = 0;  // of dense layers
  int64_t moe_intermediate_size = 0;
  int64_t num_routed_experts = 0;  // 0: every layer is dense
  int64_t num_shared_experts = 0;  // one MLP of num_shared_experts * moe_intermediate_size
  int64_t num_experts_per_token = 0;
  int64_t first_dense_layers = 0;
  int64_t moe_layer_freq = 1;
  int64_t num_expert_groups = 1;  // 1 also where no group is named
  int64_t topk_groups = 1;
  ScoringFunc scoring = ScoringFunc::kSigmoid;
  TopkMethod topk_method = TopkMethod::kNoauxTc;
  // Divide the chosen experts' scores by (their sum + 1e-20). Never true for softmax scoring.
  bool norm_topk_prob = true;
  // Multiplies the weights of the chosen experts, after norm_topk_prob, in every architecture.
  float routed_scaling_factor = 1.0f;

  float rms_norm_eps = 1e-6f;
  // Of q_a_layernorm and kv_a_layernorm. NOTE: 1e-6 whatever rms_norm_eps says, as in the
  // published modelling code.
  float latent_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;      // lm_head is embed_tokens
  int64_t num_nextn_predict_layers = 0;  // MTP modules the config names

  std::vector<int32_t> eos_token_ids;  // generation_config.json's first, then config.json's
  int32_t bos_token_id = -1;           // -1: none

  WeightQuantization quantization = WeightQuantization::kNone;
  bool fp8_scales_are_ue8m0 = false;  // V3.1: block scales are powers of two
  DType dtype = DType::kBF16;         // of the tensors that are not quantised, as declared

  // Fields of config.json that nothing here reads; worth one warning line.
  std::vector<std::string> unread_fields;

  // `json` is the content of config.json. Errors begin "config.json: ".
  static Result<DeepseekConfig> parse(const nlohmann::json& json);
  // Reads config.json and, if there, generation_config.json.
  static Result<DeepseekConfig> load(const std::filesystem::path& model_dir);

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  // What the latent KV cache holds per token and layer: kv_lora_rank latents, then the rope key.
  int64_t kv_token_dim() const { return kv_lora_rank + qk_rope_head_dim; }
  int64_t shared_intermediate_size() const { return num_shared_experts * moe_intermediate_size; }
  // Keeps the first num_layers layers (flag --num-layers); 0 keeps all. An error if there are
  // fewer.
  Status truncate_layers(int64_t num_layers);
  // layer_idx >= num_layers (an MTP module's decoder layer) follows the same rule.
  bool is_moe_layer(int64_t layer_idx) const;

  // Multiplies q.k before the softmax: qk_head_dim^-0.5, times m^2 under yarn with mscale_all_dim,
  // m = 0.1 * mscale_all_dim * ln(factor) + 1.
  double softmax_scale() const;
  // Multiplies cos and sin.
  double rope_attention_factor() const;
  // [qk_rope_head_dim / 2] radians per position; pair i turns by position * frequency[i].
  std::vector<float> rope_inverse_frequencies() const;

  // Parameters without MTP modules. A token is active in everything but the other rows of the
  // embedding table (not counted at all) and the experts that it is not routed to.
  int64_t num_total_parameters() const;
  int64_t num_active_parameters() const;
};

std::string_view architecture_name(Architecture architecture);  // "DeepseekV3ForCausalLM"

}  // namespace deepflight
