// The FP8 products against float64 on the host at small shapes, and every configuration against the
// generic kernel at larger ones: NaN around the operands, odd rows, empty groups, tails.
#include <fmt/format.h>

#include "base/thread_pool.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/kernels/gemm/cublaslt.h"
#include "compute/cuda/kernels/gemm/fp8_gemm_testing.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/gemm/source.h"

namespace deepflight::gemm_fp8 {
namespace {

constexpr int64_t kGuardRows = 3;

// Out with untouched columns and rows around it.
struct Out {
  Out(int64_t m, int64_t n, int64_t stride, bool f32)
      : m(m), n(n), stride(stride), f32(f32), data((m + kGuardRows) * stride * (f32 ? 4 : 2)) {}

  // What was written, row by row, as floats; fails if anything else was.
  std::vector<float> written(int64_t rows, const std::string& what) const {
    const auto bytes = data.host();
    std::vector<float> values;
    int64_t touched = 0;
    for (int64_t row = 0; row < m + kGuardRows; ++row) {
      for (int64_t column = 0; column < stride; ++column) {
        const int64_t at = row * stride + column;
        uint32_t bits = 0xffffffff;
        std::memcpy(&bits, bytes.data() + at * (f32 ? 4 : 2), f32 ? 4 : 2);
        if (row < rows && column < n) {
          float value;
          if (f32) {
            std::memcpy(&value, &bits, 4);
          } else {
            value = bf16_to_f32(static_cast<uint16_t>(bits));
          }
          values.push_back(value);
        } else {
          touched += bits != 0xffffffff;
        }
      }
    }
    EXPECT_EQ(touched, 0) << what << ": elements outside written";
    return values;
  }

  int64_t m, n, stride;
  bool f32;
  DeviceArray<uint8_t> data;
};

std::vector<double> product_on_host(const Operands& o) {
  const auto x = o.x.host(), w = o.w.host();
  const auto x_scales = o.x_scales.host(), w_scales = o.w_scales.host();
  const int64_t k_blocks = (o.k + 127) / 128, n_blocks = (o.n + 127) / 128;
  const bool grouped = o.host_offsets.size() > 1;
  std::vector<double> out;
  for (int64_t g = 0; g < o.groups; ++g) {
    const int64_t begin = grouped ? o.host_offsets[g] : 0;
    const int64_t end = grouped ? o.host_offsets[g + 1] : o.m;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < o.n; ++column) {
        double sum = 0;
        for (int64_t k = 0; k < o.k; ++k) {
          sum += double{f8e4m3_to_f32(x[row * o.value_stride + k])} *
                 f8e4m3_to_f32(w[(g * o.n + column) * o.k + k]) *
                 x_scales[k / 128 * o.scale_stride + row] *
                 w_scales[(g * n_blocks + column / 128) * k_blocks + k / 128];
        }
        out.push_back(sum);
      }
    }
  }
  return out;
}

// The tensor cores keep 14 bits of a sum of 128: that is some 1e-4 of its largest term.
double tolerance(bool f32) { return f32 ? 1e-3 : 3e-3; }

void check_on_host(const Operands& o, int64_t stride, bool f32, const std::string& what) {
  const auto want = product_on_host(o);
  const int64_t rows = static_cast<int64_t>(want.size()) / o.n;
  Out out(o.m, o.n, stride, f32);
  launch_fp8_gemm(o.problem(out.data.data(), stride, f32), nullptr);
  EXPECT_LT(testing::relative_error(out.written(rows, what), want), tolerance(f32)) << what;
}

TEST(Fp8Gemm, IsTheProductInFloat64) {
  const int64_t shapes[][3] = {{1, 128, 128},  {3, 24, 128},   {8, 100, 256}, {17, 576, 144},
                               {64, 300, 400}, {65, 257, 400}, {5, 40, 1040}, {130, 129, 272},
                               {2, 7, 16},     {9, 33, 31}};  // the last is generic
  for (const auto& [m, n, k] : shapes) {
    const Operands o(m, n, k, {});
    for (const bool f32 : {false, true}) {
      for (const int64_t stride : {n, n + 5, (n + 15) / 8 * 8}) {
        check_on_host(o, stride, f32, fmt::format("{} {} {} stride {} {}", m, n, k, stride, f32));
      }
    }
  }
}

