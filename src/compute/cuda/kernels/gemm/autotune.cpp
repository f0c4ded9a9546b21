// Operands of random numbers, weights rotated past the L2, graphs replayed.
#include "compute/cuda/kernels/gemm/autotune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "compute/cuda/jit/cache.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/kernels/gemm/kernels.h"
#include "compute/cuda/kernels/gemm/source.h"
#include "compute/cuda/runtime/device.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/replay_time.h"
#include "tensor/float_formats.h"

namespace deepflight::gemm_fp8 {
namespace {

constexpr int64_t kPastL2 = 220 << 20;  // of weights in rotation
constexpr double kLikely = 1.6;         // estimates past the best one's, times this, are not tried
constexpr int kFinalists = 5;           // that are measured once more
// A GPU at its power limit slows down, and large tiles more than others: it rests this many times
// as long as it has worked.
constexpr int kRest = 4;

// The pattern over and over; its length is no multiple of a row's.
template <typename T>
Buffer repeated(int64_t count, const std::vector<T>& pattern) {
  Buffer buffer = allocate_device(count * static_cast<int64_t>(sizeof(T)));
  char* data = static_cast<char*>(buffer.data());
  const int64_t size = count * static_cast<int64_t>(sizeof(T));
  int64_t done = std::min(size, static_cast<int64_t>(pattern.size() * sizeof(T)));
  CUDA_CHECK(cudaMemcpy(data, pattern.data(), done, cudaMemcpyHostToDevice));
  while (done < size) {
    const int64_t part = std::min(done, size - done);
    CUDA_CHECK(cudaMemcpy(data + done, data, part, cudaMemcpyDeviceToDevice));
    done += part;
  }
  return buffer;
}

std::vector<uint8_t> random_values() {
  std::mt19937_64 engine(1);
  std::normal_distribution<float> normal(0.0f, 40.0f);
  std::vector<uint8_t> values(1000003);
  for (uint8_t& value : values) value = f32_to_f8e4m3(normal(engine));
  return values;
}

std::vector<float> random_scales() {
  std::mt19937_64 engine(2);
  std::uniform_real_distribution<float> scale(0.005f, 0.02f);
  std::vector<float> values(10007);
  for (float& value : values) value = scale(engine);
  return values;
}

// Rows of the groups: each at random between half and one and a half of the mean, few rows each to
// a group of its own choice.
std::vector<int32_t> random_offsets(int64_t m, int num_groups) {
  std::mt19937_64 engine(3);
  std::uniform_real_distribution<double> weight(0.5, 1.5);
  std::vector<double> weights(num_groups);
  for (double& w : weights) w = weight(engine);
  std::discrete_distribution<int> group(weights.begin(), weights.end());
  std::vector<int32_t> offsets(num_groups + 1, 0);
  for (int64_t row = 0; row < m; ++row) ++offsets[group(engine) + 1];
  for (int g = 0; g < num_groups; ++g) offsets[g + 1] += offsets[g];
  return offsets;
}

class Operands {
 public:
  explicit Operands(const Shape& shape)
      : shape_(shape), groups_(std::max(shape.num_groups, 1)), copies_(copies_of(shape)) {
    const auto values = random_values();
    const auto scales = random_scales();
    x_ = repeated((shape.m + Fp8Rows::kRowsBeyond) * Fp8Rows::value_stride_of(shape.k), values);
    x_scales_ = repeated(Fp8Rows::scale_stride_of(shape.m) * k_blocks(), scales);
    w_ = repeated(copies_ * groups_ * shape.n * shape.k, values);
    w_scales_ = repeated(groups_ * ((shape.n + 127) / 128) * k_blocks(), scales);
    out_ = allocate_device(shape.m * shape.n * (shape.out_f32 ? 4 : 2));  // or what swiglu leaves
    if (shape.swiglu) out_scales_ = allocate_device(shape.n / 256 * scale_stride() * 4);
    if (shape.num_groups > 0) {
      const auto offsets = random_offsets(shape.m, shape.num_groups);
      offsets_ = repeated(static_cast<int64_t>(offsets.size()), offsets);
      next_tile_ = repeated(1, std::vector<int32_t>{0});
    }
    CUDA_CHECK(cudaDeviceSynchronize());
  }

