// Mixture of experts: routing, the sorted rows and their products, the shared expert beside them.
#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/moe/launch.h"
#include "compute/cuda/kernels/quantize/launch.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {
namespace {

cuda_moe::GroupRank group_rank(GroupScore score) {
  switch (score) {
    case GroupScore::kNone:
      return cuda_moe::GroupRank::kNone;
    case GroupScore::kTop2Sum:
      return cuda_moe::GroupRank::kTop2Sum;
    case GroupScore::kMax:
      return cuda_moe::GroupRank::kMax;
  }
  return cuda_moe::GroupRank::kNone;
}

// What lies between the ops of one chunk of tokens.
struct MoeBuffers {
  ExpertRows order;
  Rows expanded;       // [rows, hidden], BF16 or FP8 as the product wants it
  TensorView gate_up;  // [rows, 2 * width]
  Rows activated;      // [rows, width]
  TensorView outputs;  // [rows, hidden]
  void* sort_scratch = nullptr;
};

MoeBuffers carve(Carver& carver, const MoeWeights& weights, int64_t num_rows) {
  const int64_t hidden = weights.gate_up.in_features;
  const int64_t width = weights.down.in_features;
  const int64_t num_experts = weights.gate_up.num_groups;
  MoeBuffers buffers;
  buffers.order = {carver.take(DType::kI32, {num_experts + 1}),
                   carver.take(DType::kI32, {num_rows}), carver.take(DType::kI32, {num_rows})};
  buffers.sort_scratch =
      carver.take_bytes(cuda_moe::sort_scratch_bytes(num_rows, static_cast<int>(num_experts)));
  buffers.expanded = weights.gate_up.fp8 ? carve_fp8_rows(carver, num_rows, hidden)
                                         : Rows(carver.take(DType::kBF16, {num_rows, hidden}));
  buffers.gate_up = carver.take(DType::kBF16, {num_rows, 2 * width});
  buffers.activated = weights.down.fp8 ? carve_fp8_rows(carver, num_rows, width)
                                       : Rows(carver.take(DType::kBF16, {num_rows, width}));
  buffers.outputs = carver.take(DType::kBF16, {num_rows, hidden});
  return buffers;
}

cuda_moe::CombineProblem combine_problem(const TensorView& expert_out, const ExpertRows& order,
                                         const TensorView& topk_weights, const TensorView& base,
                                         const TensorView& out) {
  cuda_moe::CombineProblem problem;
  problem.expert_out = bf16(expert_out);
  problem.expert_stride = expert_out.stride(0);
  problem.positions = order.positions.data<int32_t>();
  problem.weights = topk_weights.data<float>();
  problem.weights_stride = topk_weights.stride(0);
  problem.base = base.raw();
  problem.base_stride = base ? base.stride(0) : 0;
  problem.out = bf16(out);
  problem.out_stride = out.stride(0);
  problem.num_tokens = out.dim(0);
  problem.width = out.dim(1);
  problem.topk = static_cast<int>(topk_weights.dim(1));
  return problem;
}

cuda_quantize::SwigluProblem swiglu_problem(const TensorView& gate_up, const Rows& out) {
  cuda_quantize::SwigluProblem problem;
  problem.num_rows = gate_up.dim(0);
  problem.width = gate_up.dim(1) / 2;
  problem.gate_up = bf16(gate_up);
  problem.gate_up_stride = gate_up.stride(0);
  if (out.values) {
    problem.out = bf16(out.values);
    problem.out_stride = out.values.stride(0);
  }
  problem.fp8 = fp8_rows(out);
  return problem;
}

void sort(const TensorView& topk_ids, const ExpertRows& order, void* scratch, cudaStream_t stream) {
  CHECK(topk_ids.is_dense(), topk_ids.to_string());
  cuda_moe::SortProblem problem;
  problem.topk_ids = topk_ids.data<int32_t>();
  problem.num_rows = topk_ids.num_elements();
  problem.num_experts = static_cast<int>(order.offsets.dim(0) - 1);
  problem.offsets = order.offsets.data<int32_t>();
  problem.rows = order.rows.data<int32_t>();
  problem.positions = order.positions.data<int32_t>();
  problem.scratch = scratch;
  cuda_moe::sort_by_expert(problem, stream);
}

// Rows in BF16, FP8 or both, each token's once per expert.
void expand(const Rows& x, const ExpertRows& order, int64_t topk, const Rows& out,
            cudaStream_t stream) {
  if (out.values) {
    cuda_moe::ExpandProblem problem;
    problem.x = bf16(x.values);
    problem.x_stride = x.values.stride(0);
    problem.rows = order.rows.data<int32_t>();
    problem.num_rows = out.dim(0);
    problem.topk = static_cast<int>(topk);
    problem.width = out.dim(1);
    problem.out = bf16(out.values);
    problem.out_stride = out.values.stride(0);
    cuda_moe::expand_rows(problem, stream);
  }
  if (out.fp8) {
    cuda_moe::ExpandFp8Problem problem;
    problem.x = fp8_rows(x);
    problem.rows = order.rows.data<int32_t>();
    problem.num_rows = out.dim(0);
    problem.topk = static_cast<int>(topk);
    problem.width = out.dim(1);
    problem.out = fp8_rows(out);
    cuda_moe::expand_rows(problem, stream);
  }
}

}  // namespace

