// The cost model: for each variant the time of products, of L2 and of memory; the least wins, but
// for a few shapes that have been measured.
// Its constants are fitted, see README.md.
#include "compute/cuda/kernels/gemm/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "base/check.h"

namespace deepflight::gemm_fp8 {
namespace {

// Constants of the model, fitted to the times of all variants at 202 shapes on an H100 and 132 on
// an H200; six variants' cycles set again where 196 shapes on an H100 said so. They rank variants;
// taken one by one they are no rates of the hardware.
constexpr double kCyclesPerUs = 1830;  // of an SM
constexpr double kDramShare = 0.936;   // of the nominal bandwidth
constexpr double kBusyShare = 0.211;   // of SMs that it takes to draw it
constexpr double kL2BytesPerUs = 12.49e6;
constexpr double kTogether = 2.885;  // exponent: parts of a time that overlap, and not quite
constexpr double kDramBeside = 0.0157;
constexpr double kLaunchUs = 1.438;
constexpr double kSplitUs = 0.2579;  // barriers and exchange of a cluster, and for each block
constexpr double kSplitBlockUs = 0.214;
constexpr double kTileColumnCycles = 17.17;  // between tiles, for each column of a warpgroup's sums
constexpr double kStagedColumnCycles = 9.982;  // the same where out is staged
constexpr double kUnevenWaves = 0.991;         // of groups that differ in size
constexpr double kThreeColumns = 2.0;          // times that, for each column, of three warpgroups
constexpr double kThreeStagedColumns = 1.2;    // the same of dense tiles that are staged
constexpr double kIdleShare = 0.4;             // of what a third warpgroup costs, without rows

// The kernels that are weighed: all others of the family were never the fastest, or by less than
// 3 % at one shape in 202. Cycles: of one block of k of a tile, with everything that the products
// wait for.
struct Variant {
  bool swapped = false;
  int rows = 0;
  int columns = 0;
  int share_x = 1;  // blocks of a cluster with columns of their own
  int share_w = 1;  // with rows of their own
  int split_k = 1;
  int blocks_per_sm = 1;
  bool staged = false;
  bool swiglu = false;
  double cycles = 0;
  double grouped_cycles = 0;  // where they differ

