// Published configs are understood, and what is not supported is refused by name and value.
#include "model/deepseek/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/files.h"

namespace deepflight {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::FloatEq;

json published(const std::string& name) {
  return read_json_file("src/model/deepseek/testdata/" + name + ".json", 1 << 20).value();
}

DeepseekConfig parsed(const std::string& name) {
  return DeepseekConfig::parse(published(name)).value();
}

struct PublishedSizes {
  const char* name;
  int64_t total;
  int64_t active;
  double published_total_billions;
  double published_active_billions;
};

TEST(DeepseekConfig, CountsParametersAsPublished) {
  // Exact counts come from the shapes of the published tensors (tools/golden/make_golden.py).
  const PublishedSizes rows[] = {
      {"deepseek_v3", 671026419200, 36625618432, 671, 37},
      {"deepseek_v2", 235741434880, 20851512320, 236, 21},
      {"deepseek_v2_lite", 15706484224, 2451435008, 15.7, 2.4},
      {"kimi_k2", 1026408232448, 31687095808, 1030, 32},
      {"moonlight", 15960110208, 2579231872, 16, 3},
  };
  for (const auto& row : rows) {
    const DeepseekConfig config = parsed(row.name);
    EXPECT_EQ(config.num_total_parameters(), row.total) << row.name;
    EXPECT_EQ(config.num_active_parameters(), row.active) << row.name;
    EXPECT_NEAR(static_cast<double>(row.total) / 1e9, row.published_total_billions,
                0.01 * row.published_total_billions);
    EXPECT_NEAR(static_cast<double>(row.active) / 1e9, row.published_active_billions,
                0.03 * row.published_active_billions + 0.4);
    EXPECT_THAT(config.unread_fields, testing::IsEmpty());
  }
}

TEST(DeepseekConfig, ShapesAreThePublishedModels) {
  const std::pair<const char*, const char*> rows[] = {{"deepseek-r1", "deepseek_v3"},
                                                      {"deepseek-v2-lite", "deepseek_v2_lite"},
                                                      {"kimi-k2", "kimi_k2"},
                                                      {"moonlight-16b", "moonlight"}};
  for (const auto& [shape, name] : rows) {
    const auto path = std::filesystem::path("models/shapes") / shape / "config.json";
    EXPECT_EQ(read_json_file(path, 1 << 20).value(), published(name)) << shape;
  }
}

TEST(DeepseekConfig, TruncatesLayers) {
  DeepseekConfig config = parsed("deepseek_v3");
  EXPECT_TRUE(config.truncate_layers(0).ok());
  EXPECT_EQ(config.num_layers, 61);
  EXPECT_TRUE(config.truncate_layers(9).ok());
  EXPECT_EQ(config.num_layers, 9);
  EXPECT_FALSE(config.is_moe_layer(2));
  EXPECT_TRUE(config.is_moe_layer(3));
  EXPECT_EQ(config.truncate_layers(10).error().message, "--num-layers 10: the model has 9 layers");
}

TEST(DeepseekConfig, ReadsDeepseekV3) {
  const DeepseekConfig config = parsed("deepseek_v3");
  EXPECT_EQ(config.architecture, Architecture::kDeepseekV3);
  EXPECT_EQ(config.q_lora_rank, 1536);
  EXPECT_EQ(config.qk_head_dim(), 192);
  EXPECT_EQ(config.kv_token_dim(), 576);
  EXPECT_EQ(config.num_expert_groups, 8);
  EXPECT_EQ(config.topk_groups, 4);
  EXPECT_EQ(config.topk_method, TopkMethod::kNoauxTc);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.num_nextn_predict_layers, 1);
  EXPECT_EQ(config.quantization, WeightQuantization::kFp8Block128);
  EXPECT_FALSE(config.fp8_scales_are_ue8m0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(1));
  EXPECT_FALSE(config.is_moe_layer(2));
  EXPECT_TRUE(config.is_moe_layer(3));
  EXPECT_TRUE(config.is_moe_layer(61));  // the MTP module's
  const double mscale = 0.1 * std::log(40.0) + 1.0;
  EXPECT_DOUBLE_EQ(config.softmax_scale(), mscale * mscale / std::sqrt(192.0));
  EXPECT_DOUBLE_EQ(config.rope_attention_factor(), 1.0);
}

