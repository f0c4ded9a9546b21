#include "model/deepseek/kv_scales.h"

#include <gtest/gtest.h>

#include <limits>

namespace deepflight {
namespace {

DummyTensor scale(const std::string& path, float value, std::vector<int64_t> shape = {1}) {
  return {.name = "model.layers." + path,
          .shape = std::move(shape),
          .dtype = DType::kF32,
          .values = {value}};
}

TEST(KvScales, OfEachLayerUnderAnyName) {
  const Checkpoint checkpoint = Checkpoint::dummy(
      {scale("0.self_attn.k_scale", 0.25f), scale("0.self_attn.v_scale", 7.0f),
       scale("1.self_attn.attn.k_scale", 0.5f), scale("2.self_attn.k_proj.k_scale", 2.0f),
       scale("3.self_attn.kv_a_proj_with_mqa.k_scale", 3.0f), scale("4.self_attn.kv_scale", 4.0f),
       scale("6.self_attn.k_scale", 6.0f)},
      0);
  const auto scales = load_kv_scales(checkpoint, 6);
  ASSERT_TRUE(scales.ok()) << scales.error().message;
  EXPECT_EQ(*scales, (std::vector<float>{0.25f, 0.5f, 2.0f, 3.0f, 4.0f, 1.0f}));
}

TEST(KvScales, NoneAtAll) {
  const auto scales = load_kv_scales(Checkpoint::dummy({scale("0.self_attn.v_scale", 1.0f)}, 0), 2);
  ASSERT_TRUE(scales.ok());
  EXPECT_TRUE(scales->empty());
}

TEST(KvScales, RefusesWhatIsNoScale) {
  for (const float value : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    const auto scales =
        load_kv_scales(Checkpoint::dummy({scale("1.self_attn.k_scale", value)}, 0), 2);
    ASSERT_FALSE(scales.ok()) << value;
    EXPECT_NE(scales.error().message.find("tensor 'model.layers.1.self_attn.k_scale': a KV scale"),
              std::string::npos)
        << scales.error().message;
  }
  DummyTensor two = scale("0.self_attn.k_scale", 1.0f, {2});
  two.values = {1.0f, 2.0f};
  const auto scales = load_kv_scales(Checkpoint::dummy({two}, 0), 1);
  ASSERT_FALSE(scales.ok());
  EXPECT_EQ(scales.error().message,
            "tensor 'model.layers.0.self_attn.k_scale': expected one number (F32, BF16 or F16), "
            "found F32[2]");
}

TEST(KvScales, Names) {
  EXPECT_TRUE(is_kv_scale("model.layers.3.self_attn.k_scale"));
  EXPECT_TRUE(is_kv_scale("model.layers.3.self_attn.v_proj.v_scale"));
  EXPECT_TRUE(is_kv_scale("model.layers.3.self_attn.kv_scale"));
  EXPECT_FALSE(is_kv_scale("model.layers.3.self_attn.o_proj.weight_scale"));
  EXPECT_FALSE(is_kv_scale("visual.k_scale"));
}

}  // namespace
}  // namespace deepflight
