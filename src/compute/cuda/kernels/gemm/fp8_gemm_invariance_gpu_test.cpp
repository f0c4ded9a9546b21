// Batch-invariant FP8 products: a row has the same bits whatever m, its place, the configuration
// that was chosen for the shape, and the groups beside its own.
#include <fmt/format.h>

#include <cstdio>

#include "base/thread_pool.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/kernels/gemm/fp8_gemm_testing.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/gemm/source.h"

namespace deepflight::gemm_fp8 {
namespace {

constexpr int64_t kShapes[][2] = {{2112, 7168}, {520, 1024}, {1536, 640}, {100, 4112}};  // n, k

Fp8GemmProblem invariant(const Operands& o, void* out) {
  Fp8GemmProblem p = o.problem(out, o.n, true);
  p.batch_invariant = true;
  return p;
}

// Rows [begin, begin + count) of the problem, alone: `begin` is a multiple of 4, as x's scales have
// to lie.
Fp8GemmProblem rows_of(Fp8GemmProblem p, int64_t begin, int64_t count) {
  p.x.values += begin * p.x.value_stride;
  p.x.scales += begin;
  p.m = count;
  return p;
}

bool same_bits(const std::vector<float>& part, const std::vector<float>& whole, int64_t at) {
  return std::memcmp(part.data(), whole.data() + at, part.size() * sizeof(float)) == 0;
}

TEST(Fp8GemmInvariance, RowsAloneAndInBatches) {
  for (const auto& [n, k] : kShapes) {
    const Operands o(2000, n, k, {});
    const DeviceArray<float> all(o.m * n);
    launch_fp8_gemm(invariant(o, all.data()), nullptr);
    const auto whole = all.host();
    for (const int64_t count : {1, 2, 7, 8, 9, 33, 64, 65, 130, 257, 700}) {
      for (const int64_t begin : {0, 4, 508, 1296}) {
        const DeviceArray<float> some(count * n);
        launch_fp8_gemm(rows_of(invariant(o, some.data()), begin, count), nullptr);
        EXPECT_TRUE(same_bits(some.host(), whole, begin * n))
            << count << " rows from " << begin << ", n " << n << " k " << k;
      }
    }
  }
}

// All that could be chosen, also with another autotune table or machine.
TEST(Fp8GemmInvariance, EveryConfigurationOfTheFamily) {
  for (const auto& [n, k] : kShapes) {
    const Operands o(300, n, k, {});
    Shape shape = {o.m, n, k, 0, true, false, true};
    const auto run = [&](const Config& config) {
      const DeviceArray<float> out(o.m * n);
      launch_fast(o.problem(out.data(), n, true), config, nullptr);
      return out.host();
    };
    const auto configs = candidates(shape);
    ThreadPool pool(0);
    pool.parallel_for(static_cast<int64_t>(configs.size()),
                      [&](int64_t i) { jit_cubin(source_of(configs[i])); });
    const auto want = run(configs.front());
    for (const Config& config : configs) {
      EXPECT_TRUE(same_bits(run(config), want, 0)) << to_string(config) << " n " << n << " k " << k;
    }
    // Not required: whether the tensor cores add up alike with x on their other side.
    shape.batch_invariant = false;
    for (const Config& config : candidates(shape)) {
      if (!config.swapped || config.split_k > 1) continue;
      std::printf("n %lld k %lld: %s gives %s bits\n", static_cast<long long>(n),
                  static_cast<long long>(k), to_string(config).c_str(),
                  same_bits(run(config), want, 0) ? "the same" : "other");
      break;
    }
  }
}

// A group's rows alone, in several places of m, against all groups at once.
TEST(Fp8GemmInvariance, GroupsAloneAndTogether) {
  const std::vector<int32_t> rows = {5, 0, 64, 9, 1, 300, 0, 33, 130};
  const Operands o(std::accumulate(rows.begin(), rows.end(), 0), 384, 2048, rows);
  const DeviceArray<float> all(o.m * o.n);
  launch_fp8_gemm(invariant(o, all.data()), nullptr);
  const auto whole = all.host();
  for (size_t group = 0; group < rows.size(); ++group) {
    const int32_t begin = o.host_offsets[group], end = o.host_offsets[group + 1];
    for (const int32_t first : {begin, (begin + end) / 2}) {
      std::vector<int32_t> offsets(o.host_offsets.size(), first);
      std::fill(offsets.begin() + static_cast<ptrdiff_t>(group) + 1, offsets.end(), end);
      const DeviceArray<int32_t> d_offsets(offsets);
      const DeviceArray<float> some(o.m * o.n);
      Fp8GemmProblem p = invariant(o, some.data());
      p.offsets = d_offsets.data();
      p.m = end;
      if (p.m == 0) continue;
      launch_fp8_gemm(p, nullptr);
      auto got = some.host();
      got.erase(got.begin() + end * o.n, got.end());
      got.erase(got.begin(), got.begin() + first * o.n);
      EXPECT_TRUE(same_bits(got, whole, first * o.n)) << "group " << group << " from " << first;
    }
  }
}

}  // namespace
}  // namespace deepflight::gemm_fp8