TEST(DeepseekConfig, ReadsTheOthers) {
  const DeepseekConfig lite = parsed("deepseek_v2_lite");
  EXPECT_EQ(lite.architecture, Architecture::kDeepseekV2);
  EXPECT_EQ(lite.q_lora_rank, 0);
  EXPECT_EQ(lite.scoring, ScoringFunc::kSoftmax);
  EXPECT_EQ(lite.topk_method, TopkMethod::kGreedy);
  EXPECT_EQ(lite.shared_intermediate_size(), 2816);
  EXPECT_EQ(lite.quantization, WeightQuantization::kNone);
  EXPECT_EQ(parsed("deepseek_v2").topk_method, TopkMethod::kGroupLimitedGreedy);
  EXPECT_EQ(parsed("kimi_k2").num_expert_groups, 1);
  const DeepseekConfig moonlight = parsed("moonlight");
  EXPECT_EQ(moonlight.rope.type, RopeScalingType::kNone);
  EXPECT_FLOAT_EQ(moonlight.rms_norm_eps, 1e-5f);
  EXPECT_FLOAT_EQ(moonlight.latent_norm_eps, 1e-6f);
}

TEST(DeepseekConfig, AcceptsTheNewerRopeLayout) {
  json older = published("deepseek_v3");
  json newer = older;
  newer["rope_parameters"] = newer["rope_scaling"];
  newer["rope_parameters"]["rope_type"] = "yarn";
  newer["rope_parameters"]["rope_theta"] = 10000.0;
  newer["rope_parameters"].erase("type");
  newer.erase("rope_scaling");
  newer.erase("rope_theta");
  newer["head_dim"] = 64;
  newer["qk_head_dim"] = 192;
  newer["dtype"] = "float32";
  newer.erase("torch_dtype");
  const auto config = DeepseekConfig::parse(newer);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->rope_inverse_frequencies(),
            DeepseekConfig::parse(older)->rope_inverse_frequencies());
  EXPECT_EQ(config->dtype, DType::kF32);
}

TEST(DeepseekConfig, RopeFrequencies) {
  json config = published("moonlight");
  config["qk_rope_head_dim"] = 4;
  config["rope_theta"] = 10000.0;
  EXPECT_THAT(DeepseekConfig::parse(config)->rope_inverse_frequencies(), ElementsAre(1.0f, 0.01f));
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_THAT(DeepseekConfig::parse(config)->rope_inverse_frequencies(),
              ElementsAre(0.25f, 0.0025f));
  config["rope_scaling"] = {{"type", "yarn"},
                            {"factor", 40.0},
                            {"mscale", 1.0},
                            {"mscale_all_dim", 0.5},
                            {"original_max_position_embeddings", 64}};
  const auto yarn = DeepseekConfig::parse(config);
  // Pair 0 turns faster than beta_slow within 64 positions and is kept, pair 1 is stretched.
  EXPECT_THAT(yarn->rope_inverse_frequencies(), ElementsAre(1.0f, FloatEq(0.01f / 40.0f)));
  EXPECT_DOUBLE_EQ(yarn->rope_attention_factor(),
                   (0.1 * std::log(40.0) + 1.0) / (0.05 * std::log(40.0) + 1.0));
  config["rope_scaling"].erase("mscale_all_dim");
  EXPECT_DOUBLE_EQ(DeepseekConfig::parse(config)->rope_attention_factor(),
                   0.1 * std::log(40.0) + 1.0);
  EXPECT_DOUBLE_EQ(DeepseekConfig::parse(config)->softmax_scale(), 1.0 / std::sqrt(132.0));
}

TEST(DeepseekConfig, DenseModelNeedsNoExpertFields) {
  json config = published("moonlight");
  for (const char* name : {"n_routed_experts", "moe_intermediate_size", "num_experts_per_tok",
                           "n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"}) {
    config[name] = nullptr;
  }
  const auto dense = DeepseekConfig::parse(config);
  ASSERT_TRUE(dense.ok()) << dense.error().message;
  EXPECT_FALSE(dense->is_moe_layer(5));
  EXPECT_EQ(dense->num_active_parameters() + dense->vocab_size * dense->hidden_size,
            dense->num_total_parameters());
}

TEST(DeepseekConfig, ListsFieldsThatItDoesNotRead) {
  json config = published("moonlight");
  config["my_note"] = "x";
  config["my_null"] = nullptr;
  EXPECT_THAT(DeepseekConfig::parse(config)->unread_fields, ElementsAre("my_note"));
}

struct Refusal {
  const char* pointer;  // JSON pointer into DeepSeek-V3's config
  json value;
  const char* error;
};

const char* const kErase = "(erase)";

