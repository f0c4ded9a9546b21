// Buffers that the CPU ops reuse from call to call.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/cpu/cpu_backend.h"

namespace deepflight {

namespace cpu {

// Grows `buffer` to at least `count` elements and gives its memory; contents are not kept.
template <typename T>
T* at_least(std::vector<T>& buffer, int64_t count) {
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

}  // namespace cpu

struct CpuBackend::AttentionScratch {
  std::vector<float> queries;  // absorbed: [rows, latent + rope]; expanded: [heads][tokens][qk]
  std::vector<float> outputs;  // running, unnormalised outputs
  std::vector<float> keys;     // expanded: [pages][heads][64][qk]
  std::vector<float> values;   // expanded: [pages][heads][64][v]
  std::vector<float> maxima;   // running softmax maxima
  std::vector<float> sums;     // running softmax sums
};

struct CpuBackend::MoeScratch {
  std::vector<int32_t> offsets;  // of ExpertRows
  std::vector<int32_t> rows;
  std::vector<int32_t> positions;
  std::vector<float> outputs;    // [num_tokens * topk, hidden], in ExpertRows' order
  std::vector<float> gate_up;    // of the shared expert
  std::vector<float> activated;  // of the shared expert
};

}  // namespace deepflight
