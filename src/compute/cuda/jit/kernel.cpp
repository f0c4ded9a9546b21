// Kernels of this process by key, and their launch. Compiling holds only its own kernel's lock.
#include "compute/cuda/jit/kernel.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "compute/cuda/jit/cache.h"
#include "compute/cuda/jit/compiler.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

// Of one key. Its mutex is held while it is compiled, so that others compile meanwhile.
struct Entry {
  std::mutex mutex;
  std::string cubin;  // from is_jit_stored() to jit_kernel(), or where the disk does not take it
  cudaKernel_t kernel = nullptr;
};

Entry& entry_of(const std::string& key) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Entry>> entries;
  std::lock_guard lock(mutex);
  std::unique_ptr<Entry>& entry = entries[key];
  if (entry == nullptr) entry = std::make_unique<Entry>();
  return *entry;
}

// NOTE: a library is never unloaded: captured graphs hold its kernels until the process ends.
cudaError_t load_kernel(const std::string& cubin, const std::string& name, cudaKernel_t& kernel) {
  cudaLibrary_t library = nullptr;
  const cudaError_t error =
      cudaLibraryLoadData(&library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error != cudaSuccess) return error;
  return cudaLibraryGetKernel(&kernel, library, name.c_str());
}

std::string compile_and_store(const JitSource& source, const std::string& key, Entry& entry) {
  std::string cubin = jit_compile(source).cubin;
  if (!JitCache::of_environment().store(key, jit_compiler_version(), cubin)) entry.cubin = cubin;
  return cubin;
}

std::optional<std::string> stored(const std::string& key, const Entry& entry) {
  if (!entry.cubin.empty()) return entry.cubin;
  return JitCache::of_environment().load(key, jit_compiler_version());
}

}  // namespace

std::string jit_cubin(const JitSource& source) {
  const std::string key = JitCache::key(source);
  Entry& entry = entry_of(key);
  std::lock_guard lock(entry.mutex);
  if (auto cubin = stored(key, entry)) return *cubin;
  return compile_and_store(source, key, entry);
}

bool is_jit_stored(const JitSource& source) {
  const std::string key = JitCache::key(source);
  Entry& entry = entry_of(key);
  std::lock_guard lock(entry.mutex);
  if (entry.kernel != nullptr) return true;
  auto cubin = stored(key, entry);
  if (cubin) entry.cubin = std::move(*cubin);
  return cubin.has_value();
}

cudaKernel_t jit_kernel(const JitSource& source) {
  const std::string key = JitCache::key(source);
  Entry& entry = entry_of(key);
  std::lock_guard lock(entry.mutex);
  if (entry.kernel != nullptr) return entry.kernel;
  cudaKernel_t kernel = nullptr;
  const auto cubin = stored(key, entry);
  if (!cubin || load_kernel(*cubin, source.name, kernel) != cudaSuccess) {
    CUDA_CHECK(load_kernel(compile_and_store(source, key, entry), source.name, kernel));
  }
  entry.cubin.clear();
  entry.kernel = kernel;
  return kernel;
}

void allow_shared_memory(cudaKernel_t kernel, int bytes) {
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaKernelSetAttributeForDevice(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             bytes, device));
}

void launch_jit(cudaKernel_t kernel, const JitLaunch& launch, void* params) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(launch.cluster);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = launch.cluster > 1 ? 2 : 1;
  void* args[] = {params};
  CUDA_CHECK(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), args));
}

}  // namespace deepflight
