// For tests and benches on a GPU: device arrays, reduced formats on the host, comparisons.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "compute/cuda/runtime/device.h"
#include "compute/cuda/runtime/replay_time.h"
#include "tensor/float_formats.h"

namespace deepflight::testing {

using deepflight::median_us;

// Device memory. Made without values it is all 0xff: NaN in F32, BF16 and e4m3, -1 in integers, so
// that what a kernel fails to write, or reads and should not, shows.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count) : count_(count) {
    CUDA_CHECK(cudaMalloc(&data_, size_bytes() > 0 ? size_bytes() : 1));
    CUDA_CHECK(cudaMemset(data_, 0xff, size_bytes()));
    CUDA_CHECK(cudaDeviceSynchronize());  // the runtime's streams do not wait for the default one
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    CUDA_CHECK(cudaMemcpy(data_, values.data(), size_bytes(), cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaDeviceSynchronize());
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  int64_t size() const { return count_; }
  int64_t size_bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  // Waits for all work, then copies.
  std::vector<T> host() const {
    std::vector<T> values(count_);
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(values.data(), data_, size_bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  void* data_ = nullptr;
  int64_t count_;
};

inline std::vector<float> random_normal(int64_t count, float deviation, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

// How many copies of `bytes` launches take turns on so that none finds its own in the L2; one for
// each of `num_launches` suffice.
inline int64_t copies_past_l2(int64_t bytes, int64_t num_launches = INT64_MAX) {
  const int64_t wanted = 4 * DeviceInfo::current().l2_bytes / std::max<int64_t>(bytes, 1) + 1;
  return std::min(wanted, num_launches);
}

// BF16 bits of float values, and back.
inline std::vector<uint16_t> to_bf16(std::span<const float> values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = f32_to_bf16(values[i]);
  return bits;
}
inline std::vector<float> from_bf16(std::span<const uint16_t> bits) {
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = bf16_to_f32(bits[i]);
  return values;
}
// e4m3 bits, one scale of 1.
inline std::vector<uint8_t> to_f8(std::span<const float> values) {
  std::vector<uint8_t> bits(values.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = f32_to_f8e4m3(values[i]);
  return bits;
}
inline std::vector<float> from_f8(std::span<const uint8_t> bits) {
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = f8e4m3_to_f32(bits[i]);
  return values;
}

// |got - want| / |want| over all elements (Euclidean); NaN or infinity anywhere gives infinity.
inline double relative_error(std::span<const float> got, std::span<const double> want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  if (got.size() != want.size()) return INFINITY;
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

}  // namespace deepflight::testing