void CudaBackend::Impl::multiply_swiglu(Lane& lane, std::pair<const char*, const char*> ops,
                                        const Rows& x, const cuda::PackedMatrices& matrices,
                                        const int32_t* offsets, const TensorView& gate_up,
                                        const Rows& activated) {
  {
    const TimelineRange range(ops.first, gate_up.dim(1), x.dim(1));
    const Rows input = with_fp8(lane, x, matrices.parts.front().fp8);
    if (multiply_fused(lane, input, matrices, offsets, activated)) return;
    multiply(lane, input, matrices, offsets, gate_up);
  }
  const TimelineRange range(ops.second);
  cuda_quantize::swiglu(swiglu_problem(gate_up, activated), lane.stream.get());
}

void CudaBackend::linear_swiglu(const Rows& x, const LinearWeight& gate_up,
                                const TensorView& scratch, const Rows& out) {
  CHECK(x.dim(1) == gate_up.in_features && scratch.dim(1) == gate_up.out_features &&
            scratch.dim(0) == x.dim(0) && 2 * out.dim(1) == scratch.dim(1),
        x.values.to_string(), scratch.to_string(), gate_up.out_features);
  impl_->multiply_swiglu(impl_->main, {"linear", "swiglu"}, x, cuda::packed_matrices(gate_up),
                         nullptr, scratch, out);
}

void CudaBackend::swiglu(const TensorView& gate_up, const Rows& out) {
  const TimelineRange range("swiglu");
  CHECK(gate_up.dim(1) == 2 * out.dim(1) && gate_up.dim(0) == out.dim(0), gate_up.to_string(),
        out.values.to_string());
  cuda_quantize::swiglu(swiglu_problem(gate_up, out), impl_->main.stream.get());
}

void CudaBackend::route_experts(const TensorView& logits, const TensorView& bias,
                                const RoutingParams& params, const TensorView& topk_ids,
                                const TensorView& topk_weights) {
  const TimelineRange range("route");
  cuda_moe::RouteProblem problem;
  problem.logits = logits.data<float>();
  problem.logits_stride = logits.stride(0);
  problem.bias = bias ? bias.data<float>() : nullptr;
  problem.topk_ids = topk_ids.data<int32_t>();
  problem.ids_stride = topk_ids.stride(0);
  problem.topk_weights = topk_weights.data<float>();
  problem.weights_stride = topk_weights.stride(0);
  problem.num_tokens = logits.dim(0);
  problem.num_experts = static_cast<int>(logits.dim(1));
  problem.softmax = params.scoring == RouterScoring::kSoftmax;
  problem.group_rank = group_rank(params.group_score);
  problem.num_groups = params.num_groups;
  problem.topk_groups = params.topk_groups;
  problem.topk = params.topk;
  problem.normalize = params.normalize;
  problem.scaling_factor = params.scaling_factor;
  cuda_moe::route_experts(problem, impl_->main.stream.get());
}

void CudaBackend::sort_by_expert(const TensorView& topk_ids, const ExpertRows& order) {
  const TimelineRange range("sort");
  const int64_t bytes = cuda_moe::sort_scratch_bytes(topk_ids.num_elements(),
                                                     static_cast<int>(order.offsets.dim(0) - 1));
  sort(topk_ids, order, impl_->main.op.get(bytes), impl_->main.stream.get());
}

void CudaBackend::expand_rows(const TensorView& x, const ExpertRows& order, int64_t topk,
                              const TensorView& out) {
  const TimelineRange range("expand");
  expand(x, order, topk, out, impl_->main.stream.get());
}

