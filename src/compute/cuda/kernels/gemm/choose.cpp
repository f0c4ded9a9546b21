#include "compute/cuda/kernels/gemm/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace deepflight::gemm_fp8 {
namespace {

// Rates of the model. Cycles are of an SM; the chip throttles under FP8 products.
constexpr double kCyclesPerUs = 1600;
constexpr double kDramBytesPerUs = 4.2e6;
constexpr double kL2BytesPerUs = 6.0e6;
constexpr double kLaunchUs = 3.0;
constexpr double kSplitUs = 1.2;        // barriers and exchange of a cluster
constexpr double kLatencyCycles = 140;  // of a warpgroup's step: wait, products' latency, release

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// As many stages as shared memory holds.
Config with_stages(Config config) {
  const int fixed = config.shared_bytes() - config.stages * config.stage_bytes();
  const int limit = config.blocks_per_sm == 1 ? kSharedLimit : kSharedLimit / 2 - 512;
  config.stages = std::min((limit - fixed) / config.stage_bytes(), 16);
  return config;
}

bool fits(const Config& config) {
  return config.stages >= (config.repeats() == 2 ? 3 : 4) &&
         config.partial_bytes() <= config.stages * (config.x_bytes() + config.w_bytes());
}

// Tiles of rows over all groups. Groups differ: sizes spread evenly between half and one and a half
// of the mean are assumed, and Poisson's chance of an empty one.
double row_tiles(const Config& config, const Shape& shape) {
  if (shape.num_groups == 0) return static_cast<double>(ceil_div(shape.m, config.rows));
  const double mean = static_cast<double>(shape.m) / shape.num_groups;
  const double occupied = mean > 30 ? 1.0 : 1.0 - std::exp(-mean);
  double tiles = 0;
  constexpr int kSamples = 16;
  for (int i = 0; i < kSamples; ++i) {
    const double rows = std::max(1.0, mean / occupied * (0.5 + (i + 0.5) / kSamples));
    tiles += std::ceil((rows + 1.5) / config.rows) / kSamples;  // a tile may begin before
  }
  return tiles * occupied * shape.num_groups;
}

// Cycles of one block of k of one tile, on an SM that has blocks_per_sm of them at a time.
double step_cycles(const Config& config) {
  const double products = 2.0 * std::max(config.right(), 16);  // m64 n k128
  const double promotion =
      config.right() * (config.swapped ? 0.9 : 0.75) * (config.column_scales() == 2 ? 1.3 : 1.0);
  const double serial = config.repeats() * (products + promotion + kLatencyCycles);
  const double shared = (config.repeats() * config.warpgroups * (64.0 + config.right()) * kBlockK +
                         config.stage_bytes()) /
                        128.0;
  const double tensor = config.repeats() * config.warpgroups * products;
  return std::max(serial, config.blocks_per_sm * std::max(tensor, shared));
}

}  // namespace

int64_t rounded_rows(int64_t m) {
  const int64_t step = m <= 64 ? 8 : m <= 256 ? 16 : m <= 1024 ? 64 : m <= 4096 ? 256 : 1024;
  return std::max<int64_t>(ceil_div(m, step) * step, step);
}

std::vector<int64_t> row_steps(int64_t max_m) {
  std::vector<int64_t> steps;
  for (int64_t m = 1; m <= max_m;) {
    steps.push_back(rounded_rows(m));
    m = steps.back() + 1;
  }
  return steps;
}

std::vector<Config> candidates(const Shape& shape) {
  std::vector<Config> found;
  const auto add = [&](Config config) {
    config.grouped = shape.num_groups > 0;
    config.out_f32 = shape.out_f32;
    config = with_stages(config);
    if (fits(config)) found.push_back(config);
  };
  const int64_t k_blocks = ceil_div(shape.k, kBlockK);
  for (const int rows : {16, 32, 48, 64, 96, 128, 160, 192}) {
    for (const int columns : {64, 128}) {
      for (const int split : {1, 2, 4, 8}) {
        if (split > 1 && (shape.num_groups > 0 || k_blocks < 4 * split || rows > 128)) continue;
        for (const int blocks : {1, 2}) {
          if (blocks == 2 && rows > 64) continue;  // registers
          Config config;
          config.swapped = true;
          config.rows = rows;
          config.columns = columns;
          config.warpgroups = columns / 64;
          config.split_k = split;
          config.blocks_per_sm = blocks;
          add(config);
        }
      }
    }
  }
  for (const int rows : {128, 256}) {
    for (const int columns : {64, 96, 128, 144, 160, 192}) {
      for (const int multicast : {1, 2}) {
        if (columns > (rows == 256 ? 128 : shape.num_groups > 0 ? 160 : 192))
          continue;  // registers
        Config config;
        config.rows = rows;
        config.columns = columns;
        config.multicast = multicast;
        add(config);
      }
    }
  }
  return found;
}