// What is not supported, and what makes no sense.
const Refusal kV3Refusals[] = {
    {"/architectures",
     {"LlamaForCausalLM"},
     "architectures \"LlamaForCausalLM\" is not supported, only DeepseekV3ForCausalLM and "
     "DeepseekV2ForCausalLM"},
    {"/architectures", json::array(), "architectures does not name one architecture"},
    {"/architectures", kErase, "architectures does not name one architecture"},
    {"/attention_bias", true, "attention_bias true is not supported, only false"},
    {"/mlp_bias", true, "mlp_bias true is not supported, only false"},
    {"/hidden_act", "gelu", "hidden_act \"gelu\" is not supported, only \"silu\""},
    {"/use_qk_norm", true, "use_qk_norm true is not supported, only false"},
    {"/sliding_window", 4096, "sliding_window 4096 is not supported, only null"},
    {"/partial_rotary_factor", 0.5, "partial_rotary_factor 0.5 is not supported, only 1.0"},
    {"/index_topk", 2048,
     "index_topk 2048 is not supported, sparse attention is not part of this server"},
    {"/num_key_value_heads", 8,
     "num_key_value_heads 8 is not supported, only num_attention_heads (128)"},
    {"/head_dim", 56, "head_dim 56 is not supported, only 64"},
    {"/scoring_func", "softmax",
     "scoring_func \"softmax\" is not supported, only \"sigmoid\" for DeepseekV3ForCausalLM"},
    {"/topk_method", "greedy",
     "topk_method \"greedy\" is not supported, only \"noaux_tc\" for DeepseekV3ForCausalLM"},
    {"/dtype", "int8", "dtype \"int8\" is not supported, only bfloat16, float16 and float32"},
    {"/compression_config", json::object(),
     "compression_config {} is not supported, only quantization_config of method \"fp8\""},
    {"/quantization_config/quant_method", "awq",
     "quantization_config.quant_method \"awq\" is not supported, only \"fp8\""},
    {"/quantization_config/quant_method", kErase,
     "quantization_config.quant_method null is not supported, only \"fp8\""},
    {"/quantization_config/weight_block_size",
     {64, 64},
     "quantization_config.weight_block_size [64,64] is not supported, only [128,128]"},
    {"/quantization_config/fmt", "e5m2",
     "quantization_config.fmt \"e5m2\" is not supported, only \"e4m3\""},
    {"/quantization_config/activation_scheme", "static",
     "quantization_config.activation_scheme \"static\" is not supported, only \"dynamic\""},
    {"/quantization_config/scale_fmt", "e5m3",
     "quantization_config.scale_fmt \"e5m3\" is not supported, only \"float\" and \"ue8m0\""},
    {"/quantization_config/kv_cache_scheme", "fp8",
     "quantization_config.kv_cache_scheme is not supported"},
    {"/quantization_config", 7, "quantization_config is not an object"},
    {"/rope_scaling/type", "longrope",
     "rope_scaling.type \"longrope\" is not supported, only \"default\", \"linear\" and \"yarn\""},
    {"/rope_scaling/type", "dynamic",
     "rope_scaling.type \"dynamic\" is not supported, only \"default\", \"linear\" and \"yarn\""},
    {"/rope_scaling/type", "linear",
     "rope_scaling.mscale 1.0 is not supported, only with type \"yarn\""},
    {"/rope_scaling/truncate", false, "rope_scaling.truncate false is not supported, only true"},
    {"/rope_scaling/short_factor", json::array(), "rope_scaling.short_factor is not supported"},
    {"/rope_scaling/factor", kErase, "rope_scaling.factor is missing"},
    {"/rope_scaling/factor", 0.5, "rope_scaling.factor is 0.5, not between 1 and 65536"},
    {"/rope_scaling/factor", "40", "rope_scaling.factor is \"40\", not a number"},
    {"/rope_scaling", json::array(), "rope_scaling is not an object"},
    {"/rope_parameters", json::object(), "both rope_parameters and rope_scaling are given"},
    {"/rope_theta", 1, "rope_theta is 1, not between 1.001 and 1000000000000"},
    {"/hidden_size", 0, "hidden_size is 0, not between 1 and 65536"},
    {"/hidden_size", -5, "hidden_size is -5, not between 1 and 65536"},
    {"/hidden_size", 1e300, "hidden_size is 1e+300, not an integer"},
    {"/hidden_size", 18446744073709551615u,
     "hidden_size is 18446744073709551615, not between 1 and 65536"},
    {"/hidden_size", "7168", "hidden_size is \"7168\", not an integer"},
    {"/hidden_size", nullptr, "hidden_size is missing"},
    {"/hidden_size", kErase, "hidden_size is missing"},
    {"/vocab_size", 1, "vocab_size is 1, not between 2 and 4194304"},
    {"/num_hidden_layers", 5000, "num_hidden_layers is 5000, not between 1 and 1024"},
    {"/kv_lora_rank", kErase, "kv_lora_rank is missing"},
    {"/qk_rope_head_dim", 63, "qk_rope_head_dim 63 is odd"},
    {"/intermediate_size", true, "intermediate_size is true, not an integer"},
    {"/moe_intermediate_size", kErase, "moe_intermediate_size is missing"},
    {"/rms_norm_eps", 2.0, "rms_norm_eps is 2.0, not between 0 and 1"},
    {"/norm_topk_prob", 1, "norm_topk_prob is 1, not true or false"},
    {"/tie_word_embeddings", "no", "tie_word_embeddings is \"no\", not true or false"},
    {"/n_group", 7, "n_routed_experts 256 is no multiple of n_group 7"},
    {"/n_group", 256, "n_group 256 leaves groups of one expert, noaux_tc needs two"},
    {"/topk_group", 9, "topk_group 9 is more than n_group 8"},
    {"/n_group", 128, "num_experts_per_tok 9 is more than the 8 experts of 4 groups"},
    {"/num_experts_per_tok", 65, "num_experts_per_tok is 65, not between 1 and 64"},
    {"/moe_layer_freq", 0, "moe_layer_freq is 0, not between 1 and 1024"},
    {"/num_nextn_predict_layers", 17, "num_nextn_predict_layers is 17, not between 0 and 16"},
    {"/eos_token_id", 129280, "eos_token_id is 129280, not between 0 and 129279"},
    {"/eos_token_id", {1, -1}, "eos_token_id is -1, not between 0 and 129279"},
    {"/eos_token_id", "1", "eos_token_id is \"1\", not a token id"},
    {"/bos_token_id", 129280, "bos_token_id is 129280, not between 0 and 129279"},
};

