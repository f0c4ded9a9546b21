// BF16 products against float64, with NaN around everything that must not be read or written.
#include <gtest/gtest.h>

#include "compute/cuda/kernels/gemm_bf16/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

// BF16 output: half a step of 2^-8; float sums add little beside it.
constexpr double kTolerance = 3e-3;

struct Grouped {
  int64_t n, k;
  std::vector<int32_t> rows;  // of each group
  int64_t pad = 0;            // of the strides
};

void check(const Grouped& c) {
  SCOPED_TRACE(::testing::Message()
               << "n " << c.n << " k " << c.k << " pad " << c.pad << " groups " << c.rows.size());
  std::vector<int32_t> offsets{0};
  for (const int32_t rows : c.rows) offsets.push_back(offsets.back() + rows);
  const int64_t m = offsets.back(), x_stride = c.k + c.pad, out_stride = c.n + c.pad;
  const auto num_groups = static_cast<int64_t>(c.rows.size());
  const auto w16 = to_bf16(random_normal(num_groups * c.n * c.k, 1.0f, 1));
  std::vector<uint16_t> x16((m + 64) * x_stride, 0x7fc1);
  const auto random = random_normal(m * c.k, 1.0f, 2);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < c.k; ++i) x16[r * x_stride + i] = f32_to_bf16(random[r * c.k + i]);
  }
  const auto x = from_bf16(x16), w = from_bf16(w16);
  const DeviceArray<uint16_t> d_x(x16), d_w(w16), d_out((m + 1) * out_stride);
  const DeviceArray<int32_t> d_offsets(offsets);
  Bf16GroupedProblem p;
  p.x = d_x.data(), p.x_stride = x_stride, p.w = d_w.data(), p.out = d_out.data();
  p.out_stride = out_stride, p.m = m, p.n = c.n, p.k = c.k;
  p.num_groups = static_cast<int>(num_groups), p.offsets = d_offsets.data();
  launch_grouped_bf16(p, nullptr);
  const auto bits = d_out.host();
  launch_grouped_bf16(p, nullptr);
  EXPECT_EQ(bits, d_out.host());
  const auto out = from_bf16(bits);
  std::vector<float> got;
  std::vector<double> want;
  for (int64_t g = 0; g < num_groups; ++g) {
    for (int64_t r = offsets[g]; r < offsets[g + 1]; ++r) {
      for (int64_t j = 0; j < c.n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < c.k; ++i) {
          sum += double{x[r * x_stride + i]} * w[(g * c.n + j) * c.k + i];
        }
        want.push_back(sum);
        got.push_back(out[r * out_stride + j]);
      }
      for (int64_t j = c.n; j < out_stride; ++j) ASSERT_EQ(bits[r * out_stride + j], 0xffff) << r;
    }
  }
  for (int64_t j = 0; j < out_stride; ++j) ASSERT_EQ(bits[m * out_stride + j], 0xffff) << j;
  if (m > 0) {
    EXPECT_LE(relative_error(got, want), kTolerance);
  }
}

TEST(GroupedBf16, RaggedGroupsOfAnyShape) {
  check({128, 64, {64}});
  check({128, 256, {1, 0, 63, 65, 0, 130}, 8});
  check({96, 200, {5, 1, 1, 0}, 8});  // a tail of k and of n
  check({200, 72, {3, 70}, 16});
  check({256, 128, std::vector<int32_t>(70, 3)});  // more groups than a warp has lanes
  check({2816, 128, {17, 2}});
  check({6, 40, {3, 9}, 2});  // not aligned: the generic kernel
  check({33, 31, {4, 5}});
  check({64, 64, {0, 0}});
}

struct Dense {
  int64_t m, n, k, batch;
  bool out_f32;
};

