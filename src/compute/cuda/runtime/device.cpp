// Device properties, errors.
#include "compute/cuda/runtime/device.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

namespace deepflight {
namespace {

DeviceInfo read_info(int device) {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  DeviceInfo info;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.num_sms = properties.multiProcessorCount;
  info.l2_bytes = properties.l2CacheSize;
  info.shared_bytes_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

}  // namespace

void throw_device_error(cudaError_t error, const char* expression, const char* file, int line) {
  throw DeviceError(fmt::format("{}:{}: {}: {} ({})", file, line, expression,
                                cudaGetErrorString(error), cudaGetErrorName(error)));
}

const DeviceInfo& DeviceInfo::current() {
  static std::mutex mutex;
  static std::map<int, DeviceInfo> infos;
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  std::lock_guard lock(mutex);
  const auto found = infos.find(device);
  if (found != infos.end()) return found->second;
  return infos.emplace(device, read_info(device)).first->second;
}

int DeviceInfo::count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace deepflight
