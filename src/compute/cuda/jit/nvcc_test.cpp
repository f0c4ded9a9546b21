// nvcc in NVRTC's place: its binaries, its version, and its complaints.
#include "compute/cuda/jit/nvcc.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

const std::string kNvcc = DF_NVCC;  // that which builds this project

std::string complaint_of(const std::string& nvcc, const JitSource& source) {
  try {
    nvcc_compile(nvcc, source);
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "none";
}

TEST(Nvcc, CompilesWithHeadersInMemory) {
  EXPECT_TRUE(nvcc_version(kNvcc).starts_with("nvcc-1")) << nvcc_version(kNvcc);
  const JitHeader headers[] = {
      {"some/width.h", "#include <cstdint>\nconstexpr int32_t kWidth = 4;\n"}};
  const JitBinary binary =
      nvcc_compile(kNvcc, {"fill",
                           "#include \"some/width.h\"\n"
                           "extern \"C\" __global__ void fill(float* x) { x[kWidth] = 1; }",
                           headers});
  EXPECT_TRUE(
      binary.cubin.starts_with("\x7f"
                               "ELF"));
  EXPECT_NE(binary.log.find("registers"), std::string::npos) << binary.log;
}

TEST(Nvcc, ComplaintsNameKernelAndProgram) {
  const JitSource broken = {"broken", "extern \"C\" __global__ void broken() { nonsense; }", {}};
  const std::string complaint = complaint_of(kNvcc, broken);
  EXPECT_NE(complaint.find("kernel broken"), std::string::npos) << complaint;
  EXPECT_NE(complaint.find("nonsense"), std::string::npos) << complaint;
  EXPECT_NE(complaint_of("/no/such/nvcc", broken).find("DEEPFLIGHT_NVCC=/no/such/nvcc"),
            std::string::npos);
  EXPECT_THROW(nvcc_version("/bin/true"), DeviceError);
}

}  // namespace
}  // namespace deepflight
