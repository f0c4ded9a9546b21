#include "compute/cuda/kernels/quantize/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/quantize/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_quantize {
namespace {

bool is_aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bool fits_vectors(const RowsProblem& p) {
  return p.width % 8 == 0 && is_aligned(p.gate, 16) && is_aligned(p.up, 16) &&
         p.in_stride % 8 == 0 && is_aligned(p.out, 16) && p.out_stride % 8 == 0 &&
         is_aligned(p.fp8.values, 8) && p.fp8.value_stride % 8 == 0;
}

void run(const RowsProblem& p, cudaStream_t stream) {
  if (p.num_rows == 0 || p.width == 0) return;
  const int64_t num_blocks = p.num_rows * Fp8Rows::num_scale_blocks(p.width);
  CHECK(num_blocks < (int64_t{1} << 31), p.num_rows, p.width);
  if (!fits_vectors(p)) {
    launch_generic(p, stream);
  } else {
    // Two loads a thread pay where a thread has one operand and the device is full without; SwiGLU
    // has two loads already (README.md).
    const int64_t wave = int64_t{DeviceInfo::current().num_sms} * 2048;
    const bool several = p.up == nullptr && num_blocks * 16 >= 4 * wave;
    launch_vector(p, several ? 2 : 1, stream);
  }
  CUDA_CHECK(cudaGetLastError());
}

void check_fp8(const Fp8Rows& rows, int64_t num_rows, int64_t width) {
  CHECK(rows.scales != nullptr && rows.value_stride >= width && rows.scale_stride >= num_rows,
        rows.value_stride, rows.scale_stride, num_rows, width);
}

}  // namespace

void quantize(const QuantizeProblem& problem, cudaStream_t stream) {
  const QuantizeProblem& p = problem;
  CHECK(p.num_rows >= 0 && p.width >= 0 && p.x_stride >= p.width, p.num_rows, p.width, p.x_stride);
  CHECK(p.out.values != nullptr);
  check_fp8(p.out, p.num_rows, p.width);
  run({p.num_rows, p.width, p.x, nullptr, p.x_stride, nullptr, 0, p.out, p.num_valid}, stream);
}

void swiglu(const SwigluProblem& problem, cudaStream_t stream) {
  const SwigluProblem& p = problem;
  CHECK(p.num_rows >= 0 && p.width >= 0 && p.gate_up_stride >= 2 * p.width, p.num_rows, p.width,
        p.gate_up_stride);
  CHECK(p.out != nullptr || p.fp8.values != nullptr);
  CHECK(p.out == nullptr || p.out_stride >= p.width, p.out_stride, p.width);
  if (p.fp8.values != nullptr) check_fp8(p.fp8, p.num_rows, p.width);
  run({p.num_rows, p.width, p.gate_up, p.gate_up + p.width, p.gate_up_stride, p.out, p.out_stride,
       p.fp8, p.num_valid},
      stream);
}

}  // namespace deepflight::cuda_quantize