TEST(Fp8Gemm, GroupsAreTheirOwnProducts) {
  const std::vector<int32_t> groupings[] = {
      {1},       {0, 0, 5}, {0, 3, 0, 0, 9, 1, 0}, {70, 0, 1, 130}, std::vector<int32_t>(40, 2),
      {0, 0, 0}, {8, 8, 16}};
  for (const auto& rows : groupings) {
    const int64_t total = std::accumulate(rows.begin(), rows.end(), 0);
    for (const int64_t unused : {0, 21}) {  // rows of no group
      if (total + unused == 0) continue;
      const Operands o(total + unused, 136, 208, rows);
      check_on_host(o, 136, false, fmt::format("{} groups {} rows", rows.size(), total));
      check_on_host(o, 139, true, fmt::format("{} groups {} rows f32", rows.size(), total));
    }
  }
}

// All configurations that might be chosen for the shape, compiled beforehand by all cores.
std::vector<Config> compiled_candidates(const Shape& shape) {
  const auto configs = candidates(shape);
  ThreadPool pool(0);
  pool.parallel_for(static_cast<int64_t>(configs.size()),
                    [&](int64_t i) { jit_cubin(source_of(configs[i])); });
  return configs;
}

// Every configuration against the generic kernel, twice: the same bits.
void check_configs(const Operands& o, bool f32, int64_t stride) {
  const bool grouped = o.host_offsets.size() > 1;
  const int64_t rows = grouped ? o.host_offsets.back() : o.m;
  Out reference(o.m, o.n, o.n, true);
  launch_generic(o.problem(reference.data.data(), o.n, true), nullptr);
  const auto floats = reference.written(rows, "generic");
  const std::vector<double> want(floats.begin(), floats.end());
  const Fp8GemmProblem any = o.problem(nullptr, stride, f32);
  for (const Config& config : compiled_candidates(shape_of(any))) {
    const std::string what = fmt::format("{} m {} n {} k {} groups {} stride {}", to_string(config),
                                         o.m, o.n, o.k, o.groups, stride);
    Out first(o.m, o.n, stride, f32), second(o.m, o.n, stride, f32);
    launch_fast(o.problem(first.data.data(), stride, f32), config, nullptr);
    launch_fast(o.problem(second.data.data(), stride, f32), config, nullptr);
    const auto got = first.written(rows, what);
    EXPECT_LT(testing::relative_error(got, want), tolerance(f32)) << what;
    EXPECT_EQ(std::memcmp(got.data(), second.written(rows, what).data(), got.size() * 4), 0)
        << what << ": two runs differ";
    EXPECT_EQ(o.next_tile.host()[0], 0) << what << ": the counter of tiles is not as it was";
  }
}

TEST(Fp8Gemm, EveryConfigurationDense) {
  const int64_t shapes[][3] = {
      {5, 2112, 2048}, {77, 520, 1024}, {300, 1000, 4112}, {515, 640, 128}};
  for (const auto& [m, n, k] : shapes) {
    const Operands o(m, n, k, {});
    check_configs(o, false, n);
    check_configs(o, true, n + 3);
  }
}

TEST(Fp8Gemm, EveryConfigurationGrouped) {
  const std::vector<int32_t> groupings[] = {
      {0, 7, 1, 0, 0, 64, 9, 33, 0}, {300, 0, 129, 1, 0, 515}, std::vector<int32_t>(256, 3)};
  for (const auto& rows : groupings) {
    const Operands o(std::accumulate(rows.begin(), rows.end(), 0) + 10, 384, 640, rows);
    check_configs(o, false, 384);
    check_configs(o, true, 384);
  }
}

