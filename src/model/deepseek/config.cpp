// config.json -> DeepseekConfig, and the formulas that follow from it.
#include "model/deepseek/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>
#include <utility>

#include "base/files.h"
#include "model/deepseek/config_reader.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

constexpr uint64_t kMaxConfigBytes = 4'000'000;
constexpr std::string_view kWhere = "config.json: ";
// Bounds that keep every product of sizes far inside int64 and the tensor table in memory.
constexpr int64_t kMaxVocab = 1 << 22;
constexpr int64_t kMaxWidth = 1 << 16;
constexpr int64_t kMaxIntermediate = 1 << 18;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxExpertsOfAllLayers = 1 << 18;
constexpr int64_t kMaxPositions = int64_t{1} << 31;

void read_architecture(ConfigReader& reader, DeepseekConfig& config) {
  const auto* list = reader.find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !list->at(0).is_string()) {
    reader.fail(invalid_argument("{}architectures does not name one architecture", kWhere));
    return;
  }
  const auto& name = list->at(0).get_ref<const std::string&>();
  for (const auto architecture : {Architecture::kDeepseekV2, Architecture::kDeepseekV3}) {
    if (name == architecture_name(architecture)) {
      config.architecture = architecture;
      return;
    }
  }
  reader.unsupported_value("architectures", list->at(0),
                           "only DeepseekV3ForCausalLM and DeepseekV2ForCausalLM");
}

void read_sizes(ConfigReader& reader, DeepseekConfig& config) {
  config.vocab_size = reader.integer("vocab_size", 2, kMaxVocab);
  config.hidden_size = reader.integer("hidden_size", 1, kMaxWidth);
  config.num_layers = reader.integer("num_hidden_layers", 1, kMaxLayers);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 1, kMaxPositions);
  config.num_heads = reader.integer("num_attention_heads", 1, kMaxHeads);
  config.q_lora_rank = reader.integer("q_lora_rank", 0, kMaxWidth, 0);
  config.kv_lora_rank = reader.integer("kv_lora_rank", 1, kMaxWidth);
  config.qk_nope_head_dim = reader.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  config.qk_rope_head_dim = reader.integer("qk_rope_head_dim", 2, kMaxHeadDim);
  config.v_head_dim = reader.integer("v_head_dim", 1, kMaxHeadDim);
  if (config.qk_rope_head_dim % 2 != 0) {
    reader.fail(invalid_argument("{}qk_rope_head_dim {} is odd", kWhere, config.qk_rope_head_dim));
  }
  const int64_t num_kv_heads =
      reader.integer("num_key_value_heads", 1, kMaxHeads, config.num_heads);
  if (num_kv_heads != config.num_heads) {
    reader.unsupported_value("num_key_value_heads", num_kv_heads,
                             fmt::format("only num_attention_heads ({})", config.num_heads));
  }
  // transformers turns by head_dim where a file has one.
  reader.require("head_dim", config.qk_rope_head_dim);
  reader.require("qk_head_dim", config.qk_head_dim());
  config.intermediate_size = reader.integer("intermediate_size", 1, kMaxIntermediate);
  const int64_t num_mtp = reader.integer("num_mtp_layers", 0, 16, 0);
  config.num_nextn_predict_layers = reader.integer("num_nextn_predict_layers", 0, 16, num_mtp);
  config.rms_norm_eps = static_cast<float>(reader.number("rms_norm_eps", 0.0, 1.0, 1e-6));
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
}

