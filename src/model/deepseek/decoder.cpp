// The forward pass; see decoder.h.
#include "model/deepseek/decoder.h"

#include <algorithm>

#include "tensor/carver.h"
#include "tensor/fp8_rows.h"

namespace deepflight {
namespace {

RoutingParams routing_params(const DeepseekConfig& config) {
  RoutingParams params;
  params.scoring =
      config.scoring == ScoringFunc::kSigmoid ? RouterScoring::kSigmoid : RouterScoring::kSoftmax;
  switch (config.topk_method) {
    case TopkMethod::kGreedy:
      params.group_score = GroupScore::kNone;
      break;
    case TopkMethod::kGroupLimitedGreedy:
      params.group_score = GroupScore::kMax;
      break;
    case TopkMethod::kNoauxTc:
      params.group_score = GroupScore::kTop2Sum;
      break;
  }
  params.num_groups = static_cast<int>(config.num_expert_groups);
  params.topk_groups = static_cast<int>(config.topk_groups);
  params.topk = static_cast<int>(config.num_experts_per_token);
  params.normalize = config.norm_topk_prob;
  params.scaling_factor = config.routed_scaling_factor;
  return params;
}

int64_t q_dim(const DeepseekConfig& config) { return config.num_heads * config.qk_head_dim(); }

int64_t dense_intermediate(const DeepseekConfig& config) {
  const bool has_moe = config.num_routed_experts > 0;
  const bool has_dense = !has_moe || config.first_dense_layers > 0 || config.moe_layer_freq > 1;
  return has_dense ? config.intermediate_size : 0;
}

struct WorkspaceSize {
  int64_t max_tokens;
  int64_t max_sampled_rows;
  bool with_mtp;
};

void carve(const DeepseekConfig& config, const WorkspaceSize& size, const Backend& backend,
           Carver& carver, DecoderWorkspace* workspace) {
  const int64_t max_tokens = size.max_tokens;
  const int64_t max_sampled_rows = size.max_sampled_rows;
  const DType activation = backend.activation_dtype();
  const bool with_fp8 =
      backend.quantizes_rows() && config.quantization == WeightQuantization::kFp8Block128;
  const bool has_q_lora = config.q_lora_rank > 0;
  const int64_t q_a_dim = has_q_lora ? config.q_lora_rank : q_dim(config);
  const int64_t intermediate = dense_intermediate(config);
  const auto take = [&](TensorView DecoderWorkspace::*view, DType dtype, int64_t rows,
                        int64_t columns) {
    const TensorView taken = carver.take(dtype, {rows, columns});
    if (workspace != nullptr) workspace->*view = taken;
  };
  // The FP8 form of rows: 16-byte rows of values, scales by 1x128 block.
  const auto take_fp8 = [&](Rows DecoderWorkspace::*rows, int64_t columns) {
    if (!with_fp8) return;
    const TensorView fp8 = carver.take(
        DType::kF8E4M3, {max_tokens + Fp8Rows::kRowsBeyond, Fp8Rows::value_stride_of(columns)});
    const TensorView scales = carver.take(
        DType::kF32, {Fp8Rows::num_scale_blocks(columns), Fp8Rows::scale_stride_of(max_tokens)});
    if (workspace == nullptr || columns == 0) return;
    (workspace->*rows).fp8 = fp8.first_rows(max_tokens).slice(1, 0, columns);
    (workspace->*rows).fp8_scales = scales;
  };
  const auto take_rows = [&](Rows DecoderWorkspace::*rows, int64_t columns) {
    const TensorView values = carver.take(activation, {max_tokens, columns});
    if (workspace != nullptr) (workspace->*rows).values = values;
    take_fp8(rows, columns);
  };
  using W = DecoderWorkspace;
  take(&W::residual, activation, max_tokens, config.hidden_size);
  take_rows(&W::normed, config.hidden_size);
  take(&W::delta, activation, max_tokens, config.hidden_size);
  take(&W::qkv_a, activation, max_tokens, q_a_dim + config.kv_token_dim());
  if (has_q_lora && workspace != nullptr) {
    workspace->q_a.values = workspace->qkv_a.slice(1, 0, config.q_lora_rank);
  }
  take_fp8(&W::q_a, has_q_lora ? config.q_lora_rank : 0);
  take(&W::q, activation, max_tokens, has_q_lora ? q_dim(config) : 0);
  take(&W::attention, activation, max_tokens, config.num_heads * config.v_head_dim);
  take(&W::gate_up, activation, max_tokens, 2 * intermediate);
  take_rows(&W::activated, intermediate);
  take(&W::router_logits, DType::kF32, max_tokens, config.num_routed_experts);
  take(&W::topk_ids, DType::kI32, max_tokens, config.num_experts_per_token);
  take(&W::topk_weights, DType::kF32, max_tokens, config.num_experts_per_token);
  take(&W::sampled, activation, max_sampled_rows, config.hidden_size);
  take(&W::logits, DType::kF32, max_sampled_rows, config.vocab_size);
  if (!size.with_mtp) return;
  take(&W::states, activation, max_tokens, config.hidden_size);
  take(&W::shifted_states, activation, max_tokens, config.hidden_size);
  take(&W::joined, activation, max_tokens, 2 * config.hidden_size);
  take(&W::mtp_states, activation, max_tokens, config.hidden_size);
}

}  // namespace

DecoderWorkspace::DecoderWorkspace(const DeepseekConfig& config, int64_t max_tokens,
                                   int64_t max_sampled_rows, Backend& backend, bool with_mtp)
    : memory(
          backend.allocate(size_bytes(config, max_tokens, max_sampled_rows, backend, with_mtp))) {
  Carver carver(memory.data());
  carve(config, {max_tokens, max_sampled_rows, with_mtp}, backend, carver, this);
}

int64_t DecoderWorkspace::size_bytes(const DeepseekConfig& config, int64_t max_tokens,
                                     int64_t max_sampled_rows, const Backend& backend,
                                     bool with_mtp) {
  Carver carver(nullptr);
  carve(config, {max_tokens, max_sampled_rows, with_mtp}, backend, carver, nullptr);
  return carver.used_bytes();
}

Decoder::Decoder(const DeepseekConfig& config, const ModelWeights& weights, Backend& backend,
                 DecoderWorkspace& workspace)
    : config_(config),
      weights_(weights),
      backend_(backend),
      workspace_(workspace),
      routing_(routing_params(config)),
      softmax_scale_(static_cast<float>(config.softmax_scale())) {}

TensorView Decoder::forward(const StepState& state, const StepInputs& inputs, const KvPool& pool) {
  const int64_t num_tokens = inputs.num_tokens;
  CHECK(num_tokens > 0 && num_tokens <= workspace_.residual.dim(0), num_tokens);
  CHECK(inputs.num_sampled_rows <= workspace_.sampled.dim(0), inputs.num_sampled_rows);
  const TensorView residual = workspace_.residual.first_rows(num_tokens);
  const TensorView delta = workspace_.delta.first_rows(num_tokens);
  const float eps = config_.rms_norm_eps;

  backend_.begin_section("embed");
  backend_.embed(weights_.embedding, inputs.token_ids, residual);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    layer(weights_.layers[i], static_cast<int64_t>(i), /*adds_delta=*/i > 0, {state, inputs, pool});
  }
  backend_.begin_section("head");
  const TensorView sampled = workspace_.sampled.first_rows(inputs.num_sampled_rows);
  const TensorView logits = workspace_.logits.first_rows(inputs.num_sampled_rows);
  if (workspace_.states) {
    const TensorView states = workspace_.states.first_rows(num_tokens);
    backend_.add_rms_norm(delta, residual, weights_.final_norm, eps, states);
    if (inputs.num_sampled_rows > 0) {
      backend_.gather_rows(states, inputs.sampled_token_idx, sampled);
    }
  } else {
    backend_.add(delta, residual);
    // Only the rows that are sampled go on: a prefill chunk's other tokens need no logits.
    if (inputs.num_sampled_rows > 0) {
      backend_.gather_rows(residual, inputs.sampled_token_idx, sampled);
      backend_.rms_norm(sampled, weights_.final_norm, eps, sampled);
    }
  }
  if (inputs.num_sampled_rows > 0) backend_.linear(sampled, weights_.lm_head, logits);
  return logits;
}

