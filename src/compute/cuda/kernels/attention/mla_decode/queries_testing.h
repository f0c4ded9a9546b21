// Query rows as the e4m3 kernel wants them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/float_formats.h"

namespace deepflight::cuda_mla_decode {

// Rows of e4m3 times a power of two, by which each one's largest magnitude comes to between 224 and
// 448: value = bytes * scales[row].
struct E4m3Rows {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;

  E4m3Rows(const std::vector<float>& values, int64_t dim) {
    for (int64_t at = 0; at + dim <= std::ssize(values); at += dim) {
      float largest = 0x1p-100f;
      for (int64_t i = 0; i < dim; ++i) {
        if (std::isfinite(values[at + i])) largest = std::max(largest, std::abs(values[at + i]));
      }
      const float power = std::exp2(std::floor(std::log2(448.0f / largest)));
      scales.push_back(1 / power);
      for (int64_t i = 0; i < dim; ++i) bytes.push_back(f32_to_f8e4m3(values[at + i] * power));
    }
  }
};

}  // namespace deepflight::cuda_mla_decode
