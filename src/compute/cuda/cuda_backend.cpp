// Memory, order and capture; see packing.cpp and ops_*.cpp for the rest.
#include "compute/cuda/cuda_backend.h"

#include <cstring>

#include "compute/cuda/impl.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {

namespace {

// Makes the device current.
Status select_device(int device) {
  const int num_devices = DeviceInfo::count();
  if (device < 0 || device >= num_devices) {
    return make_error(ErrorCode::kUnavailable, "CUDA device {}: this process can see {}", device,
                      num_devices);
  }
  CUDA_CHECK(cudaSetDevice(device));
  const DeviceInfo& info = DeviceInfo::current();
  if (info.compute_major != 9) {
    return make_error(ErrorCode::kUnavailable,
                      "CUDA device {}: {} has compute capability {}.{}; Hopper (9.0) is needed",
                      device, info.name, info.compute_major, info.compute_minor);
  }
  return ok_status();
}

}  // namespace

Result<std::unique_ptr<CudaBackend>> CudaBackend::create(const CudaBackendConfig& config) {
  RETURN_IF_ERROR(select_device(config.device));
  return std::unique_ptr<CudaBackend>(new CudaBackend(std::make_unique<Impl>(config)));
}

bool CudaBackend::can_use(int device) { return select_device(device).ok(); }

std::string CudaBackend::device_name() const { return DeviceInfo::current().name; }

int64_t CudaBackend::total_memory_bytes() const { return DeviceInfo::current().memory_bytes; }

CudaBackend::CudaBackend(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

CudaBackend::~CudaBackend() {
  // Work may still use what is about to be freed. An error here has been told before.
  cudaDeviceSynchronize();
}

Buffer CudaBackend::allocate(int64_t size_bytes) { return allocate_device(size_bytes); }

Buffer CudaBackend::allocate_staging(int64_t size_bytes) { return allocate_pinned(size_bytes); }

int64_t CudaBackend::free_memory_bytes() const { return free_device_bytes(); }

void CudaBackend::copy_in(void* device, const void* host, int64_t size_bytes) {
  if (size_bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(device, host, static_cast<size_t>(size_bytes), cudaMemcpyHostToDevice,
                             impl_->main.stream.get()));
  impl_->main.stream.synchronize();
}

void CudaBackend::copy_out(void* host, const void* device, int64_t size_bytes) {
  if (size_bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(host, device, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToHost,
                             impl_->main.stream.get()));
  impl_->main.stream.synchronize();
}

void CudaBackend::copy_in_async(void* device, const void* staging, int64_t size_bytes) {
  if (size_bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(device, staging, static_cast<size_t>(size_bytes),
                             cudaMemcpyHostToDevice, impl_->main.stream.get()));
}

void CudaBackend::copy_out_async(void* staging, const void* device, int64_t size_bytes) {
  if (size_bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(staging, device, static_cast<size_t>(size_bytes),
                             cudaMemcpyDeviceToHost, impl_->main.stream.get()));
}

void CudaBackend::Impl::copy_beside(void* to, const void* from, int64_t size_bytes,
                                    cudaMemcpyKind kind) {
  if (size_bytes == 0) return;
  CUDA_CHECK(cudaSetDevice(config.device));
  const std::lock_guard lock(copy_mutex);
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes), kind, copies.get()));
  copies.synchronize();
}

void CudaBackend::copy_in_beside(void* device, const void* staging, int64_t size_bytes) {
  impl_->copy_beside(device, staging, size_bytes, cudaMemcpyHostToDevice);
}

void CudaBackend::copy_out_beside(void* staging, const void* device, int64_t size_bytes) {
  impl_->copy_beside(staging, device, size_bytes, cudaMemcpyDeviceToHost);
}

void CudaBackend::fill_zero(void* device, int64_t size_bytes) {
  CUDA_CHECK(cudaMemsetAsync(device, 0, static_cast<size_t>(size_bytes), impl_->main.stream.get()));
}

StepGraph CudaBackend::capture(std::function<void()> step) {
  auto graph = std::make_shared<Graph>(impl_->main.stream, step);
  impl_->main.freeze();
  impl_->side.freeze();
  impl_->absorbed_query.freeze();
  impl_->mla_metadata.freeze();
  return {std::move(graph)};
}

void CudaBackend::launch(const StepGraph& graph) {
  static_cast<const Graph*>(graph.impl.get())->launch(impl_->main.stream);
}

void CudaBackend::attach_thread() { CUDA_CHECK(cudaSetDevice(impl_->config.device)); }

StepEvent CudaBackend::record() {
  auto event = impl_->events.take();
  event->record(impl_->main.stream);
  return {std::move(event)};
}

void CudaBackend::wait(const StepEvent& event) {
  if (event.impl) static_cast<const Event*>(event.impl.get())->wait();
}

void CudaBackend::synchronize() { CUDA_CHECK(cudaDeviceSynchronize()); }

void CudaBackend::begin_section(const char* section) { Timeline::set_section(section); }

}  // namespace deepflight