void Decoder::layer(const LayerWeights& weights, int64_t kv_layer, bool adds_delta,
                    const LayerContext& step) {
  const int64_t num_tokens = step.inputs.num_tokens;
  const TensorView residual = workspace_.residual.first_rows(num_tokens);
  const Rows normed = workspace_.normed.first_rows(num_tokens);
  const TensorView delta = workspace_.delta.first_rows(num_tokens);
  const float eps = config_.rms_norm_eps;
  backend_.begin_section("attention");
  if (adds_delta) {
    backend_.add_rms_norm(delta, residual, weights.input_norm, eps, normed);
  } else {
    backend_.rms_norm(residual, weights.input_norm, eps, normed);
  }
  attention(weights.attention, kv_layer, step);
  backend_.add_rms_norm(delta, residual, weights.attention_norm, eps, normed);
  backend_.begin_section(weights.moe ? "moe" : "dense");
  if (weights.moe) {
    moe(*weights.moe, normed, delta);
  } else {
    mlp(*weights.dense, normed, delta);
  }
}

void Decoder::layer_kv(const LayerWeights& weights, int64_t kv_layer, const LayerContext& step) {
  const int64_t num_tokens = step.inputs.num_tokens;
  backend_.begin_section("attention");
  backend_.rms_norm(workspace_.residual.first_rows(num_tokens), weights.input_norm,
                    config_.rms_norm_eps, workspace_.normed.first_rows(num_tokens));
  project(weights.attention, kv_layer, step, /*kv_only=*/true);
}

