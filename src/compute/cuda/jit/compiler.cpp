// NVRTC through dlopen. The device code includes nothing of CUDA's; of the standard library it gets
// a <cstdint> of our own.
#include "compute/cuda/jit/compiler.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <nvrtc.h>

#include "compute/cuda/jit/nvcc.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

// Instead of the standard header, of which device code takes only the names of integers.
constexpr std::string_view kCstdint = R"(#pragma once
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
)";

struct Nvrtc {
  decltype(&nvrtcVersion) version = nullptr;
  decltype(&nvrtcGetErrorString) error_string = nullptr;
  decltype(&nvrtcCreateProgram) create = nullptr;
  decltype(&nvrtcDestroyProgram) destroy = nullptr;
  decltype(&nvrtcCompileProgram) compile = nullptr;
  decltype(&nvrtcGetCUBINSize) cubin_size = nullptr;
  decltype(&nvrtcGetCUBIN) cubin = nullptr;
  decltype(&nvrtcGetProgramLogSize) log_size = nullptr;
  decltype(&nvrtcGetProgramLog) log = nullptr;
  bool found = false;
};

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Nvrtc load() {
  Nvrtc n;
  void* library = nullptr;
  for (const char* path :
       {"libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13", "libnvrtc.so"}) {
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) return n;
  n.found = find(library, "nvrtcVersion", n.version) &&
            find(library, "nvrtcGetErrorString", n.error_string) &&
            find(library, "nvrtcCreateProgram", n.create) &&
            find(library, "nvrtcDestroyProgram", n.destroy) &&
            find(library, "nvrtcCompileProgram", n.compile) &&
            find(library, "nvrtcGetCUBINSize", n.cubin_size) &&
            find(library, "nvrtcGetCUBIN", n.cubin) &&
            find(library, "nvrtcGetProgramLogSize", n.log_size) &&
            find(library, "nvrtcGetProgramLog", n.log);
  return n;
}

const Nvrtc& nvrtc() {
  static const Nvrtc loaded = load();
  return loaded;
}

class Program {
 public:
  Program(const Nvrtc& n, const JitSource& source) : n_(n) {
    std::vector<std::string> paths{"cstdint"}, texts{std::string(kCstdint)};
    for (const JitHeader& header : source.headers) {
      paths.emplace_back(header.path);
      texts.emplace_back(header.text);
    }
    std::vector<const char*> path_pointers, text_pointers;
    for (size_t i = 0; i < paths.size(); ++i) {
      path_pointers.push_back(paths[i].c_str());
      text_pointers.push_back(texts[i].c_str());
    }
    check(n_.create(&program_, source.text.c_str(), (source.name + ".cu").c_str(),
                    static_cast<int>(paths.size()), text_pointers.data(), path_pointers.data()),
          "nvrtcCreateProgram");
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { n_.destroy(&program_); }

  void check(nvrtcResult result, const char* call) const {
    if (result == NVRTC_SUCCESS) return;
    throw DeviceError(fmt::format("{}: {}", call, n_.error_string(result)));
  }
  nvrtcProgram get() const { return program_; }
  std::string log() const {
    size_t size = 0;
    if (n_.log_size(program_, &size) != NVRTC_SUCCESS || size < 2) return {};
    std::string text(size, '\0');
    if (n_.log(program_, text.data()) != NVRTC_SUCCESS) return {};
    return text.c_str();  // it may end with more than one zero
  }

 private:
  const Nvrtc& n_;
  nvrtcProgram program_ = nullptr;
};

}  // namespace

const std::vector<std::string>& jit_options() {
  static const std::vector<std::string> options = {
      "--gpu-architecture=" + std::string(kJitArchitecture),
      "--std=c++20",
      "--device-as-default-execution-space",
      "--ptxas-options=-v",
      "--ptxas-options=-O3",
  };
  return options;
}

const std::string& jit_compiler_version() {
  static const std::string version = [] {
    if (!wanted_nvcc().empty()) return nvcc_version(wanted_nvcc());
    int major = 0, minor = 0;
    if (!nvrtc().found || nvrtc().version(&major, &minor) != NVRTC_SUCCESS) return std::string();
    return fmt::format("{}.{}", major, minor);
  }();
  return version;
}

JitBinary jit_compile(const JitSource& source) {
  if (!wanted_nvcc().empty()) return nvcc_compile(wanted_nvcc(), source);
  const Nvrtc& n = nvrtc();
  if (!n.found) {
    throw DeviceError(fmt::format(
        "kernel {} is neither in the cache nor can it be compiled: libnvrtc.so.13 is not found "
        "(it comes with CUDA 13; a cache made on another machine serves as well)",
        source.name));
  }
  const Program program(n, source);
  std::vector<const char*> options;
  for (const std::string& option : jit_options()) options.push_back(option.c_str());
  const nvrtcResult result =
      n.compile(program.get(), static_cast<int>(options.size()), options.data());
  if (result != NVRTC_SUCCESS) {
    throw DeviceError(fmt::format("kernel {} does not compile: {}\n{}", source.name,
                                  n.error_string(result), program.log()));
  }
  JitBinary binary;
  size_t size = 0;
  program.check(n.cubin_size(program.get(), &size), "nvrtcGetCUBINSize");
  binary.cubin.resize(size);
  program.check(n.cubin(program.get(), binary.cubin.data()), "nvrtcGetCUBIN");
  binary.log = program.log();
  return binary;
}

}  // namespace deepflight