void read_routing(ConfigReader& reader, DeepseekConfig& config) {
  const bool is_v3 = config.architecture == Architecture::kDeepseekV3;
  const std::string scoring = reader.text("scoring_func", is_v3 ? "sigmoid" : "softmax");
  const std::string method = reader.text("topk_method", is_v3 ? "noaux_tc" : "greedy");
  if (scoring != (is_v3 ? "sigmoid" : "softmax")) {
    reader.unsupported_value("scoring_func", scoring,
                             is_v3 ? "only \"sigmoid\" for DeepseekV3ForCausalLM"
                                   : "only \"softmax\" for DeepseekV2ForCausalLM");
  }
  config.scoring = is_v3 ? ScoringFunc::kSigmoid : ScoringFunc::kSoftmax;
  if (is_v3 && method == "noaux_tc") {
    config.topk_method = TopkMethod::kNoauxTc;
  } else if (!is_v3 && method == "greedy") {
    config.topk_method = TopkMethod::kGreedy;
  } else if (!is_v3 && method == "group_limited_greedy") {
    config.topk_method = TopkMethod::kGroupLimitedGreedy;
  } else {
    reader.unsupported_value("topk_method", method,
                             is_v3 ? "only \"noaux_tc\" for DeepseekV3ForCausalLM"
                                   : "only \"greedy\" and \"group_limited_greedy\" for "
                                     "DeepseekV2ForCausalLM");
  }
  config.norm_topk_prob = reader.boolean("norm_topk_prob", is_v3);
  if (!is_v3 && config.norm_topk_prob) {
    // transformers ignores it, DeepSeek's own code then drops routed_scaling_factor, others apply
    // both; no published V2 sets it.
    reader.unsupported_value("norm_topk_prob", true, "only false for DeepseekV2ForCausalLM");
  }
  config.routed_scaling_factor =
      static_cast<float>(reader.number("routed_scaling_factor", 0.0, 1e4, is_v3 ? 2.5 : 1.0));
}

void read_groups(ConfigReader& reader, DeepseekConfig& config) {
  const bool has_groups = config.topk_method != TopkMethod::kGreedy;
  const int64_t num_groups = reader.integer("n_group", 1, kMaxExperts, 1);
  const int64_t topk_groups = reader.integer("topk_group", 1, kMaxExperts, 1);
  if (!has_groups) return;  // a greedy router never looks at them
  config.num_expert_groups = num_groups;
  config.topk_groups = topk_groups;
  if (config.num_routed_experts % num_groups != 0) {
    reader.fail(invalid_argument("{}n_routed_experts {} is no multiple of n_group {}", kWhere,
                                 config.num_routed_experts, num_groups));
    return;
  }
  const int64_t group_size = config.num_routed_experts / num_groups;
  if (topk_groups > num_groups) {
    reader.fail(invalid_argument("{}topk_group {} is more than n_group {}", kWhere, topk_groups,
                                 num_groups));
  } else if (config.topk_method == TopkMethod::kNoauxTc && group_size < 2) {
    reader.fail(invalid_argument("{}n_group {} leaves groups of one expert, noaux_tc needs two",
                                 kWhere, num_groups));
  } else if (config.num_experts_per_token > topk_groups * group_size) {
    reader.fail(invalid_argument(
        "{}num_experts_per_tok {} is more than the {} experts of {} "
        "groups",
        kWhere, config.num_experts_per_token, topk_groups * group_size, topk_groups));
  }
}

void read_experts(ConfigReader& reader, DeepseekConfig& config) {
  // Newer transformers may write its own names of the same fields.
  const int64_t num_local = reader.integer("num_local_experts", 0, kMaxExperts, 0);
  config.num_routed_experts = reader.integer("n_routed_experts", 0, kMaxExperts, num_local);
  if (config.num_routed_experts == 0) {
    reader.skip({"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok", "n_group",
                 "first_k_dense_replace", "moe_layer_freq", "topk_group", "scoring_func",
                 "topk_method", "norm_topk_prob", "routed_scaling_factor"});
    return;
  }
  config.moe_intermediate_size = reader.integer("moe_intermediate_size", 1, kMaxIntermediate);
  config.num_shared_experts = reader.integer("n_shared_experts", 0, 64, 0);
  config.num_experts_per_token =
      reader.integer("num_experts_per_tok", 1, std::min<int64_t>(config.num_routed_experts, 64));
  config.first_dense_layers = reader.integer("first_k_dense_replace", 0, kMaxLayers, 0);
  config.moe_layer_freq = reader.integer("moe_layer_freq", 1, kMaxLayers, 1);
  if (config.num_routed_experts * config.num_layers > kMaxExpertsOfAllLayers) {
    reader.fail(make_error(
        ErrorCode::kTooLarge, "{}n_routed_experts {} in num_hidden_layers {} is over {} experts",
        kWhere, config.num_routed_experts, config.num_layers, kMaxExpertsOfAllLayers));
  }
  read_routing(reader, config);
  read_groups(reader, config);
}