void check_dense(bool batch_invariant) {
  Bf16Gemm gemm;
  const DeviceArray<uint8_t> workspace(Bf16Gemm::kWorkspaceBytes);
  for (const Dense& c :
       {Dense{1, 64, 64, 1, false}, Dense{3, 256, 512, 1, true}, Dense{65, 512, 128, 4, false},
        Dense{5, 33, 31, 2, true}, Dense{130, 128, 512, 3, false}, Dense{7, 7, 9, 1, false},
        Dense{70, 130, 200, 2, true}, Dense{64, 96, 72, 1, false}}) {
    SCOPED_TRACE(::testing::Message() << c.m << " " << c.n << " " << c.k << " " << c.batch);
    const auto x16 = to_bf16(random_normal(c.batch * c.m * c.k, 1.0f, 3));
    const auto w16 = to_bf16(random_normal(c.batch * c.n * c.k, 1.0f, 4));
    const auto x = from_bf16(x16), w = from_bf16(w16);
    const DeviceArray<uint16_t> d_x(x16), d_w(w16);
    const DeviceArray<uint8_t> d_out(c.batch * c.m * c.n * (c.out_f32 ? 4 : 2));
    Bf16GemmProblem p;
    p.x = d_x.data(), p.x_stride = c.k, p.x_batch_stride = c.m * c.k;
    p.w = d_w.data(), p.w_stride = c.k, p.w_batch_stride = c.n * c.k;
    p.out = d_out.data(), p.out_stride = c.n, p.out_batch_stride = c.m * c.n;
    p.out_f32 = c.out_f32, p.m = c.m, p.n = c.n, p.k = c.k, p.batch = c.batch;
    p.batch_invariant = batch_invariant;
    gemm.launch(p, workspace.data(), nullptr);
    const auto bytes = d_out.host();
    std::vector<float> got(c.batch * c.m * c.n);
    for (size_t i = 0; i < got.size(); ++i) {
      if (c.out_f32) {
        std::memcpy(&got[i], bytes.data() + 4 * i, 4);
      } else {
        uint16_t bits;
        std::memcpy(&bits, bytes.data() + 2 * i, 2);
        got[i] = bf16_to_f32(bits);
      }
    }
    std::vector<double> want;
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t r = 0; r < c.m; ++r) {
        for (int64_t j = 0; j < c.n; ++j) {
          double sum = 0;
          for (int64_t i = 0; i < c.k; ++i) {
            sum += double{x[(b * c.m + r) * c.k + i]} * w[(b * c.n + j) * c.k + i];
          }
          want.push_back(sum);
        }
      }
    }
    EXPECT_LE(relative_error(got, want), c.out_f32 ? 1e-5 : kTolerance);
  }
}

TEST(DenseBf16, BatchesOfAnyShape) { check_dense(false); }
TEST(DenseBf16, BatchesOfAnyShapeInvariant) { check_dense(true); }

// Rows alone and in batches, at any place, have the same bits: the router's shape, W_UK's and
// W_UV's by heads, and one that only the generic kernel takes.
TEST(DenseBf16, RowsDoNotDependOnTheBatch) {
  Bf16Gemm gemm;
  const DeviceArray<uint8_t> workspace(Bf16Gemm::kWorkspaceBytes);
  for (const Dense& c : {Dense{700, 256, 7168, 1, true}, Dense{300, 512, 128, 16, false},
                         Dense{300, 128, 512, 16, false}, Dense{200, 33, 31, 2, true}}) {
    const DeviceArray<uint16_t> x(to_bf16(random_normal(c.batch * c.m * c.k, 1.0f, 5)));
    const DeviceArray<uint16_t> w(to_bf16(random_normal(c.batch * c.n * c.k, 1.0f, 6)));
    const int64_t row_bytes = c.n * (c.out_f32 ? 4 : 2);
    // Rows [begin, begin + count) of each batch, one after the other.
    const auto run = [&](int64_t begin, int64_t count) {
      const DeviceArray<uint8_t> out(c.batch * count * row_bytes);
      Bf16GemmProblem p;
      p.x = x.data() + begin * c.k, p.x_stride = c.k, p.x_batch_stride = c.m * c.k;
      p.w = w.data(), p.w_stride = c.k, p.w_batch_stride = c.n * c.k;
      p.out = out.data(), p.out_stride = c.n, p.out_batch_stride = count * c.n;
      p.out_f32 = c.out_f32, p.m = count, p.n = c.n, p.k = c.k, p.batch = c.batch;
      p.batch_invariant = true;
      gemm.launch(p, workspace.data(), nullptr);
      return out.host();
    };
    const auto whole = run(0, c.m);
    for (const int64_t count : {1, 2, 15, 16, 63, 64, 65, 150}) {
      for (const int64_t begin : {0, 3, 50}) {
        const auto some = run(begin, count);
        for (int64_t b = 0; b < c.batch; ++b) {
          ASSERT_EQ(std::memcmp(some.data() + b * count * row_bytes,
                                whole.data() + (b * c.m + begin) * row_bytes, count * row_bytes),
                    0)
              << count << " rows from " << begin << ", n " << c.n << " k " << c.k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace deepflight
