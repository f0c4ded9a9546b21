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
constexpr Config kConfig = {{.swapped = {}, .grouped = {}, .out_f32 = {}, .rows = {}, .columns = {},
    .warpgroups = {}, .stages = {}, .multicast = {}, .shared_w = {}, .split_k = {}, .blocks_per_sm = {},
    .staged = {}, .swiglu = {}}};
extern "C" __global__ void __launch_bounds__(kConfig.threads(), kConfig.blocks_per_sm)
    {}(const __grid_constant__ Params p) {{
  run<kConfig>(p);
}}
)",
      config.swapped, config.grouped, config.out_f32, config.rows, config.columns,
      config.warpgroups, config.stages, config.multicast, config.shared_w, config.split_k,
      config.blocks_per_sm, config.staged, config.swiglu, source.name);
  source.headers = fp8_gemm_headers();
  return source;
}

}  // namespace gemm_fp8
}  // namespace deepflight
