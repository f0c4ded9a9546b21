// Quantised rows bit for bit as the host's arithmetic gives them, and SwiGLU to a BF16 ulp.
#include "compute/cuda/kernels/quantize/kernels.h"
#include "compute/cuda/kernels/quantize/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_quantize {
namespace {

using testing::DeviceArray;

struct HostRows {
  std::vector<uint8_t> values;  // as Fp8Rows, what is beyond the columns 0xff
  std::vector<float> scales;
};

// The definition: per 1x128 block, scale = largest / 448 and e4m3(value * (448 / largest)).
HostRows quantize_on_host(const std::vector<uint16_t>& x, int64_t stride, int64_t num_rows,
                          int64_t width, const Fp8Rows& layout) {
  HostRows rows{std::vector<uint8_t>(num_rows * layout.value_stride, 0xff),
                std::vector<float>(Fp8Rows::num_scale_blocks(width) * layout.scale_stride, NAN)};
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t begin = 0; begin < width; begin += 128) {
      const int64_t end = std::min(width, begin + 128);
      float largest = 0;
      for (int64_t k = begin; k < end; ++k) {
        largest = std::max(largest, std::fabs(bf16_to_f32(x[row * stride + k])));
      }
      rows.scales[begin / 128 * layout.scale_stride + row] = largest / 448.0f;
      const float factor = largest == 0 ? 0.0f : 448.0f / largest;
      for (int64_t k = begin; k < end; ++k) {
        rows.values[row * layout.value_stride + k] =
            f32_to_f8e4m3(bf16_to_f32(x[row * stride + k]) * factor);
      }
    }
  }
  return rows;
}

void expect_rows(const DeviceArray<uint8_t>& values, const DeviceArray<float>& scales,
                 const HostRows& want, const Fp8Rows& layout, const std::string& what) {
  const auto got_values = values.host();
  const auto got_scales = scales.host();
  ASSERT_EQ(got_values.size(), want.values.size());
  for (size_t i = 0; i < got_values.size(); ++i) {
    ASSERT_EQ(got_values[i], want.values[i])
        << what << " row " << i / layout.value_stride << " column " << i % layout.value_stride;
  }
  for (size_t i = 0; i < got_scales.size(); ++i) {
    if (std::isnan(want.scales[i]) && std::isnan(got_scales[i])) continue;
    ASSERT_EQ(got_scales[i], want.scales[i])
        << what << " block " << i / layout.scale_stride << " row " << i % layout.scale_stride;
  }
}

// Rows of every kind: normal, huge, tiny, with a block of zeros.
std::vector<uint16_t> test_rows(int64_t num_rows, int64_t stride, int64_t width, uint64_t seed) {
  auto values = testing::random_normal(num_rows * stride, 1.0f, seed);
  for (int64_t row = 0; row < num_rows; ++row) {
    const float magnitude = row % 5 == 1 ? 1e30f : row % 5 == 2 ? 1e-30f : row % 5 == 3 ? 500 : 1;
    for (int64_t k = 0; k < stride; ++k) {
      float& value = values[row * stride + k];
      value = k < width ? value * magnitude : NAN;
      if (row % 5 == 4 && k < 128) value = 0.0f;
      if (row % 7 == 6 && k / 128 % 2 == 1 && k % 128 > 0) value *= 1e-3f;  // e4m3 subnormals
    }
  }
  return testing::to_bf16(values);
}

void check_quantize(int64_t num_rows, int64_t width, int64_t stride, int64_t offset) {
  const std::string what = "rows " + std::to_string(num_rows) + " width " + std::to_string(width) +
                           " stride " + std::to_string(stride) + " offset " +
                           std::to_string(offset);
  auto x = test_rows(num_rows, stride, width, 17 + num_rows + width);
  std::vector<uint16_t> padded(offset, 0xffff);
  padded.insert(padded.end(), x.begin(), x.end());
  const DeviceArray<uint16_t> device_x(padded);
  Fp8Rows out{nullptr, Fp8Rows::value_stride_of(width), nullptr,
              Fp8Rows::scale_stride_of(num_rows)};
  const DeviceArray<uint8_t> values(num_rows * out.value_stride);
  const DeviceArray<float> scales(Fp8Rows::num_scale_blocks(width) * out.scale_stride);
  out.values = values.data();
  out.scales = scales.data();
  quantize({num_rows, width, device_x.data() + offset, stride, out, nullptr}, nullptr);
  expect_rows(values, scales, quantize_on_host(x, stride, num_rows, width, out), out, what);
}

TEST(Quantize, IsTheHostsArithmeticBitForBit) {
  for (const int64_t width : {32, 40, 56, 128, 136, 200, 2048, 7168, 39, 1}) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      check_quantize(num_rows, width, (width + 7) / 8 * 8, 0);
      check_quantize(num_rows, width, (width + 7) / 8 * 8 + 16, 8);
      check_quantize(num_rows, width, width + 3, 1);
    }
  }
  check_quantize(8192, 1536, 2112, 0);
}

TEST(Quantize, EveryNumberInFlightIsTheSame) {
  const int64_t num_rows = 77, width = 1000;
  const auto x = test_rows(num_rows, width, width, 5);
  const DeviceArray<uint16_t> device_x(x);
  for (const int in_flight : {1, 2, 4}) {
    Fp8Rows out{nullptr, Fp8Rows::value_stride_of(width), nullptr,
                Fp8Rows::scale_stride_of(num_rows)};
    const DeviceArray<uint8_t> values(num_rows * out.value_stride);
    const DeviceArray<float> scales(Fp8Rows::num_scale_blocks(width) * out.scale_stride);
    out.values = values.data();
    out.scales = scales.data();
    launch_vector({num_rows, width, device_x.data(), nullptr, width, nullptr, 0, out, nullptr},
                  in_flight, nullptr);
    expect_rows(values, scales, quantize_on_host(x, width, num_rows, width, out), out,
                "in flight " + std::to_string(in_flight));
  }
}

