// Norms, residual sums and products.
#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/norm_rope/launch.h"
#include "compute/cuda/kernels/quantize/launch.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {
namespace {

cuda_norm_rope::NormProblem norm_problem(const TensorView& x, const TensorView& weight, float eps,
                                         const Rows& out) {
  CHECK(weight.dim(0) == x.dim(1) && out.dim(1) == x.dim(1) && out.dim(0) == x.dim(0),
        x.to_string(), weight.to_string(), out.values.to_string());
  cuda_norm_rope::NormProblem problem;
  problem.num_rows = x.dim(0);
  problem.width = x.dim(1);
  problem.x = bf16(x);
  problem.x_stride = x.stride(0);
  problem.weight = weight.data<float>();
  problem.eps = eps;
  problem.out = bf16(out.values);
  problem.out_stride = out.values.stride(0);
  problem.fp8 = fp8_rows(out);
  return problem;
}

}  // namespace

void CudaBackend::rms_norm(const TensorView& x, const TensorView& weight, float eps,
                           const Rows& out) {
  const TimelineRange range("rms_norm");
  cuda_norm_rope::rms_norm(norm_problem(x, weight, eps, out), impl_->main.stream.get());
}

void CudaBackend::add_rms_norm(const TensorView& delta, const TensorView& residual,
                               const TensorView& weight, float eps, const Rows& out) {
  const TimelineRange range("add_rms_norm");
  auto problem = norm_problem(delta, weight, eps, out);
  problem.residual = bf16(residual);
  problem.residual_stride = residual.stride(0);
  cuda_norm_rope::rms_norm(problem, impl_->main.stream.get());
}

void CudaBackend::rms_norm_pair(const Rows& a, const TensorView& a_weight, const TensorView& b,
                                const TensorView& b_weight, float eps) {
  const TimelineRange range("rms_norm_pair");
  cuda_norm_rope::rms_norm_pair(norm_problem(a.values, a_weight, eps, a),
                                norm_problem(b, b_weight, eps, b), impl_->main.stream.get());
}

void CudaBackend::add(const TensorView& delta, const TensorView& sum) {
  const TimelineRange range("add");
  CHECK(delta.dim(0) == sum.dim(0) && delta.dim(1) == sum.dim(1), delta.to_string(),
        sum.to_string());
  cuda_norm_rope::AddProblem problem;
  problem.num_rows = sum.dim(0);
  problem.width = sum.dim(1);
  problem.delta = bf16(delta);
  problem.delta_stride = delta.stride(0);
  problem.sum = bf16(sum);
  problem.sum_stride = sum.stride(0);
  cuda_norm_rope::add(problem, impl_->main.stream.get());
}

void CudaBackend::linear(const Rows& x, const LinearWeight& weight, const TensorView& out) {
  const TimelineRange range("linear", weight.out_features, weight.in_features);
  CHECK(
      x.dim(1) == weight.in_features && out.dim(1) == weight.out_features && out.dim(0) == x.dim(0),
      x.values.to_string(), out.to_string(), weight.out_features, weight.in_features);
  impl_->multiply(impl_->main, x, cuda::packed_matrices(weight), nullptr, out);
}

Rows CudaBackend::Impl::with_fp8(Lane& lane, const Rows& x, bool fp8) {
  if (!fp8 || x.fp8) return x;
  Carver measure(nullptr);
  carve_fp8_rows(measure, x.dim(0), x.dim(1));
  Carver carver(lane.quantized.get(measure.used_bytes()));
  Rows rows = carve_fp8_rows(carver, x.dim(0), x.dim(1));
  rows.values = x.values;
  cuda_quantize::QuantizeProblem problem;
  problem.num_rows = x.dim(0);
  problem.width = x.dim(1);
  problem.x = bf16(x.values);
  problem.x_stride = x.values.stride(0);
  problem.out = fp8_rows(rows);
  cuda_quantize::quantize(problem, lane.stream.get());
  return rows;
}

}  // namespace deepflight
