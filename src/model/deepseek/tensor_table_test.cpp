// The table against published sizes and the golden checkpoints, and checks of foreign tensors.
#include "model/deepseek/tensor_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/files.h"
#include "model/deepseek/memory_plan.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

using testing::ElementsAre;

DeepseekConfig published(const std::string& name) {
  const auto json = read_json_file("src/model/deepseek/testdata/" + name + ".json", 1 << 20);
  return DeepseekConfig::parse(json.value()).value();
}

TEST(TensorTable, HasEveryPublishedTensor) {
  const struct {
    const char* name;
    size_t num_rows;  // MTP modules not counted
  } models[] = {{"deepseek_v3", 45395},
                {"deepseek_v2", 29102},
                {"deepseek_v2_lite", 5291},
                {"kimi_k2", 69975},
                {"moonlight", 5317}};
  for (const auto& model : models) {
    const DeepseekConfig config = published(model.name);
    const auto rows = tensor_table(config);
    std::set<std::string> names;
    size_t num_rows = 0;
    int64_t num_parameters = 0;
    for (const auto& row : rows) {
      names.insert(row.name);
      if (row.optional) continue;
      ++num_rows;
      num_parameters += row.num_elements();
      EXPECT_EQ(row.name, tensor_name(row.kind, row.layer, row.expert));
    }
    EXPECT_EQ(names.size(), rows.size());
    EXPECT_EQ(num_rows, model.num_rows) << model.name;
    EXPECT_EQ(num_parameters, config.num_total_parameters()) << model.name;
  }
}

