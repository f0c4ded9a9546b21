// Rows from the config, and the checks of a checkpoint against them.
#include "model/deepseek/tensor_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <unordered_set>
#include <utility>

#include "model/deepseek/kv_scales.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

// What is the same for every tensor of a kind.
struct KindRow {
  TensorKind kind;
  std::string_view name;  // for people
  std::string_view path;  // below its layer or, without one, from the root; {} is the expert
  Sharding sharding;
  StorageFormat format;
};

constexpr auto kFloat = StorageFormat::kFloat;
constexpr auto kFloatOrFp8 = StorageFormat::kFloatOrFp8;
constexpr auto kFp8 = StorageFormat::kFp8;

constexpr std::array kKinds = {
    KindRow{TensorKind::kEmbedding, "embed_tokens", "model.embed_tokens.weight", Sharding::kVocab,
            kFloat},
    KindRow{TensorKind::kFinalNorm, "norm", "model.norm.weight", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kLmHead, "lm_head", "lm_head.weight", Sharding::kVocab, kFloat},
    KindRow{TensorKind::kInputNorm, "input_layernorm", "input_layernorm.weight",
            Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kAttentionNorm, "post_attention_layernorm",
            "post_attention_layernorm.weight", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kQProj, "q_proj", "self_attn.q_proj.weight", Sharding::kColumn, kFp8},
    KindRow{TensorKind::kQAProj, "q_a_proj", "self_attn.q_a_proj.weight", Sharding::kReplicated,
            kFp8},
    KindRow{TensorKind::kQANorm, "q_a_layernorm", "self_attn.q_a_layernorm.weight",
            Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kQBProj, "q_b_proj", "self_attn.q_b_proj.weight", Sharding::kColumn, kFp8},
    KindRow{TensorKind::kKvAProj, "kv_a_proj_with_mqa", "self_attn.kv_a_proj_with_mqa.weight",
            Sharding::kReplicated, kFp8},
    KindRow{TensorKind::kKvANorm, "kv_a_layernorm", "self_attn.kv_a_layernorm.weight",
            Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kKvBProj, "kv_b_proj", "self_attn.kv_b_proj.weight", Sharding::kColumn,
            kFp8},
    KindRow{TensorKind::kOProj, "o_proj", "self_attn.o_proj.weight", Sharding::kRow, kFp8},
    KindRow{TensorKind::kMlpGate, "gate_proj", "mlp.gate_proj.weight", Sharding::kColumn, kFp8},
    KindRow{TensorKind::kMlpUp, "up_proj", "mlp.up_proj.weight", Sharding::kColumn, kFp8},
    KindRow{TensorKind::kMlpDown, "down_proj", "mlp.down_proj.weight", Sharding::kRow, kFp8},
    KindRow{TensorKind::kRouter, "gate", "mlp.gate.weight", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kRouterBias, "gate.e_score_correction_bias",
            "mlp.gate.e_score_correction_bias", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kExpertGate, "experts.gate_proj", "mlp.experts.{}.gate_proj.weight",
            Sharding::kExpert, kFp8},
    KindRow{TensorKind::kExpertUp, "experts.up_proj", "mlp.experts.{}.up_proj.weight",
            Sharding::kExpert, kFp8},
    KindRow{TensorKind::kExpertDown, "experts.down_proj", "mlp.experts.{}.down_proj.weight",
            Sharding::kExpert, kFp8},
    KindRow{TensorKind::kSharedGate, "shared_experts.gate_proj",
            "mlp.shared_experts.gate_proj.weight", Sharding::kColumn, kFp8},
    KindRow{TensorKind::kSharedUp, "shared_experts.up_proj", "mlp.shared_experts.up_proj.weight",
            Sharding::kColumn, kFp8},
    KindRow{TensorKind::kSharedDown, "shared_experts.down_proj",
            "mlp.shared_experts.down_proj.weight", Sharding::kRow, kFp8},
    KindRow{TensorKind::kMtpEmbedding, "mtp.embed_tokens", "embed_tokens.weight", Sharding::kVocab,
            kFloat},
    KindRow{TensorKind::kMtpEmbedNorm, "mtp.enorm", "enorm.weight", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kMtpHiddenNorm, "mtp.hnorm", "hnorm.weight", Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kMtpProjection, "mtp.eh_proj", "eh_proj.weight", Sharding::kReplicated,
            kFloatOrFp8},
    KindRow{TensorKind::kMtpFinalNorm, "mtp.shared_head.norm", "shared_head.norm.weight",
            Sharding::kReplicated, kFloat},
    KindRow{TensorKind::kMtpHead, "mtp.shared_head.head", "shared_head.head.weight",
            Sharding::kVocab, kFloat},
};

