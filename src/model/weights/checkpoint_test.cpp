// Single files, shards with their index, scales, and dummy weights.
#include "model/weights/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "compute/ops/random_matrix.h"
#include "model/weights/safetensors_testing.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

using testing::ElementsAre;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest()
      : dir_(std::filesystem::path(testing::TempDir()) /
             ("checkpoint_test_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(dir_);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(dir_); }

  void write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }
  void write_index(const std::string& weight_map) {
    write("model.safetensors.index.json",
          R"({"metadata":{"total_size":12},"weight_map":)" + weight_map + "}");
  }
  // "x" (F32 [1]) in the first shard, "y" (BF16 [4]) in the second.
  void write_shards() {
    write("one.safetensors",
          safetensors_file(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
    write("two.safetensors",
          safetensors_file(R"({"y":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})", 8));
  }
  std::string error() {
    const auto checkpoint = Checkpoint::open(dir_);
    if (checkpoint.ok()) return "(accepted)";
    std::string message = checkpoint.error().message;
    const size_t at = message.find(dir_.string());
    return at == std::string::npos ? message : message.substr(at + dir_.string().size());
  }

  std::filesystem::path dir_;
};

TEST_F(CheckpointTest, ReadsASingleFile) {
  write("model.safetensors",
        safetensors_file(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
  const auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->contains("x"));
  EXPECT_FALSE(checkpoint->contains("y"));
  EXPECT_EQ(checkpoint->num_bytes(), 8);
  EXPECT_EQ(checkpoint->tensor("x")->values.to_string(), "F32[2]");
  EXPECT_EQ(checkpoint->tensor("y").error().message, dir_.string() + ": no tensor 'y'");
}

TEST_F(CheckpointTest, ReadsShards) {
  write_shards();
  write_index(R"({"x":"one.safetensors","y":"two.safetensors"})");
  auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_THAT(checkpoint->names(), ElementsAre("x", "y"));
  const auto y = checkpoint->tensor("y");
  EXPECT_EQ(y->values.to_string(), "BF16[4]");
  checkpoint = invalid_argument("gone");  // the tensor keeps its file
  float values[4];
  to_f32(y->values, values);
  EXPECT_THAT(values, ElementsAre(0, 0, 0, 0));
}

TEST_F(CheckpointTest, RefusesBadIndexes) {
  write_shards();
  const std::string index = "/model.safetensors.index.json: ";
  write_index("[]");
  EXPECT_EQ(error(), index + "no weight_map object");
  write("model.safetensors.index.json", "[1]");
  EXPECT_EQ(error(), index + "no weight_map object");
  write_index(R"({"y":"one.safetensors"})");
  EXPECT_EQ(error(), index + "tensor \"y\" is not in one.safetensors");
  write_index(R"({"x":"three.safetensors"})");
  EXPECT_EQ(error(), "/three.safetensors: No such file or directory");
  write_index("{");
  EXPECT_THAT(error(), testing::StartsWith(index + "not valid JSON: "));
}

TEST_F(CheckpointTest, RefusesToLeaveTheDirectory) {
  write_shards();
  for (const char* shard :
       {R"("../one.safetensors")", R"("/etc/one.safetensors")", R"("sub/one.safetensors")",
        R"("..\\one.safetensors")", R"(".safetensors")", R"("")", R"("passwd")", "7", "null",
        R"("one.safetensors\u0000.safetensors")"}) {
    write_index(std::string(R"({"x":)") + shard + "}");
    EXPECT_EQ(error(), std::string("/model.safetensors.index.json: tensor \"x\": shard ") + shard +
                           " is not a .safetensors file name of this directory");
  }
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  EXPECT_EQ(error(), ": neither model.safetensors nor model.safetensors.index.json is there");
}

TEST_F(CheckpointTest, FindsAndChecksScales) {
  const auto file = [](const std::string& scale_shape, int scale_bytes) {
    return safetensors_file(R"({"w":{"dtype":"F8_E4M3","shape":[2,130],"data_offsets":[0,260]},)"
                            R"("w_scale_inv":{"dtype":"F32","shape":)" +
                                scale_shape + R"(,"data_offsets":[260,)" +
                                std::to_string(260 + scale_bytes) + "]}}",
                            260 + scale_bytes);
  };
  write("model.safetensors", file("[1,2]", 8));
  const auto tensor = Checkpoint::open(dir_)->tensor("w");
  ASSERT_TRUE(tensor.ok()) << tensor.error().message;
  EXPECT_EQ(tensor->scale_inv.to_string(), "F32[1, 2]");
  write("model.safetensors", file("[2,1]", 8));
  EXPECT_EQ(Checkpoint::open(dir_)->tensor("w").error().message,
            "tensor 'w_scale_inv': expected F32[1, 2] for F8_E4M3[2, 130], found F32[2, 1]");
  write("model.safetensors",
        safetensors_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                         R"("w_scale_inv":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                         8));
  EXPECT_EQ(Checkpoint::open(dir_)->tensor("w").error().message,
            "tensor 'w': F32[1] has block scales, which only F8_E4M3 matrices take");
}

std::vector<float> vector_of(const StoredTensor& tensor) {
  EXPECT_FALSE(tensor.random.has_value());
  std::vector<float> values(static_cast<size_t>(tensor.values.num_elements()));
  to_f32(tensor.values, values.data());
  return values;
}

TEST(DummyCheckpoint, DependsOnNameAndSeedAlone) {
  const DummyTensor a{"a", {6000}, DType::kF32, 0.5f};
  const DummyTensor b{"b", {6000}, DType::kF32, 0.5f};
  const auto alone = vector_of(*Checkpoint::dummy({a}, 1).tensor("a"));
  const auto both = Checkpoint::dummy({b, a}, 1);
  EXPECT_EQ(vector_of(*both.tensor("a")), alone);
  EXPECT_NE(vector_of(*both.tensor("b")), alone);
  EXPECT_NE(vector_of(*Checkpoint::dummy({a}, 2).tensor("a")), alone);
  const DummyTensor matrix{"m", {64, 96}, DType::kBF16, 0.5f};
  const auto recipe = Checkpoint::dummy({matrix, a}, 1).tensor("m")->random;
  ASSERT_TRUE(recipe.has_value());
  EXPECT_EQ(recipe->stream, Checkpoint::dummy({matrix}, 1).tensor("m")->random->stream);
  EXPECT_NE(recipe->stream, Checkpoint::dummy({matrix}, 2).tensor("m")->random->stream);
}

TEST(DummyCheckpoint, VectorsHaveTheMomentsAskedFor) {
  const auto values =
      vector_of(*Checkpoint::dummy({{"a", {90000}, DType::kBF16, 0.25f, 1.0f}}, 3).tensor("a"));
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += (value - 1.0) * (value - 1.0);
  }
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 1.0, 0.005);
  EXPECT_NEAR(std::sqrt(squares / count), 0.25, 0.005);
}

TEST(DummyCheckpoint, VectorsMayBeGiven) {
  const DummyTensor given{"a", {3}, DType::kF32, 0.5f, 0.0f, {1.0f, -2.0f, 4.0f}};
  EXPECT_THAT(vector_of(*Checkpoint::dummy({given}, 3).tensor("a")), ElementsAre(1, -2, 4));
}

TEST(DummyCheckpoint, MatricesComeAsARecipe) {
  const auto checkpoint = Checkpoint::dummy({{"w", {150, 260}, DType::kF8E4M3, 0.1f}}, 5);
  EXPECT_THAT(checkpoint.names(), ElementsAre("w", "w_scale_inv"));
  EXPECT_EQ(checkpoint.num_bytes(), 150 * 260 + 2 * 3 * 4);
  const auto tensor = checkpoint.tensor("w").value();
  EXPECT_EQ(tensor.values.to_string(), "F8_E4M3[150, 260]");
  EXPECT_FALSE(tensor.values);
  EXPECT_FALSE(tensor.scale_inv);
  Buffer memory;
  const StoredMatrix matrix =
      materialize({tensor.values, tensor.scale_inv, tensor.random}, &memory);
  const auto scales = checkpoint.tensor("w_scale_inv").value();
  EXPECT_EQ(scales.values.to_string(), matrix.scale_inv.to_string());
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(scales.values.data<float>()[i], matrix.scale_inv.data<float>()[i]);
  }
}

}  // namespace
}  // namespace deepflight
