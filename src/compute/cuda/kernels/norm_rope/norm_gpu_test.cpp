// Norms and sums against double arithmetic on the host.
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/kernels/norm_rope/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_norm_rope {
namespace {

using testing::DeviceArray;

constexpr float kEps = 1e-6f;

// Rows with padding of NaN between them, in BF16.
struct Matrix {
  Matrix(int64_t num_rows, int64_t width, int64_t stride, float deviation, uint64_t seed)
      : rows(num_rows), columns(width), stride(stride), host(make(deviation, seed)), device(host) {}

  std::vector<uint16_t> make(float deviation, uint64_t seed) const {
    auto values = testing::random_normal(rows * stride, deviation, seed);
    for (int64_t i = 0; i < rows * stride; ++i) {
      const int64_t row = i / stride;
      if (row % 4 == 1) values[i] *= 1e4f;
      if (row % 4 == 2) values[i] *= 1e-4f;
      if (row % 8 == 7) values[i] = 0.0f;
    }
    auto bits = testing::to_bf16(values);
    for (int64_t i = 0; i < rows * stride; ++i) {
      if (i % stride >= columns) bits[i] = 0xffff;
    }
    return bits;
  }
  float at(int64_t row, int64_t column) const { return bf16_to_f32(host[row * stride + column]); }

  int64_t rows, columns, stride;
  std::vector<uint16_t> host;
  DeviceArray<uint16_t> device;
};

struct Fp8Array {
  Fp8Array(int64_t num_rows, int64_t width)
      : rows{nullptr, Fp8Rows::value_stride_of(width), nullptr, Fp8Rows::scale_stride_of(num_rows)},
        values(num_rows * rows.value_stride),
        scales(Fp8Rows::num_scale_blocks(width) * rows.scale_stride) {
    rows.values = values.data();
    rows.scales = scales.data();
  }
  Fp8Rows rows;
  DeviceArray<uint8_t> values;
  DeviceArray<float> scales;
};

void expect_fp8_of(const std::vector<uint16_t>& bits, int64_t stride, int64_t num_rows,
                   int64_t width, const Fp8Array& fp8, const std::string& what) {
  const auto values = fp8.values.host();
  const auto scales = fp8.scales.host();
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t begin = 0; begin < width; begin += 128) {
      const int64_t end = std::min(width, begin + 128);
      float largest = 0;
      for (int64_t k = begin; k < end; ++k) {
        largest = std::max(largest, std::fabs(bf16_to_f32(bits[row * stride + k])));
      }
      ASSERT_EQ(scales[begin / 128 * fp8.rows.scale_stride + row], largest / 448.0f)
          << what << " scale, row " << row << " block " << begin / 128;
      const float factor = largest == 0 ? 0.0f : 448.0f / largest;
      for (int64_t k = begin; k < end; ++k) {
        ASSERT_EQ(values[row * fp8.rows.value_stride + k],
                  f32_to_f8e4m3(bf16_to_f32(bits[row * stride + k]) * factor))
            << what << " row " << row << " column " << k;
      }
    }
    for (int64_t k = width; k < fp8.rows.value_stride; ++k) {
      ASSERT_EQ(values[row * fp8.rows.value_stride + k], 0xff) << what << " padding";
    }
  }
}

// `sums`: the rows that the norm is of.
void expect_norm(const std::vector<uint16_t>& got, int64_t stride,
                 const std::vector<uint16_t>& sums, int64_t sum_stride,
                 const std::vector<float>& weight, int64_t num_rows, const std::string& what) {
  const auto width = static_cast<int64_t>(weight.size());
  for (int64_t row = 0; row < num_rows; ++row) {
    double squares = 0;
    for (int64_t k = 0; k < width; ++k) {
      const double value = bf16_to_f32(sums[row * sum_stride + k]);
      squares += value * value;
    }
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(width) + double{kEps});
    for (int64_t k = 0; k < stride; ++k) {
      if (k >= width) {
        ASSERT_EQ(got[row * stride + k], 0xffff) << what << " padding of row " << row;
        continue;
      }
      const double want = bf16_to_f32(sums[row * sum_stride + k]) * factor * weight[k];
      const float value = bf16_to_f32(got[row * stride + k]);
      ASSERT_LE(std::fabs(value - want), std::fabs(want) * 0x1p-8 * 1.01)
          << what << " row " << row << " column " << k << " got " << value << " want " << want;
    }
  }
}