const KindRow& kind_row(TensorKind kind) {
  const auto& row = kKinds.at(static_cast<size_t>(kind));
  CHECK(row.kind == kind, kind);
  return row;
}

class TableBuilder {
 public:
  explicit TableBuilder(const DeepseekConfig& config) : config_(config) {}

  std::vector<TensorRow> build() && {
    const auto& c = config_;
    add(TensorKind::kEmbedding, {c.vocab_size, c.hidden_size});
    for (layer_ = 0; layer_ < c.num_layers; ++layer_) add_decoder_layer();
    layer_ = -1;
    add(TensorKind::kFinalNorm, {c.hidden_size});
    if (!c.tie_word_embeddings) add(TensorKind::kLmHead, {c.vocab_size, c.hidden_size});
    optional_ = true;
    for (int module = 0; module < c.num_nextn_predict_layers; ++module) {
      layer_ = static_cast<int>(c.num_layers) + module;
      add_mtp_module();
    }
    return std::move(rows_);
  }

 private:
  void add(TensorKind kind, std::vector<int64_t> shape, int expert = -1) {
    const KindRow& row = kind_row(kind);
    rows_.push_back({.name = tensor_name(kind, layer_, expert),
                     .kind = kind,
                     .layer = layer_,
                     .expert = expert,
                     .shape = std::move(shape),
                     .sharding = row.sharding,
                     .format = row.format,
                     .optional = optional_});
  }

  void add_decoder_layer() {
    const auto& c = config_;
    add(TensorKind::kInputNorm, {c.hidden_size});
    add_attention();
    add(TensorKind::kAttentionNorm, {c.hidden_size});
    if (c.is_moe_layer(layer_)) {
      add_moe();
    } else {
      add(TensorKind::kMlpGate, {c.intermediate_size, c.hidden_size});
      add(TensorKind::kMlpUp, {c.intermediate_size, c.hidden_size});
      add(TensorKind::kMlpDown, {c.hidden_size, c.intermediate_size});
    }
  }

  void add_attention() {
    const auto& c = config_;
    const int64_t q_width = c.num_heads * c.qk_head_dim();
    if (c.q_lora_rank == 0) {
      add(TensorKind::kQProj, {q_width, c.hidden_size});
    } else {
      add(TensorKind::kQAProj, {c.q_lora_rank, c.hidden_size});
      add(TensorKind::kQANorm, {c.q_lora_rank});
      add(TensorKind::kQBProj, {q_width, c.q_lora_rank});
    }
    add(TensorKind::kKvAProj, {c.kv_token_dim(), c.hidden_size});
    add(TensorKind::kKvANorm, {c.kv_lora_rank});
    add(TensorKind::kKvBProj, {c.num_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank});
    add(TensorKind::kOProj, {c.hidden_size, c.num_heads * c.v_head_dim});
  }

  void add_moe() {
    const auto& c = config_;
    add(TensorKind::kRouter, {c.num_routed_experts, c.hidden_size});
    if (c.topk_method == TopkMethod::kNoauxTc) {
      add(TensorKind::kRouterBias, {c.num_routed_experts});
    }
    for (int expert = 0; expert < c.num_routed_experts; ++expert) {
      add(TensorKind::kExpertGate, {c.moe_intermediate_size, c.hidden_size}, expert);
      add(TensorKind::kExpertUp, {c.moe_intermediate_size, c.hidden_size}, expert);
      add(TensorKind::kExpertDown, {c.hidden_size, c.moe_intermediate_size}, expert);
    }
    if (c.num_shared_experts > 0) {
      add(TensorKind::kSharedGate, {c.shared_intermediate_size(), c.hidden_size});
      add(TensorKind::kSharedUp, {c.shared_intermediate_size(), c.hidden_size});
      add(TensorKind::kSharedDown, {c.hidden_size, c.shared_intermediate_size()});
    }
  }

  void add_mtp_module() {
    const auto& c = config_;
    add(TensorKind::kMtpEmbedding, {c.vocab_size, c.hidden_size});
    add(TensorKind::kMtpEmbedNorm, {c.hidden_size});
    add(TensorKind::kMtpHiddenNorm, {c.hidden_size});
    add(TensorKind::kMtpProjection, {c.hidden_size, 2 * c.hidden_size});
    add_decoder_layer();
    add(TensorKind::kMtpFinalNorm, {c.hidden_size});
    add(TensorKind::kMtpHead, {c.vocab_size, c.hidden_size});
  }