void CudaBackend::grouped_linear(const TensorView& x, const GroupedLinearWeight& weight,
                                 const TensorView& offsets, const TensorView& out) {
  const TimelineRange range("experts", weight.out_features, weight.in_features);
  CHECK(x.dim(1) == weight.in_features && out.dim(1) == weight.out_features &&
            out.dim(0) == x.dim(0) && offsets.dim(0) == weight.num_groups + 1,
        x.to_string(), out.to_string(), offsets.to_string());
  impl_->multiply(impl_->main, x, cuda::packed_matrices(weight), offsets.data<int32_t>(), out);
}

void CudaBackend::combine_experts(const TensorView& expert_out, const ExpertRows& order,
                                  const TensorView& topk_weights, const TensorView& out) {
  const TimelineRange range("combine");
  cuda_moe::combine_experts(combine_problem(expert_out, order, topk_weights, out, out),
                            impl_->main.stream.get());
}

void CudaBackend::moe(const Rows& x, const MoeWeights& weights, const TensorView& topk_ids,
                      const TensorView& topk_weights, const TensorView& out) {
  CHECK(weights.gate_up.out_features == 2 * weights.down.in_features &&
            x.dim(1) == weights.gate_up.in_features && out.dim(1) == weights.down.out_features &&
            out.dim(0) == x.dim(0),
        x.values.to_string(), out.to_string(), weights.down.in_features);
  if (x.dim(0) == 0) return;
  Lane& main = impl_->main;
  if (weights.shared) {
    // The shared expert reads x and writes out; the routed ones touch out only in the end.
    impl_->forked.record(main.stream);
    impl_->forked.hold(impl_->side.stream);
    impl_->shared_expert(x, *weights.shared, out);
    impl_->joined.record(impl_->side.stream);
  }
  const int64_t topk = topk_ids.dim(1);
  for (int64_t begin = 0; begin < x.dim(0); begin += impl_->config.moe_chunk_tokens) {
    const int64_t count = std::min(impl_->config.moe_chunk_tokens, x.dim(0) - begin);
    const auto part = [&](const TensorView& rows) { return rows.slice(0, begin, count); };
    Carver measure(nullptr);
    carve(measure, weights, count * topk);
    Carver carver(main.op.get(measure.used_bytes()));
    MoeBuffers buffers = carve(carver, weights, count * topk);
    const cudaStream_t stream = main.stream.get();
    {
      const TimelineRange range("sort");
      sort(part(topk_ids), buffers.order, buffers.sort_scratch, stream);
    }
    {
      const TimelineRange range("expand");
      expand(impl_->with_fp8(main, rows_part(x, begin, count), weights.gate_up.fp8), buffers.order,
             topk, buffers.expanded, stream);
    }
    const auto* offsets = buffers.order.offsets.data<int32_t>();
    impl_->multiply_swiglu(main, {"experts", "swiglu"}, buffers.expanded,
                           cuda::packed_matrices(weights.gate_up), offsets, buffers.gate_up,
                           buffers.activated);
    {
      const TimelineRange range("experts", weights.down.out_features, weights.down.in_features);
      impl_->multiply(main, buffers.activated, cuda::packed_matrices(weights.down), offsets,
                      buffers.outputs);
    }
    if (weights.shared && begin == 0) impl_->joined.hold(main.stream);
    const TimelineRange range("combine");
    const TensorView base = weights.shared ? part(out) : TensorView();
    cuda_moe::combine_experts(
        combine_problem(buffers.outputs, buffers.order, part(topk_weights), base, part(out)),
        stream);
  }
}

// On the side lane.
void CudaBackend::Impl::shared_expert(const Rows& x, const MlpWeights& weights,
                                      const TensorView& out) {
  const int64_t num_rows = x.dim(0);
  const int64_t width = weights.down.in_features;
  const auto carve = [&](Carver& carver) {
    const TensorView gate_up = carver.take(DType::kBF16, {num_rows, 2 * width});
    return std::pair(gate_up, weights.down.fp8
                                  ? carve_fp8_rows(carver, num_rows, width)
                                  : Rows(carver.take(DType::kBF16, {num_rows, width})));
  };
  Carver measure(nullptr);
  carve(measure);
  Carver carver(side.op.get(measure.used_bytes()));
  const auto [gate_up, activated] = carve(carver);
  multiply_swiglu(side, {"shared_linear", "shared_swiglu"}, x,
                  cuda::packed_matrices(weights.gate_up), nullptr, gate_up, activated);
  const TimelineRange range("shared_linear", out.dim(1), width);
  multiply(side, activated, cuda::packed_matrices(weights.down), nullptr, out);
}

}  // namespace deepflight