std::string describe(int64_t num_rows, int64_t width, int64_t padding) {
  return "rows " + std::to_string(num_rows) + " width " + std::to_string(width) + " padding " +
         std::to_string(padding);
}

constexpr int64_t kWidths[] = {32, 40, 56, 512, 1536, 2048, 7168, 16384, 39, 1, 16392};

TEST(RmsNorm, AllShapesAndStrides) {
  for (const int64_t width : kWidths) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      for (const int64_t padding : {0, 3, 8}) {
        const std::string what = describe(num_rows, width, padding);
        const Matrix x(num_rows, width, width + padding, 2.0f, 1 + width);
        const auto weight = testing::random_normal(width, 1.0f, 2);
        const DeviceArray<float> device_weight(weight);
        const DeviceArray<uint16_t> out(num_rows * (width + padding));
        const Fp8Array fp8(num_rows, width);
        NormProblem problem{
            num_rows, width,      x.device.data(), x.stride, nullptr, 0, device_weight.data(),
            kEps,     out.data(), width + padding, fp8.rows};
        rms_norm(problem, nullptr);
        const auto got = out.host();
        ASSERT_NO_FATAL_FAILURE(
            expect_norm(got, width + padding, x.host, x.stride, weight, num_rows, what));
        ASSERT_NO_FATAL_FAILURE(expect_fp8_of(got, width + padding, num_rows, width, fp8, what));
        // One output at a time, the first in place.
        const Fp8Array alone(num_rows, width);
        problem.out = nullptr;
        problem.fp8 = alone.rows;
        rms_norm(problem, nullptr);
        ASSERT_NO_FATAL_FAILURE(
            expect_fp8_of(got, width + padding, num_rows, width, alone, what + " FP8 alone"));
        problem.out = x.device.data();
        problem.fp8 = {};
        rms_norm(problem, nullptr);
        ASSERT_EQ(x.device.host(), got) << what << " in place";
      }
    }
  }
}

TEST(RmsNorm, BothNumbersOfVectorsAreTheSame) {
  const int64_t num_rows = 5, width = 7168;
  const Matrix x(num_rows, width, width, 2.0f, 1);
  const auto weight = testing::random_normal(width, 1.0f, 2);
  const DeviceArray<float> device_weight(weight);
  for (const int vectors : {1, 2}) {
    const DeviceArray<uint16_t> out(num_rows * width);
    NormParts parts{1,
                    {{num_rows,
                      width,
                      x.device.data(),
                      width,
                      nullptr,
                      0,
                      device_weight.data(),
                      kEps,
                      out.data(),
                      width,
                      {}},
                     {}}};
    launch_norm_vector(parts, vectors, nullptr);
    expect_norm(out.host(), width, x.host, width, weight, num_rows,
                "vectors " + std::to_string(vectors));
  }
}

TEST(AddRmsNorm, UpdatesTheResidualAndNormsTheRoundedSum) {
  for (const int64_t width : kWidths) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      for (const int64_t padding : {0, 3, 8}) {
        const std::string what = describe(num_rows, width, padding);
        const Matrix delta(num_rows, width, width + padding, 1.0f, 1 + width);
        const Matrix residual(num_rows, width, width + 2 * padding, 2.0f, 2 + width);
        const auto weight = testing::random_normal(width, 1.0f, 3);
        const DeviceArray<float> device_weight(weight);
        const DeviceArray<uint16_t> out(num_rows * width);
        const Fp8Array fp8(num_rows, width);
        rms_norm({num_rows, width, delta.device.data(), delta.stride, residual.device.data(),
                  residual.stride, device_weight.data(), kEps, out.data(), width, fp8.rows},
                 nullptr);
        auto sums = residual.host;
        for (int64_t row = 0; row < num_rows; ++row) {
          for (int64_t k = 0; k < width; ++k) {
            sums[row * residual.stride + k] = f32_to_bf16(delta.at(row, k) + residual.at(row, k));
          }
        }
        const auto got_sums = residual.device.host();
        for (size_t i = 0; i < sums.size(); ++i) {
          ASSERT_EQ(got_sums[i], sums[i]) << what << " residual at " << i;
        }
        const auto got = out.host();
        ASSERT_NO_FATAL_FAILURE(
            expect_norm(got, width, sums, residual.stride, weight, num_rows, what));
        ASSERT_NO_FATAL_FAILURE(expect_fp8_of(got, width, num_rows, width, fp8, what));
      }
    }
  }
}