TensorView Decoder::project(const AttentionWeights& weights, int64_t kv_layer,
                            const LayerContext& step, bool kv_only) {
  const int64_t num_tokens = step.inputs.num_tokens;
  const TensorView qkv_a = workspace_.qkv_a.first_rows(num_tokens);
  const int64_t q_a_dim = qkv_a.dim(1) - config_.kv_token_dim();
  const TensorView latent = qkv_a.slice(1, q_a_dim, config_.kv_token_dim());  // [kv_lora | rope]
  const TensorView kv_a = latent.slice(1, 0, config_.kv_lora_rank);
  const float eps = config_.latent_norm_eps;

  backend_.linear(workspace_.normed.first_rows(num_tokens), weights.qkv_a, qkv_a);
  if (kv_only) {
    // Rope turns the key alone: the op's "query" is the key's own rotated part.
    backend_.rms_norm(kv_a, weights.kv_a_norm, eps, kv_a);
    const TensorView k_pe = latent.slice(1, config_.kv_lora_rank, config_.qk_rope_head_dim);
    backend_.rope(k_pe.split_last(1, config_.qk_rope_head_dim), step.inputs.positions,
                  weights_.rope);
    backend_.write_kv(latent, step.state, step.inputs, step.pool, kv_layer);
    return {};
  }
  TensorView q_flat;
  if (config_.q_lora_rank > 0) {
    const Rows q_a = workspace_.q_a.first_rows(num_tokens);
    backend_.rms_norm_pair(q_a, weights.q_a_norm, kv_a, weights.kv_a_norm, eps);
    q_flat = workspace_.q.first_rows(num_tokens);
    backend_.linear(q_a, weights.q_b, q_flat);
  } else {
    q_flat = qkv_a.slice(1, 0, q_a_dim);
    backend_.rms_norm(kv_a, weights.kv_a_norm, eps, kv_a);
  }
  const TensorView q = q_flat.split_last(config_.num_heads, config_.qk_head_dim());
  const TensorView q_pe = q.slice(2, config_.qk_nope_head_dim, config_.qk_rope_head_dim);
  backend_.rope_write_kv(q_pe, latent, step.state, step.inputs, weights_.rope, step.pool, kv_layer);
  return q;
}

// normed -> delta.
void Decoder::attention(const AttentionWeights& weights, int64_t kv_layer,
                        const LayerContext& step) {
  const StepInputs& inputs = step.inputs;
  const int64_t num_tokens = inputs.num_tokens;
  const int64_t num_absorbed = inputs.num_absorbed_tokens;
  const TensorView q = project(weights, kv_layer, step, /*kv_only=*/false);
  const TensorView out = workspace_.attention.first_rows(num_tokens);
  const auto call = [&](int64_t begin, int64_t end, const AttentionBatch& batch) {
    return MlaCall{q.slice(0, begin, end - begin),
                   weights.kv_up,
                   step.state,
                   batch,
                   step.pool,
                   kv_layer,
                   softmax_scale_,
                   out.slice(0, begin, end - begin),
                   step.first_key};
  };
  if (num_absorbed > 0) backend_.mla_absorbed(call(0, num_absorbed, inputs.absorbed));
  if (num_tokens > num_absorbed) {
    backend_.mla_expanded(call(num_absorbed, num_tokens, inputs.expanded));
  }
  backend_.linear(out, weights.o, workspace_.delta.first_rows(num_tokens));
}

void Decoder::mlp(const MlpWeights& weights, const Rows& x, const TensorView& out) {
  const int64_t intermediate = weights.down.in_features;
  const TensorView gate_up = workspace_.gate_up.first_rows(x.dim(0)).slice(1, 0, 2 * intermediate);
  Rows activated = workspace_.activated.first_rows(x.dim(0)).first_columns(intermediate);
  if (weights.down.fp8 && activated.fp8) activated = activated.fp8_only();  // what down reads
  backend_.linear_swiglu(x, weights.gate_up, gate_up, activated);
  backend_.linear(activated, weights.down, out);
}

void Decoder::moe(const MoeLayerWeights& weights, const Rows& x, const TensorView& out) {
  const int64_t num_tokens = x.dim(0);
  const TensorView logits = workspace_.router_logits.first_rows(num_tokens);
  const TensorView topk_ids = workspace_.topk_ids.first_rows(num_tokens);
  const TensorView topk_weights = workspace_.topk_weights.first_rows(num_tokens);
  backend_.linear(x, weights.router, logits);
  backend_.route_experts(logits, weights.router_bias, routing_, topk_ids, topk_weights);
  backend_.moe(x, weights.experts, topk_ids, topk_weights, out);
}

}  // namespace deepflight
