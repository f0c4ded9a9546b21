// From tensor-table rows to packed weights.
#include "model/deepseek/model_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>
#include <tuple>
#include <utility>

#include "base/readahead.h"
#include "model/deepseek/tensor_table.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

constexpr int64_t kReadaheadBytes = int64_t{1} << 30;
constexpr int kLast = std::numeric_limits<int>::max();

// Fetches tensors of the table by (kind, layer, expert) and packs them.
class Loader {
 public:
  Loader(const DeepseekConfig& config, const Checkpoint& checkpoint, Backend& backend,
         const std::function<void(int64_t)>& on_progress)
      : config_(config), checkpoint_(checkpoint), backend_(backend), on_progress_(on_progress) {
    for (auto& row : tensor_table(config)) {
      rows_.emplace(std::make_tuple(row.kind, row.layer, row.expert), std::move(row));
    }
    if (checkpoint.is_mapped()) start_readahead();
  }

  bool has(TensorKind kind, int layer) const { return rows_.contains({kind, layer, -1}); }

  Result<StoredTensor> stored(TensorKind kind, int layer = -1, int expert = -1) {
    const auto it = rows_.find({kind, layer, expert});
    CHECK(it != rows_.end(), tensor_kind_name(kind), layer, expert);
    ASSIGN_OR_RETURN(StoredTensor tensor, load_tensor(checkpoint_, it->second));
    pending_bytes_ += tensor.values.num_elements() * dtype_bytes(tensor.values.dtype());
    if (readahead_) readahead_->advance(static_cast<int64_t>(bytes_of(tensor.values).size()));
    return tensor;
  }

  // The backend has taken all tensors that stored() gave so far.
  void report() {
    if (on_progress_) on_progress_(pending_bytes_);
    pending_bytes_ = 0;
  }