// `rope_scaling` with `rope_theta` beside it (older files), or `rope_parameters` with both inside.
void read_rope(ConfigReader& reader, DeepseekConfig& config) {
  config.rope_interleaved = reader.boolean("rope_interleave", true);
  if (config.architecture == Architecture::kDeepseekV2) reader.require("rope_interleave", true);
  const double theta = reader.number("rope_theta", 1.001, 1e12, 10000.0);
  const int64_t outer_original =
      reader.integer("original_max_position_embeddings", 1, kMaxPositions, 0);
  const bool is_new = reader.has("rope_parameters");
  if (is_new && reader.has("rope_scaling")) {
    reader.fail(invalid_argument("{}both rope_parameters and rope_scaling are given", kWhere));
  }
  const std::string field = is_new ? "rope_parameters" : "rope_scaling";
  config.rope_theta = theta;
  const auto* object = reader.find(field);
  if (object == nullptr) return;

  ConfigReader scaling(*object, std::string(kWhere), field + ".");
  config.rope_theta = scaling.number("rope_theta", 1.001, 1e12, theta);
  RopeScaling& rope = config.rope;
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  scaling.require("partial_rotary_factor", 1.0);
  scaling.require("truncate", true);
  rope.factor = scaling.number("factor", 1.0, 65536.0, 1.0);
  rope.original_max_position_embeddings =
      scaling.integer("original_max_position_embeddings", 1, kMaxPositions,
                      outer_original > 0 ? outer_original : config.max_position_embeddings);
  rope.beta_fast = scaling.number("beta_fast", 1e-3, 1e6, 32.0);
  rope.beta_slow = scaling.number("beta_slow", 1e-3, 1e6, 1.0);
  rope.mscale = scaling.number("mscale", 0.0, 100.0, 0.0);
  rope.mscale_all_dim = scaling.number("mscale_all_dim", 0.0, 100.0, 0.0);
  rope.attention_factor = scaling.number("attention_factor", 0.0, 1e3, 0.0);
  if (type == "default") {
    rope = {};
  } else if (type == "linear") {
    rope = {.type = RopeScalingType::kLinear, .factor = rope.factor};
    for (const char* name : {"mscale", "mscale_all_dim", "attention_factor"}) {
      scaling.refuse(name, "only with type \"yarn\"");
    }
  } else if (type == "yarn") {
    rope.type = RopeScalingType::kYarn;
    if (!scaling.has("factor")) {
      scaling.fail(invalid_argument("{}{}.factor is missing", kWhere, field));
    }
    if (rope.mscale != 0.0 && rope.mscale != 1.0 && rope.mscale_all_dim == 0.0) {
      // transformers then ignores mscale and DeepSeek's own code does not.
      scaling.unsupported_value("mscale", rope.mscale, "only 1 without mscale_all_dim");
    }
  } else {
    scaling.unsupported_value("type", type, "only \"default\", \"linear\" and \"yarn\"");
  }
  for (const std::string& name : scaling.unread_fields()) {
    scaling.fail(unsupported("{}{} is not supported", kWhere, name));
  }
  if (!scaling.ok()) reader.fail(scaling.status().error());
}

void read_quantization(ConfigReader& reader, DeepseekConfig& config) {
  reader.refuse("compression_config", "only quantization_config of method \"fp8\"");
  const auto* object = reader.find("quantization_config");
  if (object == nullptr) return;
  ConfigReader fields(*object, std::string(kWhere), "quantization_config.");
  const auto only = [&fields](const char* name, const nlohmann::json& value) {
    const auto* found = fields.find(name);
    if (found == nullptr || *found != value) {
      fields.unsupported_value(name, found == nullptr ? nlohmann::json() : *found,
                               "only " + value.dump());
    }
  };
  only("quant_method", "fp8");
  only("weight_block_size", {kF8BlockSize, kF8BlockSize});
  fields.require("fmt", "e4m3");
  fields.require("activation_scheme", "dynamic");
  const std::string scale_format = fields.text("scale_fmt", "float");
  if (scale_format == "ue8m0") {
    config.fp8_scales_are_ue8m0 = true;
  } else if (scale_format != "float") {
    fields.unsupported_value("scale_fmt", scale_format, "only \"float\" and \"ue8m0\"");
  }
  // Which matrices stay float is read off the tensors themselves.
  fields.skip({"modules_to_not_convert", "ignored_layers", "dequantize"});
  for (const std::string& name : fields.unread_fields()) {
    fields.fail(unsupported("{}{} is not supported", kWhere, name));
  }
  config.quantization = WeightQuantization::kFp8Block128;
  if (!fields.ok()) reader.fail(fields.status().error());
}