TEST(RmsNormPair, NormsBothInPlace) {
  const struct {
    int64_t a, b, padding;
  } shapes[] = {{1536, 512, 64}, {1536, 512, 0}, {24, 16, 8}, {24, 20, 3}, {512, 1536, 0}};
  for (const auto& shape : shapes) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      const std::string what = describe(num_rows, shape.a, shape.padding);
      const int64_t stride = shape.a + shape.b + shape.padding;
      const Matrix x(num_rows, shape.a + shape.b, stride, 1.0f, 9);
      const auto weight = testing::random_normal(shape.a + shape.b, 1.0f, 3);
      const DeviceArray<float> weights(weight);
      const Fp8Array fp8(num_rows, shape.a);
      const std::vector<float> a_weight(weight.begin(), weight.begin() + shape.a);
      const std::vector<float> b_weight(weight.begin() + shape.a, weight.end());
      const DeviceArray<float> a_device(a_weight), b_device(b_weight);
      uint16_t* a = x.device.data();
      uint16_t* b = a + shape.a;
      rms_norm_pair(
          {num_rows, shape.a, a, stride, nullptr, 0, a_device.data(), kEps, a, stride, fp8.rows},
          {num_rows, shape.b, b, stride, nullptr, 0, b_device.data(), kEps, b, stride, {}},
          nullptr);
      const auto got = x.device.host();
      std::vector<uint16_t> got_a, got_b, in_a, in_b;
      for (int64_t row = 0; row < num_rows; ++row) {
        const auto split = [&](const std::vector<uint16_t>& from, auto* to_a, auto* to_b) {
          const auto begin = from.begin() + row * stride;
          to_a->insert(to_a->end(), begin, begin + shape.a);
          to_b->insert(to_b->end(), begin + shape.a, begin + shape.a + shape.b);
        };
        split(got, &got_a, &got_b);
        split(x.host, &in_a, &in_b);
        for (int64_t k = shape.a + shape.b; k < stride; ++k) {
          ASSERT_EQ(got[row * stride + k], 0xffff) << what;
        }
      }
      ASSERT_NO_FATAL_FAILURE(
          expect_norm(got_a, shape.a, in_a, shape.a, a_weight, num_rows, what + " a"));
      ASSERT_NO_FATAL_FAILURE(
          expect_norm(got_b, shape.b, in_b, shape.b, b_weight, num_rows, what + " b"));
      ASSERT_NO_FATAL_FAILURE(expect_fp8_of(got_a, shape.a, num_rows, shape.a, fp8, what));
    }
  }
}

TEST(Add, IsTheRoundedSum) {
  for (const int64_t width : {32, 40, 39, 7168}) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      for (const int64_t padding : {0, 3, 8}) {
        const Matrix delta(num_rows, width, width + padding, 1.0f, 1 + width);
        const Matrix sum(num_rows, width, width + padding, 2.0f, 2 + width);
        add({num_rows, width, delta.device.data(), delta.stride, sum.device.data(), sum.stride},
            nullptr);
        auto want = sum.host;
        for (int64_t row = 0; row < num_rows; ++row) {
          for (int64_t k = 0; k < width; ++k) {
            want[row * sum.stride + k] = f32_to_bf16(delta.at(row, k) + sum.at(row, k));
          }
        }
        ASSERT_EQ(sum.device.host(), want) << describe(num_rows, width, padding);
      }
    }
  }
}

