// A configuration as source text: one kernel that instantiates kernel.cuh, whose headers CMake has
// embedded in the program.
#include "compute/cuda/kernels/gemm/source.h"

#include <fmt/format.h>

#include "compute/cuda/kernels/gemm/choose.h"

namespace deepflight {

std::span<const JitHeader> fp8_gemm_headers();  // embedded by CMake

namespace gemm_fp8 {

JitSource source_of(const Config& config) {
  JitSource source;
  source.name = "fp8_gemm_" + to_string(config);
  source.text = fmt::format(
      R"(#include "compute/cuda/kernels/gemm/kernel.cuh"
using namespace deepflight::gemm_fp8;
extern "C" __global__ void __launch_bounds__({}, {}) {}(const __grid_constant__ Params p) {{
  run<Config{{.swapped = {}, .grouped = {}, .out_f32 = {}, .rows = {}, .columns = {},
      .warpgroups = {}, .stages = {}, .multicast = {}, .shared_w = {}, .split_k = {},
      .blocks_per_sm = {}, .staged = {}, .swiglu = {}}}>(p);
}}
)",
      config.threads(), config.blocks_per_sm, source.name, config.swapped, config.grouped,
      config.out_f32, config.rows, config.columns, config.warpgroups, config.stages,
      config.multicast, config.shared_w, config.split_k, config.blocks_per_sm, config.staged,
      config.swiglu);
  source.headers = fp8_gemm_headers();
  return source;
}

}  // namespace gemm_fp8
}  // namespace deepflight
