// gpu_bench: the kernels' timings, written as GoogleTest cases that check first and print a table.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "compute/cuda/runtime/device.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests) && deepflight::DeviceInfo::count() == 0) {
    fmt::print(stderr, "gpu_bench: no CUDA device\n");
    return 3;
  }
  return RUN_ALL_TESTS();
}