  // A vector as float32 in backend memory.
  Result<TensorView> upload(TensorKind kind, int layer, std::vector<Buffer>* buffers) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, stored(kind, layer));
    std::vector<float> values(tensor.values.num_elements());
    to_f32(tensor.values, values.data());
    report();
    return upload_f32(values, tensor.values, buffers);
  }

  // A table in the activation dtype.
  Result<TensorView> table(TensorKind kind, std::vector<Buffer>* buffers) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, stored(kind));
    buffers->push_back(backend_.pack_table(matrix(tensor)));
    report();
    return TensorView(buffers->back().data(), backend_.activation_dtype(),
                      {tensor.values.dim(0), tensor.values.dim(1)});
  }

  Result<KvUpWeight> kv_up(int layer) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, stored(TensorKind::kKvBProj, layer));
    KvUpWeight weight =
        backend_.pack_kv_up(matrix(tensor), config_.num_heads, config_.qk_nope_head_dim);
    report();
    return weight;
  }

  TensorView upload_f32(const std::vector<float>& values, const TensorView& shape,
                        std::vector<Buffer>* buffers) {
    const auto size_bytes = static_cast<int64_t>(values.size() * sizeof(float));
    buffers->push_back(backend_.allocate(size_bytes));
    void* memory = buffers->back().data();
    backend_.copy_in(memory, values.data(), size_bytes);
    if (shape.rank() == 1) return TensorView(memory, DType::kF32, {shape.dim(0)});
    return TensorView(memory, DType::kF32, {shape.dim(0), shape.dim(1)});
  }

  // The tensors of `kinds` stacked into one product.
  Result<LinearWeight> linear(std::initializer_list<TensorKind> kinds, int layer) {
    ASSIGN_OR_RETURN(const Stack stack, this->stack(kinds, layer, -1));
    LinearWeight weight = backend_.pack_linear(stack.parts);
    report();
    return weight;
  }

  Result<GroupedLinearWeight> experts(std::initializer_list<TensorKind> kinds, int layer) {
    std::vector<Stack> stacks;
    std::vector<std::vector<StoredMatrix>> groups;
    for (int expert = 0; expert < config_.num_routed_experts; ++expert) {
      ASSIGN_OR_RETURN(Stack stack, this->stack(kinds, layer, expert));
      if (!groups.empty() && is_fp8(stack.parts[0]) != is_fp8(groups[0][0])) {
        return invalid_argument("{}: stored in another format than the layer's other experts",
                                tensor_name(*kinds.begin(), layer, expert));
      }
      groups.push_back(stack.parts);
      stacks.push_back(std::move(stack));
    }
    GroupedLinearWeight weight = backend_.pack_grouped_linear(groups);
    report();
    return weight;
  }

  Result<MlpWeights> mlp(TensorKind gate, TensorKind up, TensorKind down, int layer) {
    MlpWeights weights;
    ASSIGN_OR_RETURN(weights.gate_up, linear({gate, up}, layer));
    ASSIGN_OR_RETURN(weights.down, linear({down}, layer));
    return weights;
  }

 private:
  // Has the files read in about the order of load_model_weights.
  void start_readahead() {
    std::vector<std::pair<std::tuple<int, int>, std::span<const std::byte>>> spans;
    for (const auto& row : tensor_table(config_)) {
      const auto tensor = checkpoint_.tensor(row.name);
      if (row.optional || !tensor.ok() || !tensor->values) continue;
      // Of a layer's experts, all gates and ups come first.
      const int stage = row.kind < TensorKind::kExpertDown ? 0 : 1;
      const int layer = row.layer >= 0                       ? row.layer
                        : row.kind == TensorKind::kEmbedding ? -1
                                                             : kLast;
      spans.push_back({{layer, stage}, bytes_of(tensor->values)});
    }
    std::stable_sort(spans.begin(), spans.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::span<const std::byte>> in_order;
    for (const auto& [key, span] : spans) in_order.push_back(span);
    if (!in_order.empty()) readahead_.emplace(std::move(in_order), kReadaheadBytes);
  }

  // What of a tensor is worth reading ahead. Scales lie beside their values.
  static std::span<const std::byte> bytes_of(const TensorView& values) {
    if (!values) return {};
    return {static_cast<const std::byte*>(values.raw()),
            static_cast<size_t>(values.num_elements() * dtype_bytes(values.dtype()))};
  }

  struct Stack {
    std::vector<StoredMatrix> parts;
    std::vector<StoredTensor> owners;
  };

  static StoredMatrix matrix(const StoredTensor& tensor) {
    return {tensor.values, tensor.scale_inv, tensor.random};
  }
  static bool is_fp8(const StoredMatrix& matrix) { return matrix.values.dtype() == DType::kF8E4M3; }

  Result<Stack> stack(std::initializer_list<TensorKind> kinds, int layer, int expert) {
    Stack stack;
    for (const TensorKind kind : kinds) {
      ASSIGN_OR_RETURN(StoredTensor tensor, stored(kind, layer, expert));
      stack.parts.push_back(matrix(tensor));
      if (is_fp8(stack.parts.back()) != is_fp8(stack.parts.front())) {
        return invalid_argument("{}: {} beside {}, which is {}; both must have one format",
                                tensor_name(kind, layer, expert), dtype_name(tensor.values.dtype()),
                                tensor_name(*kinds.begin(), layer, expert),
                                dtype_name(stack.parts.front().values.dtype()));
      }
      stack.owners.push_back(std::move(tensor));
    }
    return stack;
  }

  const DeepseekConfig& config_;
  const Checkpoint& checkpoint_;
  Backend& backend_;
  const std::function<void(int64_t)>& on_progress_;
  int64_t pending_bytes_ = 0;
  std::optional<Readahead> readahead_;
  std::map<std::tuple<TensorKind, int, int>, TensorRow> rows_;
};

Result<AttentionWeights> load_attention(const DeepseekConfig& config, int layer, Loader& loader,
                                        std::vector<Buffer>* buffers) {
  AttentionWeights weights;
  if (config.q_lora_rank > 0) {
    ASSIGN_OR_RETURN(weights.qkv_a,
                     loader.linear({TensorKind::kQAProj, TensorKind::kKvAProj}, layer));
    ASSIGN_OR_RETURN(weights.q_a_norm, loader.upload(TensorKind::kQANorm, layer, buffers));
    ASSIGN_OR_RETURN(weights.q_b, loader.linear({TensorKind::kQBProj}, layer));
  } else {
    ASSIGN_OR_RETURN(weights.qkv_a,
                     loader.linear({TensorKind::kQProj, TensorKind::kKvAProj}, layer));
  }
  ASSIGN_OR_RETURN(weights.kv_a_norm, loader.upload(TensorKind::kKvANorm, layer, buffers));
  ASSIGN_OR_RETURN(weights.kv_up, loader.kv_up(layer));
  ASSIGN_OR_RETURN(weights.o, loader.linear({TensorKind::kOProj}, layer));
  return weights;
}

Result<MoeLayerWeights> load_moe(const DeepseekConfig& config, int layer, Loader& loader,
                                 std::vector<Buffer>* buffers) {
  MoeLayerWeights weights;
  ASSIGN_OR_RETURN(weights.router, loader.linear({TensorKind::kRouter}, layer));
  if (loader.has(TensorKind::kRouterBias, layer)) {
    ASSIGN_OR_RETURN(weights.router_bias, loader.upload(TensorKind::kRouterBias, layer, buffers));
  }
  ASSIGN_OR_RETURN(weights.experts.gate_up,
                   loader.experts({TensorKind::kExpertGate, TensorKind::kExpertUp}, layer));
  ASSIGN_OR_RETURN(weights.experts.down, loader.experts({TensorKind::kExpertDown}, layer));
  if (config.num_shared_experts > 0) {
    ASSIGN_OR_RETURN(
        weights.experts.shared,
        loader.mlp(TensorKind::kSharedGate, TensorKind::kSharedUp, TensorKind::kSharedDown, layer));
  }
  return weights;
}

