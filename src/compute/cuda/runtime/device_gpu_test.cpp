// The device's description, and the test helpers themselves.
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight {
namespace {

TEST(Device, DescribesAHopperCard) {
  const DeviceInfo& info = DeviceInfo::current();
  EXPECT_EQ(info.compute_major, 9) << info.name;
  EXPECT_GT(info.num_sms, 0);
  EXPECT_GE(info.shared_bytes_per_block, 200 << 10);
  EXPECT_GT(info.l2_bytes, 0);
}

TEST(Device, ErrorsNameTheCall) {
  try {
    CUDA_CHECK(cudaSetDevice(1 << 20));
    FAIL() << "no error";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("cudaSetDevice(1 << 20)"), std::string::npos);
  }
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
}

}  // namespace
}  // namespace deepflight
