// Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): random
// numbers as a pure function of (seed, counter), so that a request's draws do not depend on the
// batch, and CPU and GPU draw the same. constexpr, so that device code can call it.
#pragma once

#include <array>
#include <cstdint>

namespace deepflight {

constexpr std::array<uint32_t, 4> philox4x32(uint64_t seed, std::array<uint32_t, 4> counter) {
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Uniform in [0, 1) with 53 random bits: draw number `index` of the stream `seed`.
constexpr double philox_uniform(uint64_t seed, uint32_t index) {
  const auto bits = philox4x32(seed, {index, 0, 0, 0});
  return static_cast<double>((uint64_t{bits[0]} << 21) ^ (bits[1] >> 11)) * 0x1p-53;
}

}  // namespace deepflight
