// The tensor table: one row per tensor of a checkpoint, from the config alone. Loader, memory plan,
// dummy weights, quantiser and `inspect` read the same rows, so a name or a shape is written once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/deepseek/config.h"
#include "model/weights/checkpoint.h"

namespace deepflight {

enum class TensorKind {
  kEmbedding,      // model.embed_tokens        [vocab, hidden]
  kFinalNorm,      // model.norm                [hidden]
  kLmHead,         // lm_head                   [vocab, hidden]; no row if tied
  kInputNorm,      // input_layernorm           [hidden]
  kAttentionNorm,  // post_attention_layernorm  [hidden]
  kQProj,          // q_proj                    [heads * qk_head, hidden]; only without q_lora
  kQAProj,         // q_a_proj                  [q_lora, hidden]
  kQANorm,         // q_a_layernorm             [q_lora]
  kQBProj,         // q_b_proj                  [heads * qk_head, q_lora]
  kKvAProj,        // kv_a_proj_with_mqa        [kv_lora + rope, hidden]
  kKvANorm,        // kv_a_layernorm            [kv_lora]
  kKvBProj,        // kv_b_proj                 [heads * (nope + v), kv_lora]
  kOProj,          // o_proj                    [hidden, heads * v]
  kMlpGate,        // mlp.gate_proj             [intermediate, hidden]
  kMlpUp,          // mlp.up_proj               [intermediate, hidden]
  kMlpDown,        // mlp.down_proj             [hidden, intermediate]
  kRouter,         // mlp.gate                  [experts, hidden]
  kRouterBias,     // mlp.gate.e_score_correction_bias  [experts]; only with kNoauxTc
  kExpertGate,     // mlp.experts.N.gate_proj   [moe_intermediate, hidden]
  kExpertUp,       // mlp.experts.N.up_proj     [moe_intermediate, hidden]
  kExpertDown,     // mlp.experts.N.down_proj   [hidden, moe_intermediate]
  kSharedGate,     // mlp.shared_experts.gate_proj  [shared_intermediate, hidden]
  kSharedUp,       // mlp.shared_experts.up_proj    [shared_intermediate, hidden]
  kSharedDown,     // mlp.shared_experts.down_proj  [hidden, shared_intermediate]
  kMtpEmbedding,   // embed_tokens              [vocab, hidden]; a copy of model.embed_tokens
  kMtpEmbedNorm,   // enorm                     [hidden]
  kMtpHiddenNorm,  // hnorm                     [hidden]
  kMtpProjection,  // eh_proj                   [hidden, 2 * hidden]; input is [enorm, hnorm]
  kMtpFinalNorm,   // shared_head.norm          [hidden]
  kMtpHead,        // shared_head.head          [vocab, hidden]; a copy of lm_head
};

// How tensor parallelism cuts the tensor.
enum class Sharding {
  kReplicated,
  kColumn,  // output features, dimension 0
  kRow,     // input features, dimension 1
  kExpert,  // whole experts are dealt out
  kVocab,   // vocabulary, dimension 0
};

enum class StorageFormat {
  kFloat,       // F32, BF16 or F16
  kFloatOrFp8,  // published as float; FP8 blocks are read too
  kFp8,         // FP8 blocks in a quantised checkpoint; float is read too
};

struct TensorRow {
  std::string name;  // in the checkpoint: "model.layers.3.mlp.experts.7.down_proj.weight"
  TensorKind kind = TensorKind::kEmbedding;
  int layer = -1;   // -1: of no layer; num_layers + k: MTP module k
  int expert = -1;  // -1: of no routed expert
  std::vector<int64_t> shape;
  Sharding sharding = Sharding::kReplicated;
  StorageFormat format = StorageFormat::kFloat;
  bool optional = false;  // rows of MTP modules: conversions of published checkpoints drop them

  int64_t num_elements() const;
};

std::string_view tensor_kind_name(TensorKind kind);  // "q_a_proj"
std::string_view sharding_name(Sharding sharding);   // "column"

// Rows in the order of the forward pass: embedding, layers, final norm, head, MTP modules.
std::vector<TensorRow> tensor_table(const DeepseekConfig& config);

// The checkpoint name of one tensor ("kQAProj of layer 3"), without building the table.
std::string tensor_name(TensorKind kind, int layer = -1, int expert = -1);

// The row's tensor, with dtype, shape and scale shape checked against the row. FP8 values come with
// their scales, unless they are random. Errors name the tensor, what was expected and what was
// found.
Result<StoredTensor> load_tensor(const Checkpoint& checkpoint, const TensorRow& row);

// What a checkpoint has beside or short of the table.
struct TableMatch {
  int64_t num_unexpected = 0;  // tensors that no row names (KV scales, old inv_freq not counted)
  std::string first_unexpected;
  int num_mtp_modules = 0;  // leading MTP modules of which every tensor that is no copy is there
};

// An error if a tensor that is not optional is missing; it lists the missing names in one line.
Result<TableMatch> match_table(const Checkpoint& checkpoint, const DeepseekConfig& config,
                               const std::vector<TensorRow>& rows);

}  // namespace deepflight