TEST(TensorTable, NamesAsPublished) {
  EXPECT_EQ(tensor_name(TensorKind::kEmbedding), "model.embed_tokens.weight");
  EXPECT_EQ(tensor_name(TensorKind::kLmHead), "lm_head.weight");
  EXPECT_EQ(tensor_name(TensorKind::kKvAProj, 4),
            "model.layers.4.self_attn.kv_a_proj_with_mqa.weight");
  EXPECT_EQ(tensor_name(TensorKind::kExpertDown, 3, 7),
            "model.layers.3.mlp.experts.7.down_proj.weight");
  EXPECT_EQ(tensor_name(TensorKind::kRouterBias, 3),
            "model.layers.3.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(tensor_name(TensorKind::kMtpHead, 61), "model.layers.61.shared_head.head.weight");
}

TEST(TensorTable, MtpModulesComeLastAndAreOptional) {
  const DeepseekConfig config = published("deepseek_v3");
  const auto rows = tensor_table(config);
  const auto first = std::find_if(rows.begin(), rows.end(), [](auto& row) { return row.optional; });
  ASSERT_NE(first, rows.end());
  EXPECT_EQ(first->name, "model.layers.61.embed_tokens.weight");
  int64_t num_parameters = 0;
  for (auto row = first; row != rows.end(); ++row) {
    EXPECT_TRUE(row->optional);
    EXPECT_EQ(row->layer, 61);
    num_parameters += row->num_elements();
  }
  EXPECT_NEAR(static_cast<double>(num_parameters), 14e9, 0.7e9);  // "685B" with the module
  EXPECT_EQ(rows.back().name, "model.layers.61.shared_head.head.weight");
}

const char* const kGoldens[] = {
    "v3_groups",    "kimi_k2",        "moonlight",          "v2_lite",
    "v3_fp8",       "v3_tied",        "v2_group_limited",   "v3_yarn_sharded",
    "v3_no_shared", "v3_yarn_mscale", "v3_fp8_ue8m0_dense", "v3_dense_linear_rope"};

TEST(TensorTable, LoadsEveryGoldenCheckpoint) {
  for (const std::string name : kGoldens) {
    const std::string dir = "tests/golden/" + name;
    const auto config = DeepseekConfig::load(dir);
    ASSERT_TRUE(config.ok()) << config.error().message;
    const auto checkpoint = Checkpoint::open(dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto rows = tensor_table(*config);
    const auto match = match_table(*checkpoint, *config, rows);
    ASSERT_TRUE(match.ok()) << name << ": " << match.error().message;
    EXPECT_EQ(match->num_unexpected, 0) << name << ": " << match->first_unexpected;
    EXPECT_EQ(match->num_mtp_modules, 0);
    int num_fp8 = 0;
    for (const auto& row : rows) {
      if (row.optional) continue;
      const auto tensor = load_tensor(*checkpoint, row);
      ASSERT_TRUE(tensor.ok()) << name << ": " << tensor.error().message;
      num_fp8 += tensor->scale_inv ? 1 : 0;
    }
    EXPECT_EQ(num_fp8 > 0, config->quantization == WeightQuantization::kFp8Block128) << name;
    if (config->fp8_scales_are_ue8m0) {
      const auto scales =
          checkpoint->tensor(tensor_name(TensorKind::kOProj, 0) + std::string(kScaleSuffix));
      float scale;
      to_f32(scales->values.slice(0, 0, 1).slice(1, 0, 1), &scale);
      int exponent;
      EXPECT_EQ(std::frexp(scale, &exponent), 0.5f);
    }
  }
}

class ForeignTensorTest : public testing::Test {
 protected:
  ForeignTensorTest() : row_(tensor_table(published("moonlight"))[1]) {}  // input_layernorm [2048]

  std::string error(DummyTensor tensor) {
    tensor.name = row_.name;
    const auto result = load_tensor(Checkpoint::dummy({tensor}, 0), row_);
    return result.ok() ? "(accepted)" : result.error().message;
  }

  TensorRow row_;
};

TEST_F(ForeignTensorTest, ChecksTypeShapeAndScales) {
  EXPECT_EQ(error({.shape = {2048}, .dtype = DType::kF32}), "(accepted)");
  EXPECT_EQ(error({.shape = {2048}, .dtype = DType::kBF16}), "(accepted)");
  const std::string prefix =
      "tensor 'model.layers.0.input_layernorm.weight': expected float[2048], found ";
  EXPECT_EQ(error({.shape = {2047}, .dtype = DType::kBF16}), prefix + "BF16[2047]");
  EXPECT_EQ(error({.shape = {2048, 1}, .dtype = DType::kBF16}), prefix + "BF16[2048, 1]");
  EXPECT_EQ(error({.shape = {16, 128}, .dtype = DType::kF8E4M3}), prefix + "F8_E4M3[16, 128]");
  row_.shape = {16, 128};
  EXPECT_EQ(error({.shape = {16, 128}, .dtype = DType::kF8E4M3}),
            "tensor 'model.layers.0.input_layernorm.weight': expected float[16, 128], found "
            "F8_E4M3[16, 128]");
  row_.format = StorageFormat::kFp8;
  EXPECT_EQ(error({.shape = {16, 128}, .dtype = DType::kF8E4M3}), "(accepted)");
  EXPECT_EQ(error({.shape = {16, 128}, .dtype = DType::kBF16}), "(accepted)");
  EXPECT_EQ(error({.shape = {128, 16}, .dtype = DType::kBF16}),
            "tensor 'model.layers.0.input_layernorm.weight': expected float or FP8[16, 128], found "
            "BF16[128, 16]");
}

TEST(MatchTable, ListsMissingAndCountsUnexpected) {
  const DeepseekConfig config = DeepseekConfig::load("tests/golden/v3_groups").value();
  const auto rows = tensor_table(config);
  std::vector<DummyTensor> tensors;
  for (const auto& row : rows) {
    const bool is_copy = row.kind == TensorKind::kMtpEmbedding || row.kind == TensorKind::kMtpHead;
    if (!is_copy) tensors.push_back({.name = row.name, .shape = {1}});
  }
  tensors.push_back({.name = "model.layers.0.self_attn.rotary_emb.inv_freq", .shape = {1}});
  tensors.push_back({.name = "model.layers.0.self_attn.k_scale", .shape = {1}});
  auto match = match_table(Checkpoint::dummy(tensors, 0), config, rows);
  ASSERT_TRUE(match.ok()) << match.error().message;
  EXPECT_EQ(match->num_unexpected, 0);
  EXPECT_EQ(match->num_mtp_modules, 1);

  tensors.push_back({.name = "visual.proj.weight", .shape = {1}});
  const auto eh_proj = tensor_name(TensorKind::kMtpProjection, 3);
  std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == eh_proj; });
  match = match_table(Checkpoint::dummy(tensors, 0), config, rows);
  EXPECT_EQ(match->num_unexpected, 1);
  EXPECT_EQ(match->first_unexpected, "visual.proj.weight");
  EXPECT_EQ(match->num_mtp_modules, 0);

  std::erase_if(tensors, [](const auto& tensor) {
    return tensor.name == "lm_head.weight" || tensor.name == "model.norm.weight";
  });
  match = match_table(Checkpoint::dummy(tensors, 0), config, rows);
  EXPECT_EQ(match.error().message,
            "checkpoint lacks 2 of 207 tensors: model.norm.weight, lm_head.weight");
  match = match_table(Checkpoint::dummy({}, 0), config, rows);
  EXPECT_THAT(match.error().message, testing::StartsWith("checkpoint lacks 139 of 207 tensors: "));
  EXPECT_THAT(match.error().message, testing::EndsWith(".weight, ..."));
}

TEST(MemoryPlan, AddsUp) {
  const DeepseekConfig config = published("deepseek_v3");
  const MemoryPlan plan = make_memory_plan(config, tensor_table(config));
  EXPECT_EQ(plan.kv_token_bytes_bf16, 576 * 61 * 2);
  EXPECT_EQ(plan.kv_page_bytes_f32(), 576 * 61 * 4 * 64);
  EXPECT_EQ(num_kv_pages(plan.kv_page_bytes_bf16() * 10 - 1, plan.kv_page_bytes_bf16()), 9);
  int64_t num_parameters = 0;
  std::vector<std::string> groups;
  for (const auto& group : plan.weights) {
    num_parameters += group.num_parameters;
    groups.push_back(group.group);
  }
  EXPECT_THAT(groups, ElementsAre("embedding and head", "attention", "dense MLP", "router",
                                  "shared experts", "routed experts", "norms", "MTP modules"));
  EXPECT_EQ(num_parameters, plan.total.num_parameters);
  EXPECT_EQ(plan.total.f32_bytes, 4 * num_parameters);
  // The published checkpoint is 688.6e9 bytes long.
  EXPECT_NEAR(static_cast<double>(plan.total.stored_bytes), 688.6e9, 2e9);
}

}  // namespace
}  // namespace deepflight
