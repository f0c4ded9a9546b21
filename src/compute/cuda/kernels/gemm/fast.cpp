// The fast kernels from the host: compile once, describe the operands to the copy engine, launch.
#include <cuda.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/kernels/gemm/kernels.h"
#include "compute/cuda/kernels/gemm/params.h"
#include "compute/cuda/kernels/gemm/source.h"
#include "compute/cuda/runtime/device.h"
#include "compute/cuda/runtime/tensor_map.h"

namespace deepflight::gemm_fp8 {
namespace {

void encode(CUtensorMap& map, CUtensorMapDataType type, int rank, const void* base,
            const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
            CUtensorMapSwizzle swizzle) {
  const CUresult result = encode_tensor_map(map, type, rank, base, dims, strides, box, swizzle);
  if (result == CUDA_ERROR_NOT_FOUND) {
    throw DeviceError("the driver has no cuTensorMapEncodeTiled");
  }
  CHECK(result == CUDA_SUCCESS, static_cast<int>(result), rank, dims[0], dims[1], box[0], box[1]);
}

// e4m3 [count][rows, k] by boxes of `box_rows` x 128, swizzled.
void encode_values(CUtensorMap& map, const uint8_t* base, int64_t k, int64_t rows, int64_t count,
                   int64_t row_stride, int box_rows) {
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(count)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row_stride),
                                 static_cast<cuuint64_t>(row_stride * rows)};
  const cuuint32_t box[3] = {kBlockK, static_cast<cuuint32_t>(box_rows), 1};
  encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, base, dims, strides, box,
         CU_TENSOR_MAP_SWIZZLE_128B);
}

// F32 [blocks][stride] by boxes of a block's `box_rows`; those past `rows`, up to a multiple of 32,
// are read too.
void encode_scales(CUtensorMap& map, const float* base, int64_t rows, int64_t blocks,
                   int64_t stride, int box_rows) {
  rows = std::min(stride, (rows + Fp8Rows::kScalesBeyond) / 32 * 32);
  const cuuint64_t dims[2] = {static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(blocks)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride * 4)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_rows), 1};
  encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, base, dims, strides, box,
         CU_TENSOR_MAP_SWIZZLE_NONE);
}

// BF16 [rows, n] by boxes of 64 x 64, swizzled.
void encode_out(CUtensorMap& map, void* base, int64_t n, int64_t rows, int64_t stride) {
  const cuuint64_t dims[2] = {static_cast<cuuint64_t>(n), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride * 2)};
  const cuuint32_t box[2] = {64, 64};
  encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, base, dims, strides, box,
         CU_TENSOR_MAP_SWIZZLE_128B);
}

bool aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

int32_t out_alignment(const Fp8GemmProblem& p) {
  const int64_t bytes = p.out_f32 ? 4 : 2;
  int32_t alignment = 16;
  while (!aligned(p.out, alignment) || p.out_stride * bytes % alignment != 0 ||
         p.n * bytes % alignment != 0) {
    alignment /= 2;
  }
  return alignment;
}

Params params_of(const Fp8GemmProblem& p, const Config& config) {
  Params params;
  const int64_t k_blocks = (p.k + kBlockK - 1) / kBlockK;
  const int64_t groups = std::max(p.num_groups, 1);
  // Rows past m meet no row of out, and are sooner read than filled in by the copy engine.
  const int64_t x_rows =
      std::min((p.m + config.rows - 1) / config.rows * config.rows, p.m + Fp8Rows::kRowsBeyond);
  encode_values(params.x, p.x.values, p.k, x_rows, 1, p.x.value_stride, config.x_box_rows());
  encode_values(params.w, p.w, p.k, p.n, groups, p.k, config.w_box_columns());
  encode_scales(params.x_scales, p.x.scales, p.m, k_blocks, p.x.scale_stride, config.rows);
  params.w_scales = p.w_scales;
  params.out = p.out;
  params.out_stride = p.out_stride;
  params.activated = p.activated.values;
  params.activated_stride = p.activated.value_stride;
  params.activated_scales = p.activated.scales;
  params.activated_scale_stride = p.activated.scale_stride;
  params.offsets = p.offsets;
  params.next_tile = p.next_tile;
  params.m = static_cast<int32_t>(p.m);
  params.n = static_cast<int32_t>(p.n);
  params.k_blocks = static_cast<int32_t>(k_blocks);
  params.n_blocks = static_cast<int32_t>((p.n + 127) / 128);
  params.num_groups = static_cast<int32_t>(groups);
  params.weights_settled = p.weights_settled;
  params.out_alignment = out_alignment(p);
  if (config.staged) {
    encode_out(params.out_map, p.out, p.n, p.m, p.out_stride);
  }
  return params;
}

