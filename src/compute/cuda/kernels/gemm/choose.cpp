// The cost model: for each configuration the time of products, of L2 and of memory; the least wins.
// Its constants are fitted, see README.md.
#include "compute/cuda/kernels/gemm/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace deepflight::gemm_fp8 {
namespace {

// Constants of the model, fitted to the times of all configurations at the shapes of R1 on an H100.
// They rank configurations; taken one by one they are no rates of the hardware, since the largest
// of the three parts of a time and a share of all three are added up.
constexpr double kCyclesPerUs = 1830;  // of an SM
constexpr double kDramShare = 1.09;    // of the nominal bandwidth
constexpr double kL2BytesPerUs = 18.8e6;
constexpr double kShareOfAll = 0.135;
constexpr double kLaunchUs = 0.64;
constexpr double kTwoBlocksUs = 0.04;  // two blocks on an SM to start
constexpr double kSplitUs = 1.11;      // barriers and exchange of a cluster, and for each block
constexpr double kSplitBlockUs = 0.258;
constexpr double kBlockCycles = 147;    // a block of k, pipelined: what is beside the products
constexpr double kTurnCycles = 223;     // the same, one product at a time
constexpr double kScaleColumns = 2.46;  // cycles of scaling for each column of the right operand,
constexpr double kScaleRows = 1.26;     // scales along its columns, or along rows
constexpr double kTwoScales = 1.61;     // two scales, and where they part not known ahead
constexpr double kTileCycles = 2432;    // between tiles
constexpr double kStagedTileCycles = 329;  // the same where out is staged
constexpr double kStagedColumnCycles = 0.87;
constexpr double kBusyShare = 0.128;      // of SMs that it takes to draw the full bandwidth
constexpr double kMulticastSlows = 1.06;  // streams, since blocks wait for each other
constexpr double kUnevenWaves = 1.01;     // of groups that differ in size

// Clusters lie within a GPC, whose SMs do not divide evenly: the share of the SMs that they fill.
double cluster_share(const Config& config) {
  if (config.cluster() <= 2) return 1.0;
  if (config.multicast == 4) return 0.678;
  if (config.cluster() == 4) return config.blocks_per_sm == 1 ? 0.589 : 0.854;
  return config.blocks_per_sm == 1 ? 0.6 : 0.586;
}

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
// of the mean are assumed, and Poisson's chance of an empty one. `step`: rows of a tile, or of what
// a tile may leave out at a group's end.
double row_tiles(const Shape& shape, int step) {
  if (shape.num_groups == 0) return static_cast<double>(ceil_div(shape.m, step));
  const double mean = static_cast<double>(shape.m) / shape.num_groups;
  const double occupied = mean > 30 ? 1.0 : 1.0 - std::exp(-mean);
  double tiles = 0;
  constexpr int kSamples = 16;
  for (int i = 0; i < kSamples; ++i) {
    const double rows = std::max(1.0, mean / occupied * (0.5 + (i + 0.5) / kSamples));
    tiles += std::ceil((rows + 1.5) / step) / kSamples;  // a tile may begin before
  }
  return tiles * occupied * shape.num_groups;
}

// Cycles of one block of k of one tile, on an SM that has blocks_per_sm of them at a time.
double step_cycles(const Config& config) {
  const double products = 2.0 * std::max(config.right(), 16);  // m64 n k128
  const double scaling =
      config.right() * (config.swapped ? kScaleColumns : kScaleRows) *
      (config.column_scales() == 2 && config.columns % 32 != 0 ? kTwoScales : 1.0);
  const double serial = config.pipelined() ? std::max(products, scaling) + kBlockCycles
                                           : config.repeats() * (products + scaling + kTurnCycles);
  const double read = config.repeats() * config.warpgroups * (64.0 + config.right()) * kBlockK;
  const double shared = (read + config.x_bytes() + config.w_bytes()) / 128.0;
  const double tensor = config.repeats() * config.warpgroups * products;
  return std::max(serial, config.blocks_per_sm * std::max(tensor, shared));
}

}  // namespace

