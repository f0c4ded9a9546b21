// Element by element; the order does not matter.
#include "compute/ops/random_matrix.h"

#include "base/check.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

// Calls store(i, word) for i in [0, count) with the word of element begin + i.
template <typename Store>
void for_words(uint64_t stream, int64_t begin, int64_t count, const Store& store) {
  std::array<uint32_t, 4> words{};
  for (int64_t i = 0; i < count; ++i) {
    const auto element = static_cast<uint64_t>(begin + i);
    if (i == 0 || element % 4 == 0) words = random_words(stream, element / 4, 0);
    store(i, words[element % 4]);
  }
}

}  // namespace

void fill_random(const RandomFill& fill, DType dtype, int64_t begin, int64_t count, void* values) {
  const float step = fill.step();
  switch (dtype) {
    case DType::kF32:
      for_words(fill.stream, begin, count, [&](int64_t i, uint32_t word) {
        static_cast<float*>(values)[i] = random_value(word, step);
      });
      return;
    case DType::kBF16:
      for_words(fill.stream, begin, count, [&](int64_t i, uint32_t word) {
        static_cast<uint16_t*>(values)[i] = f32_to_bf16(random_value(word, step));
      });
      return;
    case DType::kF8E4M3:
      for_words(fill.stream, begin, count, [&](int64_t i, uint32_t word) {
        static_cast<uint8_t*>(values)[i] = f32_to_f8e4m3(random_code(word));
      });
      return;
    default:
      CHECK(false, dtype_name(dtype));
  }
}

void fill_random_scales(const RandomFill& fill, int64_t count, float* scales) {
  for (int64_t i = 0; i < count; ++i) {
    const auto group = static_cast<uint64_t>(i / 4);
    scales[i] = random_scale(random_words(fill.stream, group, 1)[i % 4], fill.step());
  }
}

StoredMatrix materialize(const StoredMatrix& matrix, Buffer* memory) {
  CHECK(matrix.random.has_value() && matrix.values.rank() == 2, matrix.values.to_string());
  const int64_t rows = matrix.values.dim(0);
  const int64_t columns = matrix.values.dim(1);
  const DType dtype = matrix.values.dtype();
  const bool is_fp8 = dtype == DType::kF8E4M3;
  const int64_t row_blocks = (rows + kF8BlockSize - 1) / kF8BlockSize;
  const int64_t column_blocks = (columns + kF8BlockSize - 1) / kF8BlockSize;
  const int64_t scale_bytes = is_fp8 ? row_blocks * column_blocks * int64_t{sizeof(float)} : 0;
  *memory = Buffer::host(scale_bytes + rows * columns * dtype_bytes(dtype));
  auto* scales = static_cast<float*>(memory->data());
  void* values = static_cast<char*>(memory->data()) + scale_bytes;
  fill_random(*matrix.random, dtype, 0, rows * columns, values);
  StoredMatrix result;
  result.values = TensorView(values, dtype, {rows, columns});
  if (is_fp8) {
    fill_random_scales(*matrix.random, row_blocks * column_blocks, scales);
    result.scale_inv = TensorView(scales, DType::kF32, {row_blocks, column_blocks});
  }
  return result;
}

}  // namespace deepflight