void change(json& config, const Refusal& refusal) {
  const json::json_pointer pointer(refusal.pointer);
  if (refusal.value == kErase) {
    config.at(pointer.parent_pointer()).erase(pointer.back());
  } else {
    config[pointer] = refusal.value;
  }
}

TEST(DeepseekConfig, RefusesByName) {
  for (const auto& refusal : kV3Refusals) {
    json config = published("deepseek_v3");
    change(config, refusal);
    if (std::string(refusal.error).find("num_experts_per_tok 9") == 0) {
      config["num_experts_per_tok"] = 9;
    }
    const auto result = DeepseekConfig::parse(config);
    ASSERT_FALSE(result.ok()) << refusal.error;
    EXPECT_EQ(result.error().message, "config.json: " + std::string(refusal.error));
  }
}

TEST(DeepseekConfig, RefusesWhatV2DoesNotDo) {
  const Refusal refusals[] = {
      {"/norm_topk_prob", true,
       "norm_topk_prob true is not supported, only false for DeepseekV2ForCausalLM"},
      {"/scoring_func", "sigmoid",
       "scoring_func \"sigmoid\" is not supported, only \"softmax\" for DeepseekV2ForCausalLM"},
      {"/topk_method", "noaux_tc",
       "topk_method \"noaux_tc\" is not supported, only \"greedy\" and \"group_limited_greedy\" "
       "for DeepseekV2ForCausalLM"},
      {"/rope_interleave", false, "rope_interleave false is not supported, only true"},
      {"/rope_scaling/mscale_all_dim", 0,
       "rope_scaling.mscale 0.707 is not supported, only 1 without mscale_all_dim"},
  };
  for (const auto& refusal : refusals) {
    json config = published("deepseek_v2");
    change(config, refusal);
    const auto result = DeepseekConfig::parse(config);
    ASSERT_FALSE(result.ok()) << refusal.error;
    EXPECT_EQ(result.error().message, "config.json: " + std::string(refusal.error));
  }
}

TEST(DeepseekConfig, BoundsTheTensorTable) {
  json config = published("deepseek_v3");
  config["n_routed_experts"] = 4096;
  config["num_hidden_layers"] = 1024;
  const auto result = DeepseekConfig::parse(config);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message,
            "config.json: n_routed_experts 4096 in num_hidden_layers 1024 is over 262144 experts");
}

TEST(DeepseekConfig, RefusesWhatIsNoObject) {
  EXPECT_EQ(DeepseekConfig::parse(json::array()).error().message, "config.json: not a JSON object");
}

TEST(DeepseekConfig, LoadsGenerationConfigFirst) {
  const auto dir =
      std::filesystem::path(testing::TempDir()) / ("config_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "config.json") << published("kimi_k2");
  EXPECT_THAT(DeepseekConfig::load(dir)->eos_token_ids, ElementsAre(163585));
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": [163586, 163585]})";
  EXPECT_THAT(DeepseekConfig::load(dir)->eos_token_ids, ElementsAre(163586, 163585));
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": 163586})";
  EXPECT_THAT(DeepseekConfig::load(dir)->eos_token_ids, ElementsAre(163586, 163585));
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": 1000000})";
  EXPECT_EQ(DeepseekConfig::load(dir).error().message,
            "generation_config.json: eos_token_id is 1000000, not between 0 and 163839");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace deepflight