  const DeepseekConfig& config_;
  int layer_ = -1;
  bool optional_ = false;
  std::vector<TensorRow> rows_;
};

std::string expected_text(const TensorRow& row) {
  return fmt::format("{}[{}]", row.format == StorageFormat::kFloat ? "float" : "float or FP8",
                     fmt::join(row.shape, ", "));
}

bool has_shape(const TensorView& view, const std::vector<int64_t>& shape) {
  if (view.rank() != static_cast<int>(shape.size())) return false;
  for (int i = 0; i < view.rank(); ++i) {
    if (view.dim(i) != shape[static_cast<size_t>(i)]) return false;
  }
  return true;
}

bool is_mtp_copy(TensorKind kind) {
  return kind == TensorKind::kMtpEmbedding || kind == TensorKind::kMtpHead;
}

}  // namespace

int64_t TensorRow::num_elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

std::string_view tensor_kind_name(TensorKind kind) { return kind_row(kind).name; }

std::string_view sharding_name(Sharding sharding) {
  switch (sharding) {
    case Sharding::kReplicated:
      return "replicated";
    case Sharding::kColumn:
      return "column";
    case Sharding::kRow:
      return "row";
    case Sharding::kExpert:
      return "expert";
    case Sharding::kVocab:
      return "vocab";
  }
  return "?";
}

std::string tensor_name(TensorKind kind, int layer, int expert) {
  const std::string_view path = kind_row(kind).path;
  if (layer < 0) return std::string(path);
  return fmt::format("model.layers.{}.{}", layer, fmt::format(fmt::runtime(path), expert));
}

std::vector<TensorRow> tensor_table(const DeepseekConfig& config) {
  return TableBuilder(config).build();
}

Result<StoredTensor> load_tensor(const Checkpoint& checkpoint, const TensorRow& row) {
  ASSIGN_OR_RETURN(StoredTensor tensor, checkpoint.tensor(row.name));
  const bool is_fp8 = tensor.values.dtype() == DType::kF8E4M3;
  const bool allowed = tensor.is_float() || (is_fp8 && row.format != StorageFormat::kFloat);
  if (!allowed || !has_shape(tensor.values, row.shape)) {
    return invalid_argument("tensor '{}': expected {}, found {}", row.name, expected_text(row),
                            tensor.values.to_string());
  }
  if (is_fp8 && !tensor.scale_inv && !tensor.random) {
    return invalid_argument("tensor '{}': {} without '{}{}'", row.name, tensor.values.to_string(),
                            row.name, kScaleSuffix);
  }
  return tensor;
}

Result<TableMatch> match_table(const Checkpoint& checkpoint, const DeepseekConfig& config,
                               const std::vector<TensorRow>& rows) {
  constexpr size_t kMaxListed = 8;
  std::unordered_set<std::string_view> known;
  std::vector<std::string_view> missing;
  size_t num_missing = 0;
  std::vector<bool> mtp_complete(static_cast<size_t>(config.num_nextn_predict_layers), true);
  for (const auto& row : rows) {
    known.insert(row.name);
    if (checkpoint.contains(row.name) || (row.optional && is_mtp_copy(row.kind))) continue;
    if (row.optional) {
      mtp_complete[static_cast<size_t>(row.layer - config.num_layers)] = false;
    } else if (++num_missing <= kMaxListed) {
      missing.push_back(row.name);
    }
  }
  if (num_missing > 0) {
    return invalid_argument("checkpoint lacks {} of {} tensors: {}{}", num_missing, rows.size(),
                            fmt::join(missing, ", "), num_missing > kMaxListed ? ", ..." : "");
  }
  TableMatch match;
  for (const auto complete : mtp_complete) {
    if (!complete) break;
    ++match.num_mtp_modules;
  }
  for (const std::string& name : checkpoint.names()) {
    std::string_view base = name;
    if (base.ends_with(kScaleSuffix)) base.remove_suffix(kScaleSuffix.size());
    if (known.contains(base) || is_kv_scale(base)) continue;
    // Buffers that very old exports wrote; every implementation computes them.
    if (base.ends_with("rotary_emb.inv_freq")) continue;
    if (match.num_unexpected++ == 0) match.first_unexpected = name;
  }
  return match;
}

}  // namespace deepflight
