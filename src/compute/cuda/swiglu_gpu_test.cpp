// Gate and up with their activation in one kernel: the bits of the product to BF16 and swiglu()
// behind it, whatever the configuration; nothing else is written.
#include <fmt/format.h>

#include "compute/cuda/kernels/gemm/fp8_gemm_testing.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/quantize/launch.h"

namespace deepflight::gemm_fp8 {
namespace {

// e4m3 rows with an untouched row and untouched columns around them.
struct Activated {
  Activated(int64_t m, int64_t width)
      : rows{values_of(m, width)}, scales(width / 128 * scale_stride(m)), m(m), width(width) {}
  static int64_t stride(int64_t width) { return width + 16; }
  static int64_t scale_stride(int64_t m) { return Fp8Rows::scale_stride_of(m) + 4; }
  static DeviceArray<uint8_t> values_of(int64_t m, int64_t width) {
    return DeviceArray<uint8_t>((m + 1) * stride(width));
  }
  Fp8Rows fp8() const { return {rows.data(), stride(width), scales.data(), scale_stride(m)}; }

  DeviceArray<uint8_t> rows;
  DeviceArray<float> scales;
  int64_t m, width;
};

Config plain_config(const Shape& shape) {
  for (const Config& config : candidates(shape)) {
    if (!config.swapped && config.split_k == 1) return config;
  }
  ADD_FAILURE() << "no plain configuration";
  return {};
}

void check(int64_t m, int64_t n, int64_t k, const std::vector<int32_t>& group_rows) {
  const Operands o(m, n, k, group_rows);
  const int64_t width = n / 2, rows = group_rows.empty() ? m : o.host_offsets.back();
  const Activated want(m, width);
  const DeviceArray<uint16_t> gate_up(m * n);
  const Fp8GemmProblem plain = o.problem(gate_up.data(), n);
  launch_fast(plain, plain_config(shape_of(plain)), nullptr);
  cuda_quantize::SwigluProblem activation;
  activation.num_rows = rows;
  activation.width = width;
  activation.gate_up = gate_up.data();
  activation.gate_up_stride = n;
  activation.fp8 = want.fp8();
  cuda_quantize::swiglu(activation, nullptr);
  const auto values = want.rows.host();
  const auto scales = want.scales.host();
  for (const Config& config : candidates({m, n, k, plain.num_groups, false, true})) {
    const Activated got(m, width);
    Fp8GemmProblem problem = o.problem(nullptr, 0);
    problem.activated = got.fp8();
    launch_fast(problem, config, nullptr);
    const std::string what = fmt::format("{} m {} n {} k {}", to_string(config), m, n, k);
    EXPECT_EQ(got.rows.host(), values) << what;
    const auto got_scales = got.scales.host();
    EXPECT_EQ(std::memcmp(got_scales.data(), scales.data(), scales.size() * 4), 0) << what;
  }
}

TEST(Fp8GemmSwiglu, HasTheBitsOfTwoKernels) {
  check(1, 256, 128, {});
  check(63, 768, 1024, {});  // an odd number of blocks of 128 columns
  check(300, 1280, 2048, {});
  check(1000, 4096, 7168, {});
  check(4100, 512, 640, {});
}

TEST(Fp8GemmSwiglu, HasTheBitsOfTwoKernelsInGroups) {
  for (const std::vector<int32_t>& rows : {std::vector<int32_t>{0, 7, 1, 0, 0, 64, 9, 33, 0},
                                           {300, 0, 129, 1, 0, 515},
                                           std::vector<int32_t>(256, 3)}) {
    const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    check(total + 10, 768, 640, rows);
    check(total, 1024, 2048, rows);
  }
}

TEST(Fp8GemmSwiglu, ChoosesAKernelThatFits) {
  const Operands o(2048, 4096, 1024, {});
  const Activated out(2048, 2048);
  Fp8GemmProblem problem = o.problem(nullptr, 0);
  problem.activated = out.fp8();
  ASSERT_TRUE(fuses_fp8_swiglu(problem));
  launch_fp8_gemm(problem, nullptr);
  CUDA_CHECK(cudaDeviceSynchronize());
  problem.n = 4096 - 128;
  EXPECT_FALSE(fuses_fp8_swiglu(problem));
}

}  // namespace
}  // namespace deepflight::gemm_fp8
