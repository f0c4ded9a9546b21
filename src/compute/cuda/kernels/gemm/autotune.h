// Finding the fastest configuration of each product by measuring, and keeping what was found in the
// kernel cache's folder: for this process and later ones, on this GPU, driver and version.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "compute/cuda/kernels/gemm/choose.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/gemm/tuned.h"

namespace deepflight {

// Measures all products that the uses can ask for (about a second each), stores the table and
// uses it from here on. Operands are random; a use whose operands do not fit in free device memory
// is left to the cost model. `progress`: called after each with a note, and the number in all.
void autotune_fp8_gemm(std::span<const Fp8GemmUse> uses,
                       const std::function<void(const std::string& note, int64_t total)>& progress);

}  // namespace deepflight

namespace deepflight::gemm_fp8 {

// The table of the current device, read from the kernel cache's folder the first time. A new one is
// stored there and used for shapes that have not been launched yet.
TunedTable tuned_table();
void use_tuned_table(TunedTable table);

struct TimedConfig {
  double us;
  Config config;
};
// The likely candidates, fastest first, on random operands; groups share the rows unevenly.
std::vector<TimedConfig> time_candidates(const Shape& shape);

}  // namespace deepflight::gemm_fp8