// Launches may start before the one in front is done, and must yet see all that it wrote: a graph
// of steps that feed each other gives what the same steps one at a time give.
TEST(NormChain, OverlappedLaunchesGiveWhatSingleOnesGive) {
  for (const int64_t num_rows : {1, 64, 700}) {
    const int64_t width = 7168;
    const DeviceArray<float> weight(testing::random_normal(width, 1.0f, 3));
    std::vector<uint16_t> results[2];
    for (const bool overlapped : {false, true}) {
      const Matrix a(num_rows, width, width, 1.0f, 1);
      const Matrix b(num_rows, width, width, 1.0f, 2);
      const DeviceArray<uint16_t> out(num_rows * width);
      const auto steps = [&](cudaStream_t stream, auto between) {
        for (int i = 0; i < 12; ++i) {
          rms_norm({num_rows,
                    width,
                    a.device.data(),
                    width,
                    b.device.data(),
                    width,
                    weight.data(),
                    kEps,
                    out.data(),
                    width,
                    {}},
                   stream);
          between();
          add({num_rows, width, out.data(), width, a.device.data(), width}, stream);
          between();
          rms_norm({num_rows,
                    width,
                    a.device.data(),
                    width,
                    nullptr,
                    0,
                    weight.data(),
                    kEps,
                    a.device.data(),
                    width,
                    {}},
                   stream);
          between();
        }
      };
      cudaStream_t stream;
      CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      if (!overlapped) {
        steps(stream, [&] { CUDA_CHECK(cudaStreamSynchronize(stream)); });
      } else {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        steps(stream, [] {});
        CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
        CUDA_CHECK(cudaGraphLaunch(exec, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
      }
      cudaStreamDestroy(stream);
      results[overlapped] = a.device.host();
      const auto sums = b.device.host();
      results[overlapped].insert(results[overlapped].end(), sums.begin(), sums.end());
    }
    EXPECT_TRUE(results[0] == results[1]) << "rows " << num_rows;
  }
}

// The same after a copy, a memset, and a join of two streams, captured and not.
TEST(NormChain, OverlapsBehindCopiesAndJoins) {
  const int64_t num_rows = 300, width = 7168, count = num_rows * width;
  const Matrix source(num_rows, width, width, 1.0f, 1);
  const DeviceArray<uint16_t> sum(count), copy(count), side(count), spare(count);
  cudaStream_t stream, other;
  cudaEvent_t forked, joined;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  CUDA_CHECK(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
  CUDA_CHECK(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
  const auto plus = [&](const uint16_t* delta, uint16_t* into, cudaStream_t where) {
    add({num_rows, width, delta, width, into, width}, where);
  };
  const auto steps = [&] {
    CUDA_CHECK(cudaMemsetAsync(sum.data(), 0, count * 2, stream));
    plus(source.device.data(), sum.data(), stream);  // x
    CUDA_CHECK(
        cudaMemcpyAsync(copy.data(), sum.data(), count * 2, cudaMemcpyDeviceToDevice, stream));
    plus(sum.data(), copy.data(), stream);  // 2 x
    CUDA_CHECK(cudaEventRecord(forked, stream));
    CUDA_CHECK(cudaStreamWaitEvent(other, forked));
    CUDA_CHECK(cudaMemsetAsync(side.data(), 0, count * 2, other));
    plus(copy.data(), side.data(), other);  // 2 x
    plus(sum.data(), side.data(), other);   // 3 x, rounded
    CUDA_CHECK(cudaEventRecord(joined, other));
    plus(source.device.data(), spare.data(), stream);  // something beside the other stream
    CUDA_CHECK(cudaStreamWaitEvent(stream, joined));
    plus(side.data(), copy.data(), stream);
  };
  std::vector<uint16_t> want(count);
  for (int64_t i = 0; i < count; ++i) {
    const float x = bf16_to_f32(source.host[i]);
    const float side_value = bf16_to_f32(f32_to_bf16(2 * x + x));
    want[i] = f32_to_bf16(side_value + 2 * x);
  }
  for (int round = 0; round < 3; ++round) {
    steps();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    ASSERT_TRUE(copy.host() == want) << "issued, round " << round;
  }
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  steps();
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 3; ++round) {
    CUDA_CHECK(cudaMemset(copy.data(), 0xff, count * 2));
    CUDA_CHECK(cudaGraphLaunch(exec, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
    ASSERT_TRUE(copy.host() == want) << "captured, round " << round;
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(forked);
  cudaEventDestroy(joined);
  cudaStreamDestroy(stream);
  cudaStreamDestroy(other);
}

}  // namespace
}  // namespace deepflight::cuda_norm_rope
