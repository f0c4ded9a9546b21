// Rows quantised to e4m3 in 1x128 blocks, as the FP8 products take them. Value (row, k) stands for
// values[row * value_stride + k] * scales[(k / 128) * scale_stride + row]: the scales lie by block
// of k, so that one copy fetches a tile's scales. A block of zeros has scale 0. Plain data.
#pragma once

#include <cstdint>

namespace deepflight {

struct Fp8Rows {
  uint8_t* values = nullptr;
  int64_t value_stride = 0;  // elements; a multiple of 16, at least the number of columns
  float* scales = nullptr;
  // Elements; a multiple of 4, at least the number of rows. Where it leaves room for kScalesBeyond
  // behind the last row they are memory, in the last block too.
  int64_t scale_stride = 0;

  // Rows past the last whose values are memory too, whatever stands there: products copy whole
  // tiles of rows, since those that the copy engine fills in take it longer than those that it
  // reads.
  static constexpr int64_t kRowsBeyond = 127;
  // The same of scales, in each block: a small tile's take up to a seventh of a product's time
  // where some are filled in, and more where several blocks' lie in one cache line.
  static constexpr int64_t kScalesBeyond = 31;

  static constexpr int64_t value_stride_of(int64_t columns) { return (columns + 15) / 16 * 16; }
  static constexpr int64_t scale_stride_of(int64_t rows) {
    return (rows + kScalesBeyond + 31) / 32 * 32;
  }
  static constexpr int64_t num_scale_blocks(int64_t columns) { return (columns + 127) / 128; }
};

}  // namespace deepflight
