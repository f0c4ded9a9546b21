// Gate and up with their activation in one kernel, each configuration, beside the product and
// swiglu() behind it: weights rotated past the L2, graphs replayed.
#include <fmt/format.h>

#include "compute/cuda/kernels/gemm/fp8_gemm_testing.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/quantize/launch.h"

namespace deepflight::gemm_fp8 {
namespace {

constexpr double kWantedBytes = 220e6;  // of weights in rotation

void run(int64_t m, int64_t n, int64_t k, int groups) {
  std::vector<int32_t> rows(groups);
  for (int g = 0; g < groups; ++g) {  // between half and one and a half of the mean
    rows[g] = static_cast<int32_t>(m * (g + 1) / groups - m * g / groups);
    if (g % 2 == 1) {
      const int32_t moved = rows[g] / 2 * (g % 7) / 7;
      rows[g] -= moved;
      rows[g - 1] += moved;
    }
  }
  const int64_t copies =
      static_cast<int64_t>(kWantedBytes / static_cast<double>(std::max(groups, 1) * n * k)) + 1;
  const Operands o(m, n, k, rows, copies, false);
  const DeviceArray<uint16_t> gate_up(m * n);
  const DeviceArray<uint8_t> values((m + Fp8Rows::kRowsBeyond) * n / 2);
  const DeviceArray<float> scales(n / 256 * Fp8Rows::scale_stride_of(m));
  const Fp8Rows out = {values.data(), n / 2, scales.data(), Fp8Rows::scale_stride_of(m)};
  cuda_quantize::SwigluProblem activation;
  activation.num_rows = m;
  activation.width = n / 2;
  activation.gate_up = gate_up.data();
  activation.gate_up_stride = n;
  activation.fp8 = out;
  Shape shape = shape_of(o.problem(gate_up.data(), n));
  const Machine machine = current_machine();
  const int launches = estimated_us(choose(shape, machine), shape, machine) > 150 ? 3 : 20;
  const double two = testing::median_us(launches, 5, [&](int i, cudaStream_t stream) {
    launch_fp8_gemm(o.problem(gate_up.data(), n, false, i % copies), stream);
    cuda_quantize::swiglu(activation, stream);
  });
  const double product = testing::median_us(launches, 5, [&](int i, cudaStream_t stream) {
    launch_fp8_gemm(o.problem(gate_up.data(), n, false, i % copies), stream);
  });
  fmt::print("{:>4} {:>6} {:>6} {:>6}: product {:.1f} us, with swiglu {:.1f}\n", groups, m, n, k,
             product, two);
  shape.swiglu = true;
  for (const Config& config : candidates(shape)) {
    const double us = testing::median_us(launches, 5, [&](int i, cudaStream_t stream) {
      Fp8GemmProblem problem = o.problem(nullptr, 0, false, i % copies);
      problem.activated = out;
      launch_fast(problem, config, stream);
    });
    fmt::print("  {:<44} {:>8.1f} us, {:.2f} of two kernels, est {:.1f}\n", to_string(config), us,
               us / two, estimated_us(config, shape, machine));
  }
  std::fflush(stdout);
}

TEST(Fp8GemmSwigluBench, BesideTwoKernels) {
  for (const int64_t m : {8, 64, 256, 1024, 4096, 8192}) {
    run(m, 4096, 7168, 0);
    run(m, 36864, 7168, 0);
  }
  for (const int64_t m : {64, 512, 1024, 8192, 65536}) run(m, 4096, 7168, 256);
  for (const int64_t m : {64, 1024, 4096, 32768}) run(m, 4096, 7168, 32);
}

}  // namespace
}  // namespace deepflight::gemm_fp8