// A warp that takes another tile than its neighbours, or a block that ends while another of its
// cluster still tells it something, takes the kernel with it: both were seen, once in some 25,000
// launches.
TEST(Fp8Gemm, ManyLaunchesOfClusters) {
  std::vector<int32_t> rows;
  for (int i = 0; i < 16; ++i) rows.push_back(90 + i * 37 % 76);
  const Operands o(std::accumulate(rows.begin(), rows.end(), 0), 7168, 256, rows);
  const DeviceArray<uint16_t> out(o.m * o.n);
  const Fp8GemmProblem problem = o.problem(out.data(), o.n);
  for (const Config& config : compiled_candidates(shape_of(problem))) {
    if (config.cluster() == 1) continue;
    for (int i = 0; i < 40000; ++i) launch_fast(problem, config, nullptr);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << to_string(config);
  }
}

TEST(Fp8Gemm, LargeShapesAgreeWithTheGenericKernel) {
  const int64_t shapes[][3] = {{1, 24576, 1536},  {64, 2112, 7168},   {63, 7168, 2048},
                               {128, 32768, 512}, {1023, 2112, 7168}, {4096, 4096, 1024}};
  for (const auto& [m, n, k] : shapes) {
    const Operands o(m, n, k, {});
    DeviceArray<uint16_t> got(m * n);
    DeviceArray<float> want(m * n);
    launch_generic(o.problem(want.data(), n, true), nullptr);
    launch_fp8_gemm(o.problem(got.data(), n), nullptr);
    const auto floats = want.host();
    EXPECT_LT(testing::relative_error(testing::from_bf16(got.host()),
                                      std::vector<double>(floats.begin(), floats.end())),
              tolerance(false))
        << m << " " << n << " " << k;
  }
}

TEST(Fp8Gemm, NoRowsIsNoWork) {
  const Operands o(1, 128, 128, {});
  Out out(1, 128, 128, false);
  Fp8GemmProblem p = o.problem(out.data.data(), 128);
  p.m = 0;
  launch_fp8_gemm(p, nullptr);
  EXPECT_TRUE(out.written(0, "no rows").empty());
}

TEST(Fp8Gemm, WarmUpCompilesWhatIsLaunched) {
  const Fp8GemmUse uses[] = {
      {.n = 2112, .k = 7168, .max_m = 128},
      {.n = 4096, .k = 7168, .num_groups = 32, .swiglu = true, .max_m = 512}};
  warm_up_fp8_gemm(uses);
  int compiled = 0;
  warm_up_fp8_gemm(uses, [&](const std::string&, int64_t) { ++compiled; });
  EXPECT_EQ(compiled, 0);
  for (const int64_t m : {1, 8, 57, 63, 100, 128}) {
    EXPECT_TRUE(is_jit_stored(source_of(chosen_config({m, 2112, 7168})))) << m;
  }
  for (const int64_t m : {32, 333, 512}) {
    EXPECT_TRUE(is_jit_stored(source_of(chosen_config({m, 4096, 7168, 32})))) << m;
  }
}

// Two implementations that share no line: cuBLASLt's products and ours, at R1's shapes.
TEST(Fp8Gemm, CublasltAgrees) {
  CublasltFp8Gemm cublaslt;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{2112, 7168}, {24576, 1536}, {4096, 512}}) {
    for (const int64_t m : {1, 3, 4, 64, 100, 516}) {
      if (m > 100 && n > 10000) continue;  // long on the host
      for (const bool f32 : {false, true}) {
        const std::string what = fmt::format("{} x {} x {}{}", m, n, k, f32 ? ", F32" : "");
        const Operands o(m, n, k, {}, 1, false);
        const Out ours(m, n, n, f32), theirs(m, n, n, f32);
        const DeviceArray<uint8_t> workspace(CublasltFp8Gemm::workspace_bytes(m, k));
        launch_fp8_gemm(o.problem(ours.data.data(), n, f32), nullptr);
        const bool launched =
            cublaslt.launch(o.problem(theirs.data.data(), n, f32), workspace.data(), nullptr);
        EXPECT_EQ(launched, m % 4 == 0) << what;
        if (!launched) continue;
        const auto written = theirs.written(m, what);
        const std::vector<double> want(written.begin(), written.end());
        EXPECT_LT(testing::relative_error(ours.written(m, what), want), tolerance(f32)) << what;
      }
    }
  }
}

}  // namespace
}  // namespace deepflight::gemm_fp8
