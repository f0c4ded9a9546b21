// NVRTC, loaded when first wanted: the program starts without it, and needs no header of CUDA's.
// Or nvcc, where the environment names one (nvcc.h).
#pragma once

#include <string>
#include <vector>

#include "compute/cuda/jit/source.h"

namespace deepflight {

inline constexpr std::string_view kJitArchitecture = "sm_90a";

struct JitBinary {
  std::string cubin;
  std::string log;  // of compiler and assembler: registers, spills
};

// All options, the architecture included.
const std::vector<std::string>& jit_options();

// "13.0", or empty where there is no NVRTC; nvcc_version() where that is wanted. Part of the names
// of cached binaries.
const std::string& jit_compiler_version();

// Throws DeviceError: no compiler, or its complaint.
JitBinary jit_compile(const JitSource& source);

}  // namespace deepflight