void read_dtype(ConfigReader& reader, DeepseekConfig& config) {
  const std::string older = reader.text("torch_dtype", "bfloat16");
  const std::string name = reader.text("dtype", older);
  if (name == "float32") {
    config.dtype = DType::kF32;
  } else if (name == "float16") {
    config.dtype = DType::kF16;
  } else if (name == "bfloat16") {
    config.dtype = DType::kBF16;
  } else {
    reader.unsupported_value("dtype", name, "only bfloat16, float16 and float32");
  }
}

// Fields of related model families that change the mathematics.
void refuse_other_maths(ConfigReader& reader) {
  reader.require("hidden_act", "silu");
  for (const char* name : {"attention_bias", "mlp_bias", "lm_head_bias", "use_qk_norm",
                           "mla_use_nope", "use_sliding_window", "add_cross_attention"}) {
    reader.require(name, false);
  }
  reader.require("partial_rotary_factor", 1.0);
  for (const char* name :
       {"sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "layer_types",
        "linear_attn_config", "logit_scale", "embedding_scale", "residual_multiplier"}) {
    reader.refuse(name, "only null");
  }
  for (const char* name : {"index_topk", "index_n_heads", "index_head_dim"}) {
    reader.refuse(name, "sparse attention is not part of this server");
  }
}

void skip_harmless(ConfigReader& reader) {
  reader.skip({"_name_or_path",        "_attn_implementation_autoset",
               "attention_dropout",    "auto_map",
               "aux_loss_alpha",       "ep_size",
               "initializer_range",    "is_decoder",
               "model_type",           "name_or_path",
               "output_attentions",    "output_hidden_states",
               "output_router_logits", "pad_token_id",
               "pretraining_tp",       "return_dict",
               "router_aux_loss_coef", "seq_aux",
               "transformers_version", "use_cache"});
}

}  // namespace

Result<DeepseekConfig> DeepseekConfig::parse(const nlohmann::json& json) {
  DeepseekConfig config;
  ConfigReader reader(json, std::string(kWhere));
  RETURN_IF_ERROR(reader.status());
  read_architecture(reader, config);
  read_sizes(reader, config);
  RETURN_IF_ERROR(reader.status());  // what follows divides by and multiplies the sizes
  refuse_other_maths(reader);
  read_experts(reader, config);
  read_rope(reader, config);
  read_quantization(reader, config);
  read_dtype(reader, config);
  config.eos_token_ids = reader.token_ids("eos_token_id", config.vocab_size);
  config.bos_token_id =
      static_cast<int32_t>(reader.integer("bos_token_id", 0, config.vocab_size - 1, -1));
  skip_harmless(reader);
  RETURN_IF_ERROR(reader.status());
  config.unread_fields = reader.unread_fields();
  return config;
}

Result<DeepseekConfig> DeepseekConfig::load(const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(const auto json, read_json_file(model_dir / "config.json", kMaxConfigBytes));
  ASSIGN_OR_RETURN(DeepseekConfig config, parse(json));
  const auto generation_path = model_dir / "generation_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(generation_path, ignored)) return config;
  ASSIGN_OR_RETURN(const auto generation, read_json_file(generation_path, kMaxConfigBytes));
  ConfigReader reader(generation, "generation_config.json: ");
  std::vector<int32_t> eos = reader.token_ids("eos_token_id", config.vocab_size);
  RETURN_IF_ERROR(reader.status());
  for (const int32_t id : config.eos_token_ids) {
    if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
  }
  config.eos_token_ids = std::move(eos);
  return config;
}