int64_t rounded_rows(int64_t m) {
  const int64_t step = m <= 64 ? 8 : m <= 512 ? 16 : m <= 1024 ? 64 : m <= 4096 ? 256 : 1024;
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
          if (blocks == 2 && (rows > 64 || (shape.num_groups > 0 && columns == 128))) {
            continue;  // registers
          }
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
  const double rows_a_group = static_cast<double>(shape.m) / std::max(shape.num_groups, 1);
  for (const int rows : {64, 128, 256}) {
    if (rows == 64 && rows_a_group > 192) continue;
    for (const int columns : {16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192}) {
      if (columns > (rows == 128 ? 192 : 128)) {
        continue;  // registers
      }
      const bool narrow = columns < 64 || columns == 80 || columns == 112;
      if (narrow && (shape.num_groups > 0 || rows_a_group > 320 || rows == 256)) continue;
      for (const auto& [multicast, shared_w] :
           {std::pair(1, false), {2, false}, {4, false}, {2, true}}) {
        if (multicast == 4 && (columns > 64 || rows == 256)) continue;
        if (shared_w && (rows == 64 || rows_a_group <= rows)) continue;
        for (const bool staged : {false, true}) {
          if (staged && (columns % 64 != 0 || shape.out_f32)) continue;
          Config config;
          config.rows = rows;
          config.columns = columns;
          config.warpgroups = rows == 64 ? 1 : 2;
          config.multicast = multicast;
          config.shared_w = shared_w;
          config.staged = staged;
          add(config);
        }
      }
    }
  }
  return found;
}

double estimated_us(const Config& config, const Shape& shape, const Machine& machine) {
  const double m = static_cast<double>(shape.m), n = static_cast<double>(shape.n),
               k = static_cast<double>(shape.k);
  const double strips = static_cast<double>(ceil_div(shape.n, config.cluster_columns()));
  const double units = row_tiles(shape, config.cluster_rows()) * strips;  // work for a cluster
  // Of the products, where the last tile of a group leaves out those of rows that it does not have.
  const double products =
      config.repeats() == 1 ? 1.0
                            : row_tiles(shape, config.rows / 2) / 2 / row_tiles(shape, config.rows);
  const double part = std::ceil(static_cast<double>(ceil_div(shape.k, kBlockK)) / config.split_k);
  const double slots =
      std::floor(machine.num_sms * cluster_share(config) * config.blocks_per_sm / config.cluster());
  const double waves =
      shape.num_groups > 0 ? units / slots + kUnevenWaves : std::ceil(units / slots);
  const double tile_cycles =
      config.staged ? kStagedTileCycles + kStagedColumnCycles * config.right() : kTileCycles;
  const double math = waves * (part * step_cycles(config) * products + tile_cycles) / kCyclesPerUs;

  const double out_bytes = m * n * (shape.out_f32 ? 4 : 2);
  const double w_bytes = config.w_bytes(), x_bytes = config.x_bytes() * products;
  const double step_bytes =
      config.shared_w ? w_bytes / config.multicast + x_bytes : w_bytes + x_bytes / config.multicast;
  const double l2 = (units * config.cluster() * part * step_bytes + out_bytes) / kL2BytesPerUs;

  double weights = n * k;
  if (shape.num_groups > 0) {
    weights *= shape.num_groups * (1 - std::exp(-m / shape.num_groups));
  }
  const double busy = std::min(1.0, units * config.cluster() / (kBusyShare * machine.num_sms));
  const double dram = (weights + m * k + out_bytes) /
                      (kDramShare * machine.dram_bytes_per_us * busy) *
                      (config.multicast > 1 ? kMulticastSlows : 1.0);

  return kLaunchUs + (config.blocks_per_sm == 2 ? kTwoBlocksUs : 0.0) +
         (config.split_k > 1 ? kSplitUs + kSplitBlockUs * config.split_k : 0.0) +
         std::max({math, l2, dram}) + kShareOfAll * (math + l2 + dram);
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
  const int64_t strips = ceil_div(shape.n, config.cluster_columns());
  int64_t tiles = ceil_div(shape.m, config.cluster_rows());
  if (shape.num_groups > 0) {
    const int64_t groups = std::min<int64_t>(shape.num_groups, shape.m);
    tiles = (shape.m + 3 * groups) / config.cluster_rows() + groups;
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
  if (config.multicast > 1) {
    name += fmt::format("_{}{}", config.shared_w ? "mw" : "m", config.multicast);
  }
  if (config.split_k > 1) name += fmt::format("_k{}", config.split_k);
  if (config.blocks_per_sm > 1) name += fmt::format("_b{}", config.blocks_per_sm);
  if (config.staged) name += "_staged";
  return name;
}

}  // namespace deepflight::gemm_fp8
