// The random matrices of --load-format dummy, as a pure function of (stream, element): each backend
// makes its own, on whatever threads, and all get the same bits. An element is the sum of the four
// bytes of one Philox word (nearly normal), brought to the wanted deviation by one rounded float
// product. constexpr and free of other headers, so that device code can call it.
#pragma once

#include <array>
#include <cstdint>

#include "compute/ops/philox.h"

namespace deepflight {

// What a matrix is filled with. Elements are counted row by row; so are its 128x128 blocks.
struct RandomFill {
  uint64_t stream = 0;  // of the seed and the tensor's name
  float deviation = 0.0f;

  // Value of one unit of random_sum: a sum's deviation is sqrt(4 * (256^2 - 1) / 12).
  constexpr float step() const { return deviation * (1.0f / 147.80054f); }
};

// Words 4 * group ... 4 * group + 3 of a stream; `kind` 0: of elements, 1: of block scales.
constexpr std::array<uint32_t, 4> random_words(uint64_t stream, uint64_t group, uint32_t kind) {
  return philox4x32(stream,
                    {static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), kind, 0});
}

// An integer of [-510, 510], symmetric around 0.
constexpr int32_t random_sum(uint32_t word) {
  return static_cast<int32_t>((word & 0xff) + ((word >> 8) & 0xff) + ((word >> 16) & 0xff) +
                              (word >> 24)) -
         510;
}

// In F32, and in BF16 after rounding.
constexpr float random_value(uint32_t word, float step) {
  return static_cast<float>(random_sum(word)) * step;
}

// In FP8: e4m3(random_code) * random_scale of its block. Codes fill e4m3's range as a quantiser's
// do; scales differ from block to block by up to a quarter, which keeps the deviation within 1%.
constexpr float random_code(uint32_t word) {
  return static_cast<float>(random_sum(word)) * 0.875f;  // up to 446.25: 448
}
constexpr float random_scale(uint32_t word, float step) {
  const float factor = 0.75f + static_cast<float>(word & 0xff) * 0x1p-9f;  // exact
  return (step * (1.0f / 0.875f)) * factor;
}

}  // namespace deepflight