Status DeepseekConfig::truncate_layers(int64_t count) {
  if (count < 0 || count > num_layers) {
    return invalid_argument("--num-layers {}: the model has {} layers", count, num_layers);
  }
  if (count > 0) num_layers = count;
  return ok_status();
}

bool DeepseekConfig::is_moe_layer(int64_t layer_idx) const {
  return num_routed_experts > 0 && layer_idx >= first_dense_layers &&
         layer_idx % moe_layer_freq == 0;
}

namespace {

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

double DeepseekConfig::softmax_scale() const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (rope.type != RopeScalingType::kYarn || rope.mscale_all_dim == 0.0) return scale;
  const double mscale = yarn_mscale(rope.factor, rope.mscale_all_dim);
  return scale * mscale * mscale;
}

double DeepseekConfig::rope_attention_factor() const {
  if (rope.type != RopeScalingType::kYarn) return 1.0;
  if (rope.attention_factor != 0.0) return rope.attention_factor;
  if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  return yarn_mscale(rope.factor, 1.0);
}

std::vector<float> DeepseekConfig::rope_inverse_frequencies() const {
  const auto dim = static_cast<double>(qk_rope_head_dim);
  // The (fractional) pair that turns `rotations` times within the original context.
  const auto pair_of = [&](double rotations) {
    return dim *
           std::log(static_cast<double>(rope.original_max_position_embeddings) /
                    (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope_theta));
  };
  double low = 0.0;
  double high = 0.0;
  if (rope.type == RopeScalingType::kYarn) {
    low = std::max(std::floor(pair_of(rope.beta_fast)), 0.0);
    high = std::min(std::ceil(pair_of(rope.beta_slow)), dim - 1.0);
    if (low == high) high += 0.001;
  }
  std::vector<float> frequencies(static_cast<size_t>(qk_rope_head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(rope_theta, -2.0 * static_cast<double>(i) / dim);
    if (rope.type == RopeScalingType::kLinear) {
      frequency /= rope.factor;
    } else if (rope.type == RopeScalingType::kYarn) {
      // Fast pairs keep their frequency, slow ones are stretched by the factor.
      const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequency *= (1.0 - stretched) + stretched / rope.factor;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

namespace {

int64_t attention_parameters(const DeepseekConfig& c) {
  const int64_t q_width = c.num_heads * c.qk_head_dim();
  const int64_t q =
      c.q_lora_rank == 0 ? c.hidden_size * q_width : c.q_lora_rank * (c.hidden_size + 1 + q_width);
  const int64_t kv = c.hidden_size * c.kv_token_dim() + c.kv_lora_rank +
                     c.kv_lora_rank * c.num_heads * (c.qk_nope_head_dim + c.v_head_dim);
  return q + kv + c.num_heads * c.v_head_dim * c.hidden_size;
}

// All layers, final norm and head, with num_experts routed experts in each MoE layer.
int64_t body_parameters(const DeepseekConfig& c, int64_t num_experts) {
  int64_t total = c.hidden_size + c.vocab_size * c.hidden_size;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    total += attention_parameters(c) + 2 * c.hidden_size;
    if (!c.is_moe_layer(layer)) {
      total += 3 * c.hidden_size * c.intermediate_size;
      continue;
    }
    const int64_t bias = c.topk_method == TopkMethod::kNoauxTc ? c.num_routed_experts : 0;
    total += c.num_routed_experts * c.hidden_size + bias;
    total +=
        3 * c.hidden_size * (num_experts * c.moe_intermediate_size + c.shared_intermediate_size());
  }
  return total;
}

}  // namespace

int64_t DeepseekConfig::num_total_parameters() const {
  const int64_t embedding = tie_word_embeddings ? 0 : vocab_size * hidden_size;
  return body_parameters(*this, num_routed_experts) + embedding;
}

int64_t DeepseekConfig::num_active_parameters() const {
  return body_parameters(*this, num_experts_per_token);
}

std::string_view architecture_name(Architecture architecture) {
  return architecture == Architecture::kDeepseekV3 ? "DeepseekV3ForCausalLM"
                                                   : "DeepseekV2ForCausalLM";
}

}  // namespace deepflight
