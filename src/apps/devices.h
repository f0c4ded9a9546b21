// Where a model runs: the concrete backends by name, and what only they can tell. The one place of
// the program that knows which backends there are.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/profile_report.h"
#include "base/result.h"
#include "compute/ops/backend.h"

namespace deepflight {

struct DeviceOptions {
  std::string device = "auto";  // auto: cuda where there is a GPU that it can use, else cpu
  int cuda_device = 0;          // ordinal
  int num_threads = 0;          // of the CPU backend; 0: one per core
  bool autotune = false;        // GPU: measure which kernels are fastest first
  std::string fp8_gemm_backend = "auto";  // GPU: auto, or cublaslt for dense products
  bool deterministic = false;  // GPU: results that do not depend on the batch; the CPU's never do
};

struct Device {
  std::unique_ptr<Backend> backend;
  std::string name;  // "cpu", or the GPU's
  bool is_cuda = false;
  int64_t memory_bytes = 0;  // of the machine, or the GPU's own
};

// Tells a report of options that change results or times, where they are not the defaults.
void note_options(const DeviceOptions& options, nlohmann::json* report);

// Error: kInvalidArgument for a device that this build or this machine does not have.
Result<Device> open_device(const DeviceOptions& options);

// What the device's kernels did between the two calls; work must be done at the second. Error:
// kUnavailable on the CPU, or where CUPTI cannot be used.
Status start_kernel_timeline(const Device& device);
std::vector<ProfiledKernel> stop_kernel_timeline(const Device& device);

// The ceilings that floors are computed with, measured: a large copy and large matrix products.
// All zero on the CPU.
MachineRates measure_rates(const Device& device);

}  // namespace deepflight
