// The unfused definitions of the fused ops.
#include "compute/ops/backend.h"

#include "tensor/carver.h"

namespace deepflight {

void Backend::add_rms_norm(const TensorView& delta, const TensorView& residual,
                           const TensorView& weight, float eps, const Rows& out) {
  add(delta, residual);
  rms_norm(residual, weight, eps, out);
}

void Backend::rms_norm_pair(const Rows& a, const TensorView& a_weight, const TensorView& b,
                            const TensorView& b_weight, float eps) {
  rms_norm(a.values, a_weight, eps, a);
  rms_norm(b, b_weight, eps, b);
}

void Backend::linear_swiglu(const Rows& x, const LinearWeight& gate_up, const TensorView& scratch,
                            const Rows& out) {
  linear(x, gate_up, scratch);
  swiglu(scratch, out);
}

void Backend::rope_write_kv(const TensorView& q_pe, const TensorView& latent,
                            const StepState& state, const StepInputs& inputs,
                            const RopeTable& table, const KvPool& pool, int64_t layer) {
  const int64_t rope_dim = q_pe.dim(2);
  const TensorView k_pe = latent.slice(1, latent.dim(1) - rope_dim, rope_dim);
  rope(q_pe, inputs.positions, table);
  rope(k_pe.split_last(1, rope_dim), inputs.positions, table);
  write_kv(latent, state, inputs, pool, layer);
}

void Backend::grouped_linear_swiglu(const TensorView& x, const GroupedLinearWeight& gate_up,
                                    const TensorView& offsets, const TensorView& scratch,
                                    const TensorView& out) {
  grouped_linear(x, gate_up, offsets, scratch);
  swiglu(scratch, out);
}

void Backend::moe(const Rows& x, const MoeWeights& weights, const TensorView& topk_ids,
                  const TensorView& topk_weights, const TensorView& out) {
  const int64_t topk = topk_ids.dim(1);
  const int64_t num_rows = x.dim(0) * topk;
  const int64_t width = weights.down.in_features;
  const int64_t shared_width = weights.shared ? weights.shared->down.in_features : 0;
  const DType dtype = activation_dtype();
  const auto carve = [&](Carver& carver) {
    struct Pieces {
      ExpertRows order;
      TensorView expanded, gate_up, activated, outputs, shared_gate_up, shared_activated;
    };
    return Pieces{{carver.take(DType::kI32, {weights.gate_up.num_groups + 1}),
                   carver.take(DType::kI32, {num_rows}), carver.take(DType::kI32, {num_rows})},
                  carver.take(dtype, {num_rows, x.dim(1)}),
                  carver.take(dtype, {num_rows, 2 * width}),
                  carver.take(dtype, {num_rows, width}),
                  carver.take(dtype, {num_rows, weights.down.out_features}),
                  carver.take(dtype, {x.dim(0), 2 * shared_width}),
                  carver.take(dtype, {x.dim(0), shared_width})};
  };
  Carver measure(nullptr);
  carve(measure);
  const Buffer memory = allocate(measure.used_bytes());
  Carver carver(memory.data());
  const auto pieces = carve(carver);
  if (weights.shared) {
    linear_swiglu(x, weights.shared->gate_up, pieces.shared_gate_up, pieces.shared_activated);
    linear(pieces.shared_activated, weights.shared->down, out);
  } else {
    for (int64_t token = 0; token < out.dim(0); ++token) {
      fill_zero(out.slice(0, token, 1).raw(), out.dim(1) * dtype_bytes(out.dtype()));
    }
  }
  sort_by_expert(topk_ids, pieces.order);
  expand_rows(x.values, pieces.order, topk, pieces.expanded);
  grouped_linear_swiglu(pieces.expanded, weights.gate_up, pieces.order.offsets, pieces.gate_up,
                        pieces.activated);
  grouped_linear(pieces.activated, weights.down, pieces.order.offsets, pieces.outputs);
  combine_experts(pieces.outputs, pieces.order, topk_weights, out);
  synchronize();  // the buffers end here
}

}  // namespace deepflight