TEST(Quantize, BlocksOfAlmostNothingStayFinite) {
  std::vector<float> x(256);
  for (int i = 0; i < 256; ++i) x[i] = i % 3 == 0 ? 0.0f : 1e-38f * static_cast<float>(i % 7);
  const DeviceArray<uint16_t> device_x(testing::to_bf16(x));
  const DeviceArray<uint8_t> values(256);
  const DeviceArray<float> scales(8);
  quantize({1, 256, device_x.data(), 256, {values.data(), 256, scales.data(), 4}, nullptr},
           nullptr);
  for (const float value : testing::from_f8(values.host())) EXPECT_TRUE(std::isfinite(value));
}

TEST(Quantize, RowsBeyondTheValidOnesAreLeftAlone) {
  const int64_t num_rows = 9, width = 256;
  const auto x = test_rows(num_rows, width, width, 5);
  const DeviceArray<uint16_t> device_x(x);
  for (const int32_t num_valid : {0, 4, 9, 20}) {
    const DeviceArray<int32_t> valid(std::vector<int32_t>{num_valid});
    const DeviceArray<uint8_t> values(num_rows * 256);
    const DeviceArray<float> scales(2 * 12);
    const Fp8Rows out{values.data(), 256, scales.data(), 12};
    quantize({num_rows, width, device_x.data(), width, out, valid.data()}, nullptr);
    HostRows want = quantize_on_host(x, width, num_rows, width, out);
    for (int64_t row = num_valid; row < num_rows; ++row) {
      std::fill_n(want.values.begin() + row * 256, 256, 0xff);
      want.scales[row] = want.scales[12 + row] = NAN;
    }
    expect_rows(values, scales, want, out, "valid " + std::to_string(num_valid));
  }
}

// |got - want| within one BF16 ulp of want. Where 1 + exp(-gate) is beyond 2^126 the kernel's
// quotient is 0: values under 100 * 2^-126 * |up|.
bool within_ulp(float got, double want) {
  return std::fabs(got - want) <= std::fabs(want) * 0x1p-7 + 1e-34;
}

void check_swiglu(int64_t num_rows, int64_t width, int64_t stride, bool with_out, bool with_fp8) {
  const std::string what = "rows " + std::to_string(num_rows) + " width " + std::to_string(width) +
                           " stride " + std::to_string(stride);
  auto x = testing::random_normal(num_rows * stride, 3.0f, 3 + num_rows + width);
  for (int64_t i = 0; i < num_rows * stride; ++i) {
    if (i % stride >= 2 * width) x[i] = NAN;
    if (i % 97 == 0 && i % stride < width) x[i] *= 50;  // silu's ends
  }
  const auto bits = testing::to_bf16(x);
  const DeviceArray<uint16_t> gate_up(bits);
  const int64_t out_stride = width + stride - 2 * width;
  const DeviceArray<uint16_t> out(num_rows * out_stride);
  Fp8Rows fp8{nullptr, Fp8Rows::value_stride_of(width), nullptr,
              Fp8Rows::scale_stride_of(num_rows)};
  const DeviceArray<uint8_t> values(num_rows * fp8.value_stride);
  const DeviceArray<float> scales(Fp8Rows::num_scale_blocks(width) * fp8.scale_stride);
  fp8.values = values.data();
  fp8.scales = scales.data();
  swiglu({num_rows, width, gate_up.data(), stride, out.data(), out_stride,
          with_fp8 ? fp8 : Fp8Rows{}, nullptr},
         nullptr);
  const auto got = out.host();
  for (int64_t i = 0; i < num_rows * out_stride; ++i) {
    const int64_t row = i / out_stride, k = i % out_stride;
    if (k >= width) {
      ASSERT_EQ(got[i], 0xffff) << what << " row " << row << " column " << k;
      continue;
    }
    const double gate = bf16_to_f32(bits[row * stride + k]);
    const double up = bf16_to_f32(bits[row * stride + width + k]);
    const double want = gate / (1.0 + std::exp(-gate)) * up;
    ASSERT_TRUE(within_ulp(bf16_to_f32(got[i]), want))
        << what << " row " << row << " column " << k << " got " << bf16_to_f32(got[i]) << " want "
        << want;
  }
  if (!with_fp8) return;
  const HostRows want = quantize_on_host(got, out_stride, num_rows, width, fp8);
  expect_rows(values, scales, want, fp8, what);
  if (with_out) return;
  const DeviceArray<uint8_t> only_values(num_rows * fp8.value_stride);
  const DeviceArray<float> only_scales(scales.size());
  fp8.values = only_values.data();
  fp8.scales = only_scales.data();
  swiglu({num_rows, width, gate_up.data(), stride, nullptr, 0, fp8, nullptr}, nullptr);
  expect_rows(only_values, only_scales, want, fp8, what + " FP8 alone");
}

TEST(Swiglu, IsWithinAnUlpAndItsFp8FormIsOfTheRoundedValues) {
  for (const int64_t width : {32, 40, 56, 104, 1408, 2048, 39}) {
    for (const int64_t num_rows : {0, 1, 3, 300}) {
      check_swiglu(num_rows, width, 2 * width, true, false);
      check_swiglu(num_rows, width, 2 * width + 8, true, true);
      check_swiglu(num_rows, width, 2 * width, false, true);
    }
  }
  check_swiglu(2, 18432, 2 * 18432, false, true);
}

}  // namespace
}  // namespace deepflight::cuda_quantize
