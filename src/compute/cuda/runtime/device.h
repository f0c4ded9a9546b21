// What this GPU is, and what to do when a CUDA call fails. Kernels read SM count, shared memory and
// L2 from here: nothing assumes one card of the Hopper family.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace deepflight {

// A failed CUDA call. The device's state is lost: whoever catches it can only report and exit.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void throw_device_error(cudaError_t error, const char* expression, const char* file,
                                     int line);

#define CUDA_CHECK(expression)                                                             \
  do {                                                                                     \
    const cudaError_t cuda_check_error = (expression);                                     \
    if (cuda_check_error != cudaSuccess)                                                   \
      ::deepflight::throw_device_error(cuda_check_error, #expression, __FILE__, __LINE__); \
  } while (0)

struct DeviceInfo {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  int64_t l2_bytes = 0;
  int64_t shared_bytes_per_block = 0;  // the most a block may ask for (opt-in)
  int64_t memory_bytes = 0;

  // Of the current device; read once per device.
  static const DeviceInfo& current();
  // Devices that this process can see; 0 also where there is no driver.
  static int count();
};

}  // namespace deepflight