  static int64_t bytes(const Shape& shape) {
    return shape.m * (2 * shape.k + shape.n * (shape.out_f32 ? 4 : 2)) +
           copies_of(shape) * std::max(shape.num_groups, 1) * shape.n * shape.k;
  }

  double us(const Config& config, int repeats) const {
    const double guess = estimated_us(config, shape_, current_machine());
    const int launches = guess > 150 ? 3 : guess > 30 ? 8 : 20;
    const double us = median_us(launches, repeats, [&](int i, cudaStream_t stream) {
      launch_fast(problem(i % copies_), config, stream);
    });
    std::this_thread::sleep_for(
        std::chrono::duration<double, std::micro>(kRest * us * launches * (repeats + 1)));
    return us;
  }

 private:
  static int64_t copies_of(const Shape& shape) {
    return kPastL2 / (std::max(shape.num_groups, 1) * shape.n * shape.k) + 1;
  }
  int64_t scale_stride() const { return Fp8Rows::scale_stride_of(shape_.m); }
  int64_t k_blocks() const { return (shape_.k + 127) / 128; }

  Fp8GemmProblem problem(int64_t copy) const {
    Fp8GemmProblem p;
    p.x = {static_cast<uint8_t*>(x_.data()), Fp8Rows::value_stride_of(shape_.k),
           static_cast<float*>(x_scales_.data()), Fp8Rows::scale_stride_of(shape_.m)};
    p.w = static_cast<const uint8_t*>(w_.data()) + copy * groups_ * shape_.n * shape_.k;
    p.w_scales = static_cast<const float*>(w_scales_.data());
    p.out = out_.data();
    p.out_stride = shape_.n;
    p.out_f32 = shape_.out_f32;
    if (shape_.swiglu) {
      p.activated = {static_cast<uint8_t*>(out_.data()), shape_.n / 2,
                     static_cast<float*>(out_scales_.data()), scale_stride()};
    }
    p.m = shape_.m, p.n = shape_.n, p.k = shape_.k;
    p.num_groups = shape_.num_groups;
    p.offsets = static_cast<const int32_t*>(offsets_.data());
    p.next_tile = static_cast<int32_t*>(next_tile_.data());
    p.weights_settled = true;
    return p;
  }

