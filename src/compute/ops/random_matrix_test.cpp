// Dummy matrices: fixed for all versions, the deviation asked for, and any piece the same as whole.
#include "compute/ops/random_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tensor/float_formats.h"

namespace deepflight {
namespace {

constexpr RandomFill kFill{.stream = 0x123456789abcdefull, .deviation = 0.25f};

std::vector<float> values_of(const RandomFill& fill, DType dtype, int64_t rows, int64_t columns) {
  Buffer memory;
  const StoredMatrix matrix = materialize(
      {.values = TensorView(nullptr, dtype, {rows, columns}), .scale_inv = {}, .random = fill},
      &memory);
  std::vector<float> values(rows * columns);
  to_f32_matrix(matrix.values, matrix.scale_inv, values.data());
  return values;
}

TEST(RandomMatrix, HasTheDeviationAskedFor) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    const auto values = values_of(kFill, dtype, 300, 500);
    double sum = 0, squares = 0, fourths = 0;
    for (const double value : values) {
      sum += value;
      squares += value * value;
      fourths += value * value * value * value;
    }
    const auto count = static_cast<double>(values.size());
    EXPECT_NEAR(sum / count, 0.0, 0.002) << dtype_name(dtype);
    const double tolerance = dtype == DType::kF8E4M3 ? 0.02 : 0.005;  // few blocks
    EXPECT_NEAR(std::sqrt(squares / count), 0.25, tolerance) << dtype_name(dtype);
    EXPECT_NEAR(fourths * count / (squares * squares), 2.7, 10 * tolerance) << dtype_name(dtype);
  }
}

TEST(RandomMatrix, PiecesAddUp) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    const auto size = dtype_bytes(dtype);
    std::vector<uint8_t> whole(1003 * size), pieces(1003 * size);
    fill_random(kFill, dtype, 0, 1003, whole.data());
    for (int64_t begin = 0; begin < 1003; begin += 7) {
      fill_random(kFill, dtype, begin, std::min<int64_t>(7, 1003 - begin),
                  pieces.data() + begin * size);
    }
    EXPECT_EQ(pieces, whole) << dtype_name(dtype);
  }
}

TEST(RandomMatrix, Fp8FillsItsRangeAndScalesDiffer) {
  std::vector<uint8_t> codes(1 << 20);
  fill_random(kFill, DType::kF8E4M3, 0, 1 << 20, codes.data());
  float largest = 0.0f;
  for (const uint8_t code : codes) largest = std::max(largest, f8e4m3_to_f32(code));
  EXPECT_GT(largest, 380.0f);
  std::vector<float> scales(64);
  fill_random_scales(kFill, 64, scales.data());
  const auto [low, high] = std::minmax_element(scales.begin(), scales.end());
  EXPECT_GT(*high / *low, 1.3f);
  EXPECT_LT(*high / *low, 1.67f);
}

TEST(RandomMatrix, StreamsDifferAndVersionsDoNot) {
  const auto values = values_of(kFill, DType::kF32, 4, 4);
  EXPECT_NE(values_of({kFill.stream + 1, 0.25f}, DType::kF32, 4, 4), values);
  EXPECT_FLOAT_EQ(values[0], -0.280783819f);
  EXPECT_FLOAT_EQ(values_of(kFill, DType::kF8E4M3, 1, 1)[0], -0.259882097f);
}

}  // namespace
}  // namespace deepflight