cudaKernel_t kernel_of(const Config& config) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::string>, cudaKernel_t> kernels;  // by device and name
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  const std::pair key(device, to_string(config));
  {
    std::lock_guard lock(mutex);
    const auto found = kernels.find(key);
    if (found != kernels.end()) return found->second;
  }
  const cudaKernel_t kernel = jit_kernel(source_of(config));
  allow_shared_memory(kernel, config.shared_bytes());
  std::lock_guard lock(mutex);
  return kernels[key] = kernel;
}

}  // namespace

Shape shape_of(const Fp8GemmProblem& p) {
  return {p.m, p.n, p.k, p.num_groups, p.out_f32, p.activated.values != nullptr, p.batch_invariant};
}

Machine current_machine() {
  static std::mutex mutex;
  static std::map<int, Machine> machines;  // asking for the clock takes long
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  std::lock_guard lock(mutex);
  const auto found = machines.find(device);
  if (found != machines.end()) return found->second;
  Machine machine;
  machine.num_sms = DeviceInfo::current().num_sms;
  int clock_khz = 0, bus_bits = 0;
  if (cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess &&
      clock_khz > 0 && bus_bits > 0) {
    machine.dram_bytes_per_us = 2e-3 * clock_khz * bus_bits / 8;  // two transfers a clock
  } else {
    cudaGetLastError();  // a device that does not say keeps the default
  }
  return machines[device] = machine;
}

bool fast_kernel_fits(const Fp8GemmProblem& p) {
  constexpr int64_t kMaxDim = int64_t{1} << 30;
  return DeviceInfo::current().compute_major == 9 && p.k % 16 == 0 && aligned(p.x.values, 16) &&
         p.x.value_stride % 16 == 0 && aligned(p.x.scales, 16) && p.x.scale_stride % 4 == 0 &&
         aligned(p.w, 16) && p.num_groups <= kMaxGroups && p.m < kMaxDim && p.n < kMaxDim &&
         p.k < kMaxDim && (p.m / 8 + p.num_groups + 1) * (p.n / 32 + 1) < kMaxDim &&
         (p.activated.values == nullptr || (p.n % 256 == 0 && aligned(p.activated.values, 16) &&
                                            p.activated.value_stride % 16 == 0));
}

void prepare(const Config& config) { kernel_of(config); }

namespace {

// Weighing all configurations takes longer than launching one: a thread keeps what it decided.
template <typename Decision, typename Decide>
Decision kept(const Shape& shape, const Decide& decide) {
  using Key = std::tuple<int, int64_t, int64_t, int64_t, int, bool, bool, bool>;
  thread_local std::map<Key, Decision> decisions;
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  const Key key(device, rounded_rows(shape.m), shape.n, shape.k, shape.num_groups, shape.out_f32,
                shape.swiglu, shape.batch_invariant);
  const auto found = decisions.find(key);
  if (found != decisions.end()) return found->second;
  return decisions.emplace(key, decide(shape)).first->second;
}

void launch(const Fp8GemmProblem& problem, const Config& config, cudaKernel_t kernel,
            cudaStream_t stream) {
  if (config.staged && out_alignment(problem) < 16) {  // what the copy engine cannot store
    Config direct = config;
    direct.staged = false;
    launch(problem, direct, kernel_of(direct), stream);
    return;
  }
  Params params = params_of(problem, config);
  JitLaunch launch;
  launch.blocks = num_blocks(config, shape_of(problem), current_machine());
  launch.threads = config.threads();
  launch.shared_bytes = config.shared_bytes();
  launch.cluster = config.cluster();
  launch.stream = stream;
  launch_jit(kernel, launch, &params);
}

}  // namespace

void launch_fast(const Fp8GemmProblem& problem, const Config& config, cudaStream_t stream) {
  launch(problem, config, kernel_of(config), stream);
}

void launch_chosen(const Fp8GemmProblem& problem, cudaStream_t stream) {
  struct Chosen {
    Config config;
    cudaKernel_t kernel;
  };
  const Chosen chosen = kept<Chosen>(shape_of(problem), [](const Shape& shape) {
    const Config config = chosen_config(shape);
    return Chosen{config, kernel_of(config)};
  });
  launch(problem, chosen.config, chosen.kernel, stream);
}

bool fuses_swiglu(const Fp8GemmProblem& problem) {
  struct Answer {
    bool yes;
  };
  return fast_kernel_fits(problem) && kept<Answer>(shape_of(problem), [](const Shape& shape) {
                                        return Answer{swiglu_pays(shape, current_machine())};
                                      }).yes;
}

}  // namespace deepflight::gemm_fp8