  constexpr Config config() const {
    Config config;
    config.swapped = swapped;
    config.rows = rows;
    config.columns = columns;
    config.warpgroups = rows == 192 ? 3 : (swapped ? columns : rows) == 64 && !swiglu ? 1 : 2;
    config.multicast = share_x * share_w;
    config.shared_w = share_w > 1;
    config.split_k = split_k;
    config.blocks_per_sm = blocks_per_sm;
    config.staged = staged;
    config.swiglu = swiglu;
    return config;
  }
  // Whether `other` is config(), for some number of stages and kind of problem.
  constexpr bool makes(const Config& other) const {
    return rows == other.rows && columns == other.columns && swapped == other.swapped &&
           share_x * share_w == other.multicast && (share_w > 1) == other.shared_w &&
           split_k == other.split_k && blocks_per_sm == other.blocks_per_sm &&
           staged == other.staged && swiglu == other.swiglu;
  }
};

constexpr Variant kVariants[] = {
    {.swapped = true, .rows = 16, .columns = 64, .cycles = 213},
    {.swapped = true, .rows = 16, .columns = 64, .blocks_per_sm = 2, .cycles = 352},
    {.swapped = true, .rows = 16, .columns = 64, .split_k = 2, .cycles = 288},
    {.swapped = true, .rows = 16, .columns = 64, .split_k = 4, .blocks_per_sm = 2, .cycles = 413},
    {.swapped = true, .rows = 16, .columns = 64, .split_k = 8, .cycles = 335},
    {.swapped = true, .rows = 32, .columns = 64, .split_k = 2, .cycles = 298},
    {.swapped = true, .rows = 32, .columns = 64, .split_k = 2, .blocks_per_sm = 2, .cycles = 117},
    {.swapped = true, .rows = 32, .columns = 64, .split_k = 4, .blocks_per_sm = 2, .cycles = 137},
    {.swapped = true, .rows = 48, .columns = 64, .split_k = 2, .blocks_per_sm = 2, .cycles = 180},
    {.swapped = true, .rows = 64, .columns = 64, .split_k = 2, .cycles = 313},
    {.swapped = true, .rows = 64, .columns = 64, .split_k = 8, .cycles = 350},
    {.swapped = true, .rows = 96, .columns = 64, .cycles = 361},
    {.rows = 64, .columns = 32, .cycles = 163},
    {.rows = 64, .columns = 48, .cycles = 231},
    {.rows = 64, .columns = 64, .share_x = 2, .staged = true, .cycles = 288},
    {.rows = 64, .columns = 64, .share_x = 4, .cycles = 260},
    {.rows = 64, .columns = 64, .staged = true, .cycles = 198},
    {.rows = 64, .columns = 96, .share_x = 2, .cycles = 310},
    {.rows = 64, .columns = 128, .share_x = 2, .staged = true, .cycles = 361},
    {.rows = 64, .columns = 128, .staged = true, .cycles = 280},
    {.rows = 128, .columns = 32, .share_w = 2, .cycles = 119},
    {.rows = 128, .columns = 64, .share_x = 2, .staged = true, .cycles = 392},
    {.rows = 128, .columns = 64, .share_w = 2, .cycles = 324},
    {.rows = 128, .columns = 64, .share_w = 2, .staged = true, .cycles = 338},
    {.rows = 128, .columns = 96, .cycles = 359},
    {.rows = 128, .columns = 96, .share_w = 2, .cycles = 408},
    {.rows = 128, .columns = 128, .cycles = 457},
    {.rows = 128, .columns = 128, .share_x = 2, .cycles = 569},
    {.rows = 128, .columns = 128, .share_x = 2, .staged = true, .cycles = 621},
    {.rows = 128, .columns = 128, .share_w = 2, .cycles = 563},
    {.rows = 128, .columns = 128, .share_w = 2, .staged = true, .cycles = 571},
    {.rows = 128, .columns = 128, .staged = true, .cycles = 524},
    {.rows = 128, .columns = 160, .share_w = 2, .cycles = 721},
    {.rows = 128, .columns = 160, .cycles = 630},
    {.rows = 128, .columns = 192, .cycles = 758},
    {.rows = 128, .columns = 192, .share_x = 2, .cycles = 843},
    {.rows = 128, .columns = 192, .share_x = 2, .staged = true, .cycles = 888},
    {.rows = 128, .columns = 192, .share_w = 2, .cycles = 877},
    {.rows = 128, .columns = 192, .share_w = 2, .staged = true, .cycles = 880},
    {.rows = 128, .columns = 192, .staged = true, .cycles = 804},
    {.rows = 192, .columns = 96, .cycles = 570, .grouped_cycles = 650},
    {.rows = 192, .columns = 128, .share_x = 2, .cycles = 900, .grouped_cycles = 820},
    {.rows = 192,
     .columns = 128,
     .share_x = 2,
     .staged = true,
     .cycles = 865,
     .grouped_cycles = 980},
    {.rows = 256, .columns = 64, .cycles = 517},
    {.rows = 256, .columns = 128, .cycles = 1098},
    {.rows = 256, .columns = 128, .share_x = 2, .staged = true, .cycles = 1193},
    {.rows = 64, .columns = 256, .swiglu = true, .cycles = 540},
    {.rows = 64, .columns = 256, .share_x = 2, .swiglu = true, .cycles = 590},
    {.rows = 64, .columns = 256, .share_w = 2, .swiglu = true, .cycles = 620},
    {.rows = 128, .columns = 256, .swiglu = true, .cycles = 1020},
    {.rows = 128, .columns = 256, .share_x = 2, .swiglu = true, .cycles = 1200},
    {.rows = 128, .columns = 256, .share_w = 2, .swiglu = true, .cycles = 1180},
};

// Swapped, two blocks of a cluster with half of k each, two blocks an SM.
constexpr Variant halved(int rows) {
  return {.swapped = true, .rows = rows, .columns = 64, .split_k = 2, .blocks_per_sm = 2};
}

// Products of R1 where the model is behind (by 5 to 18 %, those of many rows by 1 to 4 %) the
// variant that was the fastest, or within 3 % of it, on an H100 and on an H200, of kMeasuredSms
// both: for rows from first_m to last_m. (2112 x 7168 of 2560 rows, 36864 x 7168 and groups:
// H200s.)
struct Measured {
  int64_t n, k, first_m, last_m;
  Variant variant;
  int num_groups = 0;
};
constexpr int kMeasuredSms = 132;
constexpr Measured kMeasured[] = {
    {2112, 7168, 57, 64, halved(32)},
    {2112, 7168, 65, 80, halved(48)},
    {2112, 7168, 97, 128, {.rows = 64, .columns = 32}},
    {2112, 7168, 2305, 2560, {.rows = 128, .columns = 192, .share_w = 2, .staged = true}},
    {2112, 7168, 3841, 4096, {.rows = 128, .columns = 192, .share_w = 2, .staged = true}},
    {4096, 7168, 57, 64, {.rows = 64, .columns = 32}},
    {4096, 7168, 961, 1024, {.rows = 256, .columns = 128}},
    {7168, 2048, 1, 8, {.swapped = true, .rows = 16, .columns = 64, .blocks_per_sm = 2}},
    {7168, 2048, 65, 112, {.rows = 256, .columns = 64}},
    {7168, 2048, 61441, 65536, {.rows = 128, .columns = 192, .share_x = 2, .staged = true}, 256},
    {7168, 16384, 65, 80, {.swapped = true, .rows = 96, .columns = 64}},
    {7168, 16384, 4097, 5120, {.rows = 256, .columns = 128, .share_x = 2, .staged = true}},
    {24576, 1536, 17, 64, {.rows = 64, .columns = 64, .staged = true}},
    {24576, 1536, 65, 128, {.rows = 128, .columns = 96}},
    {36864, 7168, 65, 128, {.rows = 128, .columns = 96}},
    {36864, 7168, 4097, 5120, {.rows = 256, .columns = 128, .share_x = 2, .staged = true}},
};

// Clusters lie within a GPC, whose SMs do not divide evenly: the share of the SMs that they fill.
double cluster_share(const Config& config) {
  if (config.cluster() <= 2) return 1.0;
  if (config.multicast == 4) return 0.946;
  if (config.cluster() == 4) return config.blocks_per_sm == 1 ? 0.808 : 0.854;
  return config.blocks_per_sm == 1 ? 0.495 : 0.583;
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

// Of a config that came from kVariants.
double cycles_of(const Config& config) {
  for (const Variant& variant : kVariants) {
    if (!variant.makes(config)) continue;
    return config.grouped && variant.grouped_cycles > 0 ? variant.grouped_cycles : variant.cycles;
  }
  CHECK(false, to_string(config));
  return 0;
}

// Cycles of one block of k of one tile, on an SM that has blocks_per_sm of them at a time.
double block_cycles(const Config& config) {
  const double alone = cycles_of(config);
  if (config.blocks_per_sm == 1) return alone;
  const double tensor = config.repeats() * config.warpgroups * 2.0 * std::max(config.right(), 16);
  const double read = (64.0 + config.right()) * (kBlockK * config.repeats() * config.warpgroups);
  const double shared = (read + config.x_bytes() + config.w_bytes()) / 128.0;
  return std::max(alone, config.blocks_per_sm * std::max(tensor, shared));
}

// A variant as a kernel for `shape`.
Config config_of(const Variant& variant, const Shape& shape) {
  Config config = variant.config();
  config.grouped = shape.num_groups > 0;
  config.out_f32 = shape.out_f32;
  return with_stages(config);
}

// What was measured for n, k, m and groups, to BF16.
std::optional<Config> measured_choice(const Shape& shape, const Machine& machine) {
  if (machine.num_sms != kMeasuredSms || shape.batch_invariant || shape.out_f32) return {};
  for (const Measured& known : kMeasured) {
    if (shape.n == known.n && shape.k == known.k && shape.m >= known.first_m &&
        shape.m <= known.last_m && shape.num_groups == known.num_groups) {
      return config_of(known.variant, shape);
    }
  }
  return {};
}

double tile_cycles(const Config& config) {
  const double of_three = config.staged && !config.grouped ? kThreeStagedColumns : kThreeColumns;
  return config.right() * config.repeats() * (config.warpgroups == 3 ? of_three : 1.0) *
         (config.staged ? kStagedColumnCycles : kTileColumnCycles);
}

}  // namespace

bool is_batch_invariant(const Config& config) { return !config.swapped && config.split_k == 1; }

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
  const int64_t k_blocks = ceil_div(shape.k, kBlockK);
  const bool grouped = shape.num_groups > 0;
  const double rows_a_group = static_cast<double>(shape.m) / std::max(shape.num_groups, 1);
  for (const Variant& variant : kVariants) {
    if (variant.swiglu != shape.swiglu || (variant.staged && shape.out_f32)) continue;
    if (variant.split_k > 1 && (grouped || k_blocks < 4 * variant.split_k)) continue;
    if (grouped && variant.columns < 64) continue;
    if (variant.share_w > 1 && rows_a_group <= variant.rows) continue;
    const Config config = config_of(variant, shape);
    if (shape.batch_invariant && !is_batch_invariant(config)) continue;
    if (fits(config)) found.push_back(config);
  }
  return found;
}

double estimated_us(const Config& config, const Shape& shape, const Machine& machine) {
  const double m = static_cast<double>(shape.m), n = static_cast<double>(shape.n),
               k = static_cast<double>(shape.k);
  const double strips = static_cast<double>(ceil_div(shape.n, config.cluster_columns()));
  const double units = row_tiles(shape, config.cluster_rows()) * strips;  // work for a cluster
  // Of the products, where the last tile of a group leaves out those of rows that it does not have:
  // a warpgroup's second pass or, of three, a warpgroup, whose place the others do not fill. (Of
  // two, one alone is as slow.)
  const int passes = config.warpgroups == 3 ? 3 : config.repeats();
  double products = row_tiles(shape, config.rows / passes) / passes / row_tiles(shape, config.rows);
  if (config.warpgroups == 3) products += kIdleShare * (1 - products);
  const double part = std::ceil(static_cast<double>(ceil_div(shape.k, kBlockK)) / config.split_k);
  const double slots =
      std::floor(machine.num_sms * cluster_share(config) * config.blocks_per_sm / config.cluster());
  const double waves =
      shape.num_groups > 0 ? units / slots + kUnevenWaves : std::ceil(units / slots);
  const double math =
      waves * (part * block_cycles(config) * products + tile_cycles(config)) / kCyclesPerUs;

  const double out_bytes = m * n * (shape.swiglu ? 0.5 : shape.out_f32 ? 4 : 2);
  // Rows without products come all the same, but in a second pass.
  const double w_bytes = config.w_bytes(),
               x_bytes = config.x_bytes() * (config.repeats() == 2 ? products : 1.0);
  const double step_bytes =
      config.shared_w ? w_bytes / config.multicast + x_bytes : w_bytes + x_bytes / config.multicast;
  const double l2 = (units * config.cluster() * part * step_bytes + out_bytes) / kL2BytesPerUs;

  double weights = n * k;
  if (shape.num_groups > 0) {
    weights *= shape.num_groups * (1 - std::exp(-m / shape.num_groups));
  }
  const double busy = std::min(1.0, units * config.cluster() / (kBusyShare * machine.num_sms));
  const double dram =
      (weights + m * k + out_bytes) / (kDramShare * machine.dram_bytes_per_us * busy);

  const double split = config.split_k == 1 ? 0.0 : kSplitUs + kSplitBlockUs * config.split_k;
  return kLaunchUs + split +
         std::pow(std::pow(math, kTogether) + std::pow(l2, kTogether) + std::pow(dram, kTogether),
                  1 / kTogether) +
         kDramBeside * dram;
}

double swiglu_us(const Shape& shape, const Machine& machine) {
  const double elements = static_cast<double>(shape.m) * static_cast<double>(shape.n);
  // BF16 in, half as many bytes out, and what a small kernel takes.
  return kLaunchUs + elements * 2.5 / (kDramShare * machine.dram_bytes_per_us);
}

bool swiglu_pays(const Shape& shape, const Machine& machine) {
  // Measured: with so few dense rows never, as its wide tiles leave SMs idle or a last wave thin.
  constexpr int64_t kFewRows = 256;
  if (shape.num_groups == 0 && shape.m <= kFewRows) return false;
  Shape rounded = shape;
  rounded.m = rounded_rows(shape.m);
  const auto least_us = [&](bool swiglu) {
    rounded.swiglu = swiglu;
    return estimated_us(choose(rounded, machine), rounded, machine);
  };
  constexpr double kMargin = 1.02;  // where they are close, the fused kernel was the slower one
  return kMargin * least_us(true) < least_us(false) + swiglu_us(rounded, machine);
}

Config choose(const Shape& shape, const Machine& machine) {
  Shape rounded = shape;
  rounded.m = rounded_rows(shape.m);
  const std::optional<Config> known = measured_choice(rounded, machine);
  Config best;
  double best_us = INFINITY;
  for (const Config& config : candidates(rounded)) {
    if (config == known) return config;
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
  if (config.swiglu) name += "_swiglu";
  return name;
}

}  // namespace deepflight::gemm_fp8
