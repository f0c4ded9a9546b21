// Quantisation and SwiGLU at R1's shapes: bytes moved over time, buffers rotated past the L2.
#include <fmt/format.h>

#include "compute/cuda/kernels/quantize/kernels.h"
#include "compute/cuda/kernels/quantize/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_quantize {
namespace {

using testing::DeviceArray;

constexpr int kLaunches = 20;

std::vector<uint16_t> random_bits(int64_t count) {
  auto pattern = testing::to_bf16(testing::random_normal(1 << 16, 1.0f, 1));
  std::vector<uint16_t> bits(count);
  for (int64_t i = 0; i < count; ++i) bits[i] = pattern[i % (1 << 16)];
  return bits;
}

void report(const char* name, int64_t rows, int64_t width, const char* form, int64_t bytes,
            double us) {
  fmt::print("{:<14} rows {:>5} width {:>5} {:<10} {:>8.2f} us {:>7.0f} GB/s\n", name, rows, width,
             form, us, static_cast<double>(bytes) / us * 1e-3);
}

TEST(QuantizeBench, Rows) {
  for (const int64_t width : {7168, 1536}) {
    for (const int64_t rows : {1, 64, 256, 8192}) {
      const int64_t bytes = rows * width * 3 + rows * width / 128 * 4;
      const int64_t copies = testing::copies_past_l2(bytes, kLaunches);
      const DeviceArray<uint16_t> x(random_bits(copies * rows * width));
      const DeviceArray<uint8_t> values(copies * rows * width);
      const int64_t scale_stride = Fp8Rows::scale_stride_of(rows);
      const int64_t scale_count = width / 128 * scale_stride;
      const DeviceArray<float> scales(copies * scale_count);
      const auto problem = [&](int i) {
        const int64_t c = i % copies;
        return QuantizeProblem{rows,
                               width,
                               x.data() + c * rows * width,
                               width,
                               {values.data() + c * rows * width, width,
                                scales.data() + c * scale_count, scale_stride},
                               nullptr};
      };
      report("quantize", rows, width, "chosen", bytes,
             testing::median_us(kLaunches, 9,
                                [&](int i, cudaStream_t stream) { quantize(problem(i), stream); }));
      for (const int in_flight : {1, 2, 4}) {
        if (rows < 256) continue;
        report("quantize", rows, width, fmt::format("in flight {}", in_flight).c_str(), bytes,
               testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
                 const QuantizeProblem p = problem(i);
                 launch_vector(
                     {p.num_rows, p.width, p.x, nullptr, p.x_stride, nullptr, 0, p.out, nullptr},
                     in_flight, stream);
               }));
      }
    }
  }
}

TEST(QuantizeBench, SwigluToFp8) {
  for (const int64_t width : {2048, 18432}) {
    for (const int64_t rows : {1, 64, 256, 8192}) {
      const int64_t bytes = rows * width * 5 + rows * width / 128 * 4;
      const int64_t copies = testing::copies_past_l2(bytes, kLaunches);
      const DeviceArray<uint16_t> x(random_bits(copies * rows * width * 2));
      const DeviceArray<uint8_t> values(copies * rows * width);
      const int64_t scale_stride = Fp8Rows::scale_stride_of(rows);
      const int64_t scale_count = width / 128 * scale_stride;
      const DeviceArray<float> scales(copies * scale_count);
      const auto problem = [&](int i) {
        const int64_t c = i % copies;
        return SwigluProblem{rows,
                             width,
                             x.data() + c * rows * width * 2,
                             2 * width,
                             nullptr,
                             0,
                             {values.data() + c * rows * width, width,
                              scales.data() + c * scale_count, scale_stride},
                             nullptr};
      };
      report("swiglu", rows, width, "chosen", bytes,
             testing::median_us(kLaunches, 9,
                                [&](int i, cudaStream_t stream) { swiglu(problem(i), stream); }));
      for (const int in_flight : {1, 2, 4}) {
        if (rows < 256) continue;
        report("swiglu", rows, width, fmt::format("in flight {}", in_flight).c_str(), bytes,
               testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
                 const SwigluProblem p = problem(i);
                 launch_vector({p.num_rows, p.width, p.gate_up, p.gate_up + width, p.gate_up_stride,
                                nullptr, 0, p.fp8, nullptr},
                               in_flight, stream);
               }));
      }
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_quantize