Result<LayerWeights> load_layer(const DeepseekConfig& config, int layer, Loader& loader,
                                std::vector<Buffer>* buffers) {
  LayerWeights weights;
  ASSIGN_OR_RETURN(weights.input_norm, loader.upload(TensorKind::kInputNorm, layer, buffers));
  ASSIGN_OR_RETURN(weights.attention_norm,
                   loader.upload(TensorKind::kAttentionNorm, layer, buffers));
  ASSIGN_OR_RETURN(weights.attention, load_attention(config, layer, loader, buffers));
  if (config.is_moe_layer(layer)) {
    ASSIGN_OR_RETURN(weights.moe, load_moe(config, layer, loader, buffers));
  } else {
    ASSIGN_OR_RETURN(weights.dense, loader.mlp(TensorKind::kMlpGate, TensorKind::kMlpUp,
                                               TensorKind::kMlpDown, layer));
  }
  return weights;
}

Result<MtpWeights> load_mtp(const DeepseekConfig& config, int layer, Loader& loader,
                            std::vector<Buffer>* buffers) {
  MtpWeights weights;
  ASSIGN_OR_RETURN(weights.embed_norm, loader.upload(TensorKind::kMtpEmbedNorm, layer, buffers));
  ASSIGN_OR_RETURN(weights.state_norm, loader.upload(TensorKind::kMtpHiddenNorm, layer, buffers));
  ASSIGN_OR_RETURN(weights.projection, loader.linear({TensorKind::kMtpProjection}, layer));
  ASSIGN_OR_RETURN(weights.layer, load_layer(config, layer, loader, buffers));
  ASSIGN_OR_RETURN(weights.final_norm, loader.upload(TensorKind::kMtpFinalNorm, layer, buffers));
  return weights;
}

RopeTable make_rope_table(const DeepseekConfig& config, int64_t max_positions, Loader& loader,
                          std::vector<Buffer>* buffers) {
  const std::vector<float> frequencies = config.rope_inverse_frequencies();
  const auto half = static_cast<int64_t>(frequencies.size());
  const double factor = config.rope_attention_factor();
  std::vector<float> table(max_positions * 2 * half);
  for (int64_t position = 0; position < max_positions; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to float32 first, as the reference implementations do.
      const float angle = static_cast<float>(position) * frequencies[i];
      table[position * 2 * half + i] = static_cast<float>(std::cos(double{angle}) * factor);
      table[position * 2 * half + half + i] = static_cast<float>(std::sin(double{angle}) * factor);
    }
  }
  const TensorView shape(table.data(), DType::kF32, {max_positions, 2 * half});
  return {loader.upload_f32(table, shape, buffers), config.rope_interleaved};
}

}  // namespace

Result<ModelWeights> load_model_weights(const DeepseekConfig& config, const Checkpoint& checkpoint,
                                        int64_t max_positions, Backend& backend,
                                        const std::function<void(int64_t)>& on_progress,
                                        int num_mtp_modules) {
  CHECK(num_mtp_modules <= config.num_nextn_predict_layers, num_mtp_modules);
  Loader loader(config, checkpoint, backend, on_progress);
  ModelWeights weights;
  auto* buffers = &weights.buffers;
  ASSIGN_OR_RETURN(weights.embedding, loader.table(TensorKind::kEmbedding, buffers));
  for (int layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights layer_weights, load_layer(config, layer, loader, buffers));
    weights.layers.push_back(std::move(layer_weights));
  }
  ASSIGN_OR_RETURN(weights.final_norm, loader.upload(TensorKind::kFinalNorm, -1, buffers));
  const auto head = config.tie_word_embeddings ? TensorKind::kEmbedding : TensorKind::kLmHead;
  ASSIGN_OR_RETURN(weights.lm_head, loader.linear({head}, -1));
  for (int module = 0; module < num_mtp_modules; ++module) {
    const int layer = static_cast<int>(config.num_layers) + module;
    ASSIGN_OR_RETURN(MtpWeights mtp, load_mtp(config, layer, loader, buffers));
    weights.mtp.push_back(std::move(mtp));
  }
  weights.rope = make_rope_table(config, max_positions, loader, buffers);
  backend.synchronize();
  return weights;
}

}  // namespace deepflight