double estimated_us(const Config& config, const Shape& shape, const Machine& machine) {
  const double m = static_cast<double>(shape.m), n = static_cast<double>(shape.n),
               k = static_cast<double>(shape.k);
  const double k_blocks = static_cast<double>(ceil_div(shape.k, kBlockK));
  const double strips = static_cast<double>(ceil_div(shape.n, config.columns * config.multicast));
  const double tiles = row_tiles(config, shape);
  const double units = tiles * strips;  // clusters' worth of work
  // Clusters lie within a GPC, whose SMs do not divide evenly.
  const double usable = config.cluster() <= 2 ? machine.num_sms : machine.num_sms - 4;
  const double slots = std::floor(usable * config.blocks_per_sm / config.cluster());
  double waves = std::ceil(units / slots);
  if (shape.num_groups > 0) waves = units / slots + 0.5;  // sizes vary: no sharp last wave
  const double part = std::ceil(k_blocks / config.split_k);
  const double math =
      waves * (part * step_cycles(config) + 300 + 4 * config.right()) / kCyclesPerUs;
  const double step_bytes =
      config.w_bytes() + static_cast<double>(config.x_bytes()) / config.multicast;
  const double out_bytes = m * n * (shape.out_f32 ? 4 : 2);
  const double l2 = (units * config.cluster() * part * step_bytes + out_bytes) / kL2BytesPerUs;
  double weights = n * k;
  if (shape.num_groups > 0) {
    weights *= shape.num_groups * (1 - std::exp(-m / shape.num_groups));
  }
  // Streaming needs copies in flight on most SMs.
  const double busy = std::min(1.0, units * config.cluster() / (0.8 * machine.num_sms));
  const double dram = (weights + m * k + out_bytes) / (kDramBytesPerUs * busy);
  return kLaunchUs + (config.split_k > 1 ? kSplitUs + 0.1 * config.split_k : 0.0) +
         std::max({math, l2, dram}) + 0.15 * (math + l2 + dram);
}

Config choose(const Shape& shape, const Machine& machine) {
  Shape rounded = shape;
  rounded.m = rounded_rows(shape.m);
  Config best;
  double best_us = INFINITY;
  for (const Config& config : candidates(rounded)) {
    const double us = estimated_us(config, rounded, machine);
    if (us < best_us) {
      best_us = us;
      best = config;
    }
  }
  CHECK(std::isfinite(best_us), shape.m, shape.n, shape.k);
  return best;
}

int num_blocks(const Config& config, const Shape& shape, const Machine& machine) {
  const int64_t strips = ceil_div(shape.n, config.columns * config.multicast);
  int64_t tiles = ceil_div(shape.m, config.rows);
  if (shape.num_groups > 0) {
    const int64_t groups = std::min<int64_t>(shape.num_groups, shape.m);
    tiles = (shape.m + 3 * groups) / config.rows + groups;
  }
  const int64_t units = tiles * strips;
  if (config.split_k > 1) return static_cast<int>(units * config.cluster());
  const int64_t slots = machine.num_sms * config.blocks_per_sm / config.cluster();
  return static_cast<int>(std::min(units, slots) * config.cluster());
}

std::string to_string(const Config& config) {
  std::string name = fmt::format("{}_r{}_c{}_w{}_s{}", config.swapped ? "swapped" : "normal",
                                 config.rows, config.columns, config.warpgroups, config.stages);
  if (config.grouped) name += "_grouped";
  if (config.out_f32) name += "_f32";
  if (config.multicast > 1) name += fmt::format("_m{}", config.multicast);
  if (config.split_k > 1) name += fmt::format("_k{}", config.split_k);
  if (config.blocks_per_sm > 1) name += fmt::format("_b{}", config.blocks_per_sm);
  return name;
}

}  // namespace deepflight::gemm_fp8
