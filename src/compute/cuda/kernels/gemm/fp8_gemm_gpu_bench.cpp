// The FP8 products at R1's shapes, or at those of the file GEMM_CASES (lines "m n k", then the rows
// of each group; tools/compare/fp8_gemm.py makes one): checked against the generic kernel first,
// weights rotated past the L2. With GEMM_TUNE=1 each shape is tuned first (autotune.h), and the
// times of all that was tried go to the file GEMM_CSV. GEMM_CONFIG (a name as printed) takes the
// choice away; GEMM_REST_MS lets the GPU rest before each case. GEMM_DUMP (a folder) takes operands
// and results of each case, so that another program can multiply the same.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "compute/cuda/kernels/gemm/autotune.h"
#include "compute/cuda/kernels/gemm/cublaslt.h"
#include "compute/cuda/kernels/gemm/fp8_gemm_testing.h"
#include "compute/cuda/kernels/gemm/launch.h"

namespace deepflight::gemm_fp8 {
namespace {

// The floor: measured ceilings, bytes at 0.9 of the nominal bandwidth.
constexpr double kDramShare = 0.9, kFlopsPerUs = 1.4e9;

struct Case {
  int64_t m, n, k;
  std::vector<int32_t> rows;  // of each group
};

// Before each time, from GEMM_REST_MS: a GPU at its power limit slows down.
std::chrono::milliseconds rest() {
  const char* wanted = std::getenv("GEMM_REST_MS");
  return std::chrono::milliseconds(wanted == nullptr ? 0 : std::atoi(wanted));
}

double time_us(const Operands& o, const DeviceArray<uint16_t>& out, int64_t copies,
               const Config& config) {
  const Shape shape = shape_of(o.problem(nullptr, o.n));
  const int launches = estimated_us(config, shape, current_machine()) > 150 ? 3 : 20;
  std::this_thread::sleep_for(rest());
  return testing::median_us(launches, 5, [&](int i, cudaStream_t stream) {
    launch_fast(o.problem(out.data(), o.n, false, i % copies), config, stream);
  });
}

void check(const Operands& o, const DeviceArray<uint16_t>& out, const Config& config) {
  if (2.0 * o.m * o.n * o.k > 5e10) return;  // the tests do larger ones
  DeviceArray<float> want(o.m * o.n);
  CUDA_CHECK(cudaMemset(want.data(), 0, want.size_bytes()));
  CUDA_CHECK(cudaMemset(out.data(), 0, out.size_bytes()));
  launch_generic(o.problem(want.data(), o.n, true), nullptr);
  launch_fast(o.problem(out.data(), o.n), config, nullptr);
  const auto floats = want.host();
  ASSERT_LT(testing::relative_error(testing::from_bf16(out.host()),
                                    std::vector<double>(floats.begin(), floats.end())),
            3e-3)
      << to_string(config);
}

void write_times(const Shape& shape, const std::vector<TimedConfig>& times) {
  const char* path = std::getenv("GEMM_CSV");
  if (path == nullptr) return;
  std::FILE* file = std::fopen(path, "a");
  ASSERT_NE(file, nullptr) << path;
  for (const auto& [us, config] : times) {
    fmt::print(file, "{},{},{},{},{},{:.2f}\n", shape.num_groups, shape.m, shape.n, shape.k,
               to_string(config), us);
  }
  std::fclose(file);
}

void tune(Shape shape) {
  shape.m = rounded_rows(shape.m);
  const auto times = time_candidates(shape);
  write_times(shape, times);
  TunedTable table = tuned_table();
  table.set(shape, times.front().config, times.front().us);
  use_tuned_table(std::move(table));
}

// GEMM_CONFIG where it names a candidate for the shape, else what the engine would take.
Config config_for(const Shape& shape) {
  if (const char* wanted = std::getenv("GEMM_CONFIG")) {
    for (const Config& config : candidates(shape)) {
      if (to_string(config) == wanted) return config;
    }
    ADD_FAILURE() << "no candidate " << wanted;
  }
  return chosen_config(shape);
}

// Raw bytes, in files named after the case's number: x [m, k], x_scales [k / 128, m], w, w_scales
// and out.
void dump(const Operands& o, const DeviceArray<uint16_t>& out, const Config& config) {
  const char* folder = std::getenv("GEMM_DUMP");
  if (folder == nullptr) return;
  static int number = 0;
  const std::string stem = fmt::format("{}/{}.", folder, number++);
  const auto write = [&](const char* name, const void* data, int64_t row_bytes, int64_t rows,
                         int64_t stride_bytes) {
    std::vector<char> bytes(row_bytes * rows);
    CUDA_CHECK(cudaMemcpy2D(bytes.data(), row_bytes, data, stride_bytes, row_bytes, rows,
                            cudaMemcpyDeviceToHost));
    std::ofstream(stem + name, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  };
  launch_fast(o.problem(out.data(), o.n), config, nullptr);
  write("x", o.x.data(), o.k, o.m, o.value_stride);
  write("x_scales", o.x_scales.data(), o.m * 4, o.k / 128, o.scale_stride * 4);
  write("w", o.w.data(), o.k, o.groups * o.n, o.k);
  write("w_scales", o.w_scales.data(), o.w_scale_count * 4, 1, o.w_scale_count * 4);
  write("out", out.data(), o.n * 2, o.m, o.n * 2);
}

void run(const Case& c) {
  const int64_t groups = std::max<int64_t>(1, static_cast<int64_t>(c.rows.size()));
  const int64_t copies = testing::copies_past_l2(groups * c.n * c.k);
  const Operands o(c.m, c.n, c.k, c.rows, copies, false);
  const DeviceArray<uint16_t> out(c.m * c.n);
  const Shape shape = shape_of(o.problem(out.data(), c.n));
  const Machine machine = current_machine();
  if (std::getenv("GEMM_TUNE") != nullptr) tune(shape);
  const Config chosen = config_for(shape);
  check(o, out, chosen);
  dump(o, out, chosen);
  const double us = time_us(o, out, copies, chosen);
  int64_t used = groups;
  if (!c.rows.empty()) used = groups - std::count(c.rows.begin(), c.rows.end(), 0);
  const double bytes = static_cast<double>(used * c.n * c.k + c.m * (c.k + 2 * c.n));
  const double flops = 2.0 * c.m * c.n * c.k;
  const double floor =
      std::max(bytes / (kDramShare * machine.dram_bytes_per_us), flops / kFlopsPerUs);
  fmt::print(
      "{:>4} {:>6} {:>6} {:>6} {:>8.2f} us {:>5.0f} TF {:>5.0f} GB/s floor {:>4.0f}% est {:>7.1f} "
      "{}",
      c.rows.size(), c.m, c.n, c.k, us, flops / us * 1e-6, bytes / us * 1e-3, floor / us * 100,
      estimated_us(chosen, shape, machine), to_string(chosen));
  fmt::print("\n");
  std::fflush(stdout);
}

void print_machine() {
  fmt::print("{}, {:.2f} TB/s\n", DeviceInfo::current().name,
             current_machine().dram_bytes_per_us * 1e-6);
}

// Of the file GEMM_CASES; empty without one, or with one that is wrong, which is a failure.
std::vector<Case> cases_of_file() {
  const char* path = std::getenv("GEMM_CASES");
  if (path == nullptr) return {};
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    Case c{};
    if (!(fields >> c.m >> c.n >> c.k)) {
      ADD_FAILURE() << line;
      return {};
    }
    for (int32_t rows; fields >> rows;) c.rows.push_back(rows);
    cases.push_back(c);
  }
  return cases;
}

TEST(Fp8GemmBench, Cases) {
  const auto cases = cases_of_file();
  if (cases.empty()) GTEST_SKIP() << "GEMM_CASES names no file";
  print_machine();
  for (const Case& c : cases) run(c);
}

// The dense ones of them by cuBLASLt.
TEST(Fp8GemmBench, Cublaslt) {
  const auto cases = cases_of_file();
  if (cases.empty()) GTEST_SKIP() << "GEMM_CASES names no file";
  print_machine();
  CublasltFp8Gemm cublaslt;
  for (const Case& c : cases) {
    if (!c.rows.empty()) continue;
    const int64_t copies = testing::copies_past_l2(c.n * c.k);
    const Operands o(c.m, c.n, c.k, {}, copies, false);
    const DeviceArray<uint16_t> out(c.m * c.n);
    const DeviceArray<uint8_t> workspace(CublasltFp8Gemm::workspace_bytes(c.m, c.k));
    const auto launch = [&](int64_t copy, cudaStream_t stream) {
      return cublaslt.launch(o.problem(out.data(), c.n, false, copy), workspace.data(), stream);
    };
    if (!launch(0, nullptr)) {
      fmt::print("   0 {:>6} {:>6} {:>6} no kernel\n", c.m, c.n, c.k);
      continue;
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    std::this_thread::sleep_for(rest());
    const int launches = 2.0 * c.m * c.n * c.k > 2e11 ? 3 : 20;
    const double us = testing::median_us(
        launches, 5, [&](int i, cudaStream_t stream) { launch(i % copies, stream); });
    fmt::print("   0 {:>6} {:>6} {:>6} {:>8.2f} us {:>5.0f} TF cublaslt\n", c.m, c.n, c.k, us,
               2e-6 * c.m * c.n * c.k / us);
    std::fflush(stdout);
  }
}

constexpr int64_t kDense[][2] = {{2112, 7168}, {24576, 1536}, {32768, 512}, {7168, 16384},
                                 {4096, 7168}, {7168, 2048},  {36864, 7168}};

TEST(Fp8GemmBench, Dense) {
  print_machine();
  for (const auto& [n, k] : kDense) {
    for (const int64_t m : {1, 8, 32, 64, 128, 256, 1024, 4096}) run({m, n, k, {}});
  }
}

// Sizes spread by 30% to both sides, as in the peer's measurement.
std::vector<int32_t> spread_rows(int groups, int mean, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<int32_t> rows(mean * 7 / 10, mean * 13 / 10);
  std::vector<int32_t> sizes(groups);
  for (int32_t& size : sizes) size = rows(engine);
  return sizes;
}

// Every row chooses its group at random.
std::vector<int32_t> random_rows(int groups, int total, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<int> group(0, groups - 1);
  std::vector<int32_t> sizes(groups, 0);
  for (int i = 0; i < total; ++i) ++sizes[group(engine)];
  return sizes;
}

TEST(Fp8GemmBench, Grouped) {
  print_machine();
  for (const auto& rows : {random_rows(256, 512, 1), random_rows(32, 64, 1), spread_rows(64, 8, 1),
                           spread_rows(64, 32, 1), spread_rows(64, 64, 1), spread_rows(64, 128, 1),
                           spread_rows(16, 512, 1), spread_rows(32, 1024, 1),
                           random_rows(256, 16384, 1), random_rows(256, 65536, 1)}) {
    const int64_t m = std::accumulate(rows.begin(), rows.end(), 0);
    run({m, 4096, 7168, rows});
    run({m, 7168, 2048, rows});
  }
}

// What a process waits for at its start: run it twice, as the first one compiles what the disk does
// not have.
TEST(Fp8GemmBench, WarmUp) {
  std::vector<Fp8GemmUse> uses;
  for (const auto& [n, k] : kDense) uses.push_back({.n = n, .k = k, .max_m = 8192});
  uses.push_back({.n = 4096, .k = 7168, .num_groups = 256, .swiglu = true, .max_m = 65536});
  uses.push_back({.n = 7168, .k = 2048, .num_groups = 256, .max_m = 65536});
  CUDA_CHECK(cudaFree(nullptr));  // has the context made, as a server's weights have
  int64_t num_compiled = 0;
  const int64_t start_us = monotonic_us();
  warm_up_fp8_gemm(uses, [&](const std::string&, int64_t total) { num_compiled = total; });
  fmt::print("warm up: {} compiled, {:.1f} ms\n", num_compiled,
             static_cast<double>(monotonic_us() - start_us) * 1e-3);
}

}  // namespace
}  // namespace deepflight::gemm_fp8
