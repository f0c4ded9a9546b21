// A table survives its text, and only the right one.
#include "compute/cuda/kernels/gemm/tuned.h"

#include <gtest/gtest.h>

namespace deepflight::gemm_fp8 {
namespace {

const TunedFor kHere{"NVIDIA H200", 13000, "abc"};

TEST(TunedTable, KeepsEveryCandidate) {
  TunedTable table;
  const Shape shapes[] = {{64, 2112, 7168, 0, false},
                          {512, 4096, 7168, 256, false},
                          {4096, 7168, 2048, 0, true},
                          {4096, 4096, 7168, 32, false, true}};
  for (const Shape& shape : shapes) {
    for (const Config& config : candidates(shape)) {
      table.set(shape, config, 1.5);
      const auto read = TunedTable::parse(table.text(kHere), kHere, "file");
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_EQ(read.value().find(shape), config) << to_string(config);
    }
  }
}

TEST(TunedTable, RoundsRows) {
  TunedTable table;
  const Shape shape{65, 2112, 7168};
  const Config config = choose(shape, {});
  EXPECT_TRUE(table.empty());
  table.set(shape, config, 1);
  EXPECT_EQ(table.find({80, 2112, 7168}), config);
  EXPECT_EQ(table.find({64, 2112, 7168}), std::nullopt);
  EXPECT_EQ(table.find({65, 2112, 7168, 2}), std::nullopt);
  EXPECT_EQ(table.find({65, 2112, 7168, 0, true}), std::nullopt);
  EXPECT_EQ(table.find({65, 2112, 7168, 0, false, true}), std::nullopt);
}

TEST(TunedTable, RefusesWhatIsNotForThisMachine) {
  TunedTable table;
  table.set({64, 2112, 7168}, choose({64, 2112, 7168}, {}), 1);
  const std::string text = table.text(kHere);
  for (const TunedFor& other :
       {TunedFor{"NVIDIA H100", 13000, "abc"}, TunedFor{"NVIDIA H200", 12080, "abc"},
        TunedFor{"NVIDIA H200", 13000, "abd"}}) {
    const auto read = TunedTable::parse(text, other, "the file");
    ASSERT_FALSE(read.ok());
    EXPECT_TRUE(read.error().message.starts_with("the file: ")) << read.error().message;
  }
}

TEST(TunedTable, RefusesBrokenText) {
  const std::string head = R"({"gpu": "NVIDIA H200", "driver": 13000, "kernels": "abc")";
  for (
      const std::string& text :
      {std::string(), std::string("[]"), std::string("{"), head + "}", head + R"(, "shapes": 3})",
       head + R"(, "shapes": [{"m": 1}]})",
       head +
           R"(, "shapes": [{"m": -1, "n": 8, "k": 8, "groups": 0, "out_f32": false, "swiglu": false,
                               "config": "x", "us": 1}]})",
       head +
           R"(, "shapes": [{"m": "1", "n": 8, "k": 8, "groups": 0, "out_f32": false, "swiglu": false,
                               "config": "x", "us": 1}]})"}) {
    EXPECT_FALSE(TunedTable::parse(text, kHere, "file").ok()) << text;
  }
  const auto read = TunedTable::parse(
      head +
          R"(, "shapes": [{"m": 64, "n": 2112, "k": 7168, "groups": 0, "out_f32": false, "swiglu": false,
                             "config": "of_an_older_version", "us": 1}]})",
      kHere, "file");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_TRUE(read.value().empty());
}

}  // namespace
}  // namespace deepflight::gemm_fp8
