// gpu_test: the op and kernel tests that need a GPU. Exit code 3 where there is none.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "compute/cuda/runtime/device.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests) && deepflight::DeviceInfo::count() == 0) {
    fmt::print(stderr, "gpu_test: no CUDA device\n");
    return 3;
  }
  return RUN_ALL_TESTS();
}