  Shape shape_;
  int64_t groups_, copies_;
  Buffer x_, x_scales_, w_, w_scales_, out_, out_scales_, offsets_, next_tile_;
};

std::vector<Config> likely_candidates(const Shape& shape) {
  const Machine machine = current_machine();
  std::vector<Config> likely;
  const double limit = kLikely * estimated_us(choose(shape, machine), shape, machine);
  for (const Config& config : candidates(shape)) {
    if (estimated_us(config, shape, machine) <= limit) likely.push_back(config);
  }
  return likely;
}

}  // namespace

namespace {

struct DeviceTable {
  TunedFor of;
  std::filesystem::path path;  // empty: nowhere to keep it
  TunedTable table;
};

std::mutex table_mutex;

// Reads the file of the current device once. To be called under the mutex.
DeviceTable& device_table() {
  static std::map<int, DeviceTable> tables;
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  const auto [place, is_new] = tables.try_emplace(device);
  DeviceTable& entry = place->second;
  if (!is_new) return entry;
  entry.of.gpu = DeviceInfo::current().name;
  CUDA_CHECK(cudaDriverGetVersion(&entry.of.driver));
  entry.of.kernels = JitCache::key(source_of(Config{}));
  const std::filesystem::path folder = JitCache::of_environment().folder();
  if (folder.empty()) return entry;
  std::string name = entry.of.gpu;
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  entry.path = folder / fmt::format("fp8_gemm_{}_{}.json", name, entry.of.driver);
  constexpr uint64_t kMaxBytes = 16 << 20;
  const auto text = read_file(entry.path, kMaxBytes);
  if (!text.ok()) return entry;  // none yet
  auto table = TunedTable::parse(text.value(), entry.of, entry.path.string());
  if (table.ok()) {
    entry.table = std::move(table).value();
  } else {
    spdlog::warn("{}; not used", table.error().message);
  }
  return entry;
}

}  // namespace

TunedTable tuned_table() {
  std::lock_guard lock(table_mutex);
  return device_table().table;
}

void use_tuned_table(TunedTable table) {
  std::lock_guard lock(table_mutex);
  DeviceTable& entry = device_table();
  entry.table = std::move(table);
  if (entry.path.empty()) return;
  const auto written = write_file(entry.path, entry.table.text(entry.of) + '\n');
  if (!written.ok()) spdlog::warn("{}", written.error().message);
}

Config chosen_config(const Shape& shape) {
  {
    std::lock_guard lock(table_mutex);
    const auto config = device_table().table.find(shape);
    if (config && (!shape.batch_invariant || is_batch_invariant(*config))) return *config;
  }
  return choose(shape, current_machine());
}

std::vector<TimedConfig> time_candidates(const Shape& shape) {
  const Operands operands(shape);
  const std::vector<Config> configs = likely_candidates(shape);
  ThreadPool pool(0);
  pool.parallel_for(static_cast<int64_t>(configs.size()),
                    [&](int64_t i) { jit_cubin(source_of(configs[i])); });
  std::vector<TimedConfig> times;
  for (const Config& config : configs) times.push_back({operands.us(config, 3), config});
  std::ranges::stable_sort(times, {}, &TimedConfig::us);
  const auto finalists = std::min<size_t>(times.size(), kFinalists);
  for (size_t i = 0; i < finalists; ++i) times[i].us = operands.us(times[i].config, 9);
  std::stable_sort(times.begin(), times.begin() + static_cast<ptrdiff_t>(finalists),
                   [](const TimedConfig& x, const TimedConfig& y) { return x.us < y.us; });
  return times;
}

}  // namespace deepflight::gemm_fp8

namespace deepflight {

void autotune_fp8_gemm(
    std::span<const Fp8GemmUse> uses,
    const std::function<void(const std::string& note, int64_t total)>& progress) {
  using namespace gemm_fp8;  // NOLINT: this kernel's own
  std::vector<Shape> shapes;
  for (const Fp8GemmUse& use : uses) {
    for (const int64_t m : row_steps(use.max_m)) {
      shapes.push_back({m, use.n, use.k, use.num_groups, use.out_f32});
      Shape fused = shapes.back();
      fused.swiglu = true;
      if (use.swiglu && swiglu_pays(fused, current_machine())) shapes.push_back(fused);
    }
  }
  TunedTable table = tuned_table();
  for (const Shape& shape : shapes) {
    const std::string what =
        fmt::format("{} x {} x {}{}", shape.m, shape.n, shape.k, shape.swiglu ? " swiglu" : "");
    if (Operands::bytes(shape) < free_device_bytes() - (int64_t{1} << 30)) {
      const TimedConfig best = time_candidates(shape).front();
      table.set(shape, best.config, best.us);
      progress(fmt::format("{}: {:.1f} us {}", what, best.us, to_string(best.config)),
               static_cast<int64_t>(shapes.size()));
    } else {
      spdlog::warn("autotune: no memory for the operands of {} ({} groups); not measured", what,
                   shape.num_groups);
      progress(what, static_cast<int64_t>(shapes.size()));
    }
  }
  use_tuned_table(std::move(table));
}

}  // namespace deepflight
