// The other compiler: nvcc as a program, where DEEPFLIGHT_NVCC names one. It takes seconds a kernel
// where NVRTC takes a tenth; for comparing the two, and for what only one of them compiles well.
#pragma once

#include <string>

#include "compute/cuda/jit/compiler.h"

namespace deepflight {

// DEEPFLIGHT_NVCC, or empty.
const std::string& wanted_nvcc();

// "nvcc-13.0.48". Throws DeviceError: the program does not start or does not say.
std::string nvcc_version(const std::string& nvcc);

// Throws DeviceError: the program does not start, or its complaint.
JitBinary nvcc_compile(const std::string& nvcc, const JitSource& source);

}  // namespace deepflight
