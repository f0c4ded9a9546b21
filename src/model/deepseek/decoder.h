// Decoder: the forward pass of DeepSeek-V2 and V3, written once over the op interface. It issues
// ops in order and holds no state of sequences: that is StepState's and the KV pool's.
//
//     h = embed(tokens)
//     per layer:  h += attention(norm(h));  h += mlp_or_moe(norm(h))
//     logits = lm_head(norm(h[sampled rows]))
#pragma once

#include <cstdint>

#include "compute/ops/backend.h"
#include "model/deepseek/config.h"
#include "model/deepseek/model_weights.h"

namespace deepflight {

// Every activation buffer of the forward pass, for at most max_tokens tokens a step; with those of
// MTP modules where `with_mtp` says so.
struct DecoderWorkspace {
  DecoderWorkspace(const DeepseekConfig& config, int64_t max_tokens, int64_t max_sampled_rows,
                   Backend& backend, bool with_mtp = false);
  static int64_t size_bytes(const DeepseekConfig& config, int64_t max_tokens,
                            int64_t max_sampled_rows, const Backend& backend,
                            bool with_mtp = false);

  TensorView residual;       // [max_tokens, hidden]
  Rows normed;               // [max_tokens, hidden]
  TensorView delta;          // [max_tokens, hidden]: a block's output, added to residual next
  TensorView qkv_a;          // [max_tokens, q + kv_lora + rope]
  Rows q_a;                  // [max_tokens, q_lora]; its values are columns of qkv_a
  TensorView q;              // [max_tokens, heads * qk_head]; only with q_lora
  TensorView attention;      // [max_tokens, heads * v]
  TensorView gate_up;        // [max_tokens, 2 * intermediate] of dense layers
  Rows activated;            // [max_tokens, intermediate]
  TensorView router_logits;  // F32 [max_tokens, experts]
  TensorView topk_ids;       // I32 [max_tokens, experts per token]
  TensorView topk_weights;   // F32 [max_tokens, experts per token]
  TensorView sampled;        // [max_sampled_rows, hidden]
  TensorView logits;         // F32 [max_sampled_rows, vocab]

  // Of MTP modules.
  TensorView states;          // [max_tokens, hidden]: after the final norm, of all tokens
  TensorView shifted_states;  // [max_tokens, hidden]
  TensorView joined;          // [max_tokens, 2 * hidden]: embedding and state, both normed
  TensorView mtp_states;      // [max_tokens, hidden]: after a module's final norm

  Buffer memory;
};

// What the layers of one step work on.
struct LayerContext {
  const StepState& state;
  const StepInputs& inputs;
  const KvPool& pool;
  int64_t first_key = 0;  // as in MlaCall
};

class Decoder {
 public:
  // References must outlive the decoder.
  Decoder(const DeepseekConfig& config, const ModelWeights& weights, Backend& backend,
          DecoderWorkspace& workspace);

  // Runs a step: writes the tokens' KV to the pool's pages and returns the logits of the sampled
  // rows, F32 [num_sampled_rows, vocab], in the workspace; also, in a workspace with MTP, the
  // states of all tokens, and those of the sampled rows in `sampled`.
  TensorView forward(const StepState& state, const StepInputs& inputs, const KvPool& pool);

  const DeepseekConfig& config() const { return config_; }

  // Parts of the forward pass that MTP modules share. One layer on the step's tokens, its KV in the
  // pages' layer kv_layer: residual, plus `delta` if `adds_delta`, -> residual and a new delta.
  void layer(const LayerWeights& weights, int64_t kv_layer, bool adds_delta,
             const LayerContext& step);
  // No more of it than what it leaves in the pages.
  void layer_kv(const LayerWeights& weights, int64_t kv_layer, const LayerContext& step);

 private:
  // Projections of `normed`, with rope; writes the KV. Returns q, [num_tokens, heads, qk_head].
  TensorView project(const AttentionWeights& weights, int64_t kv_layer, const LayerContext& step,
                     bool kv_only);
  void attention(const AttentionWeights& weights, int64_t kv_layer, const LayerContext& step);
  void mlp(const MlpWeights& weights, const Rows& x, const TensorView& out);
  void moe(const MoeLayerWeights& weights, const Rows& x, const TensorView& out);

  const DeepseekConfig& config_;
  const ModelWeights& weights_;
  Backend& backend_;
  DecoderWorkspace& workspace_;
  RoutingParams routing_;
  float softmax_scale_;
};

}  // namespace deepflight
