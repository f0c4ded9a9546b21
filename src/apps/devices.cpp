// Opens backends. Without DF_CUDA the CPU backend is all there is.
#include "apps/devices.h"

#include <unistd.h>

#include "compute/cpu/cpu_backend.h"
#ifdef DF_CUDA
#include "compute/cuda/ceilings.h"
#include "compute/cuda/cuda_backend.h"
#include "compute/cuda/runtime/timeline.h"
#endif

namespace deepflight {
namespace {

Device open_cpu(const DeviceOptions& options) {
  Device device;
  device.backend = std::make_unique<CpuBackend>(CpuBackendConfig{options.num_threads});
  device.name = "cpu";
  device.memory_bytes = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGE_SIZE);
  return device;
}

}  // namespace

void note_options(const DeviceOptions& options, nlohmann::json* report) {
  if (options.deterministic) (*report)["deterministic"] = true;
  if (options.fp8_gemm_backend != "auto") {
    (*report)["fp8_gemm_backend"] = options.fp8_gemm_backend;
  }
}

#ifdef DF_CUDA

namespace {

Result<Device> open_cuda(const DeviceOptions& options) {
  CudaBackendConfig config;
  config.device = options.cuda_device;
  config.autotune = options.autotune;
  config.batch_invariant = options.deterministic;
  config.cublaslt_fp8 = options.fp8_gemm_backend == "cublaslt";
  Device device;
  auto backend = CudaBackend::create(config);
  if (!backend.ok()) return invalid_argument("--device cuda: {}", backend.error().message);
  device.name = backend.value()->device_name();
  device.memory_bytes = backend.value()->total_memory_bytes();
  device.is_cuda = true;
  device.backend = std::move(backend).value();
  return device;
}

}  // namespace

Result<Device> open_device(const DeviceOptions& options) {
  if (options.device == "cpu") return open_cpu(options);
  if (options.device == "cuda" || CudaBackend::can_use(options.cuda_device)) {
    return open_cuda(options);
  }
  return open_cpu(options);
}

Status start_kernel_timeline(const Device& device) {
  if (!device.is_cuda) {
    return make_error(ErrorCode::kUnavailable, "the CPU backend keeps no timeline of kernels");
  }
  return Timeline::start();
}

std::vector<ProfiledKernel> stop_kernel_timeline(const Device&) {
  std::vector<ProfiledKernel> kernels;
  for (auto& activity : Timeline::stop()) {
    kernels.push_back({std::move(activity.range), std::move(activity.name),
                       static_cast<double>(activity.begin_ns) * 1e-3,
                       static_cast<double>(activity.end_ns) * 1e-3, activity.stream_id});
  }
  return kernels;
}

MachineRates measure_rates(const Device& device) {
  if (!device.is_cuda) return {};
  const CudaCeilings ceilings = measure_cuda_ceilings();
  return {ceilings.bytes_per_second, ceilings.bf16_flops_per_second, ceilings.fp8_flops_per_second};
}

#else

Result<Device> open_device(const DeviceOptions& options) {
  if (options.device == "cuda") {
    return invalid_argument("--device cuda: this program was built without CUDA");
  }
  return open_cpu(options);
}

Status start_kernel_timeline(const Device&) {
  return make_error(ErrorCode::kUnavailable, "the CPU backend keeps no timeline of kernels");
}

std::vector<ProfiledKernel> stop_kernel_timeline(const Device&) { return {}; }

MachineRates measure_rates(const Device&) { return {}; }

#endif

}  // namespace deepflight
