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

// Every activation buffer of the forward pass, for at most max_tokens tokens a step.
struct DecoderWorkspace {
  DecoderWorkspace(const DeepseekConfig& config, int64_t max_tokens, int64_t max_sampled_rows,
                   Backend& backend);
  static int64_t size_bytes(const DeepseekConfig& config, int64_t max_tokens,
                            int64_t max_sampled_rows, const Backend& backend);

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

  Buffer memory;
};

class Decoder {
 public:
  // References must outlive the decoder.
  Decoder(const DeepseekConfig& config, const ModelWeights& weights, Backend& backend,
          DecoderWorkspace& workspace);

  // Runs a step: writes the tokens' KV to the pool's pages and returns the logits of the sampled
  // rows, F32 [num_sampled_rows, vocab], in the workspace.
  TensorView forward(const StepState& state, const StepInputs& inputs, const KvPool& pool);

 private:
  void attention(int64_t layer, const StepState& state, const StepInputs& inputs,
                 const KvPool& pool);
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
