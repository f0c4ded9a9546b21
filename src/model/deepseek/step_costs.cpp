// The sums.
#include "model/deepseek/step_costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace deepflight {
namespace {

constexpr double kActivationBytes = 2;  // BF16

class Costs {
 public:
  Costs(const DeepseekConfig& config, const StepShape& shape, int64_t kv_token_bytes)
      : config_(config),
        shape_(shape),
        tokens_(static_cast<double>(shape.num_tokens())),
        kv_token_bytes_(static_cast<double>(kv_token_bytes)) {}

  std::vector<OpCost> run() {
    elementwise("embed/embed", 2 * config_.hidden_size);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      attention(layer == 0);
      config_.is_moe_layer(layer) ? moe() : dense();
    }
    head();
    if (shape_.draft_len > 0) drafts();
    return std::move(costs_);
  }

 private:
  bool fp8() const { return config_.quantization == WeightQuantization::kFp8Block128; }

  void add(OpCost cost) {
    const auto known = std::ranges::find(costs_, cost.label, &OpCost::label);
    if (known == costs_.end()) {
      costs_.push_back(std::move(cost));
      return;
    }
    known->calls += cost.calls;
    known->flops += cost.flops;
    known->bytes += cost.bytes;
  }

  // Reads and writes `values_per_token` BF16 values for each token.
  void elementwise(std::string label, double values_per_token) {
    add({std::move(label), 1, 0, tokens_ * values_per_token * kActivationBytes, CostUnit::kMemory});
  }

  // rows x k times [n, k]; num_matrices of them are read.
  void product(std::string label, double rows, int64_t n, int64_t k, double num_matrices,
               bool in_fp8, double out_bytes = kActivationBytes) {
    const auto size = static_cast<double>(n) * static_cast<double>(k);
    const double weight_bytes = in_fp8 ? 1.0 + 4.0 / (128 * 128) : 2.0;
    const double row_bytes = static_cast<double>(k) * (in_fp8 ? 1.0 + 4.0 / 128 : 2.0) +
                             static_cast<double>(n) * out_bytes;
    add({std::move(label), 1, 2.0 * rows * size,
         num_matrices * size * weight_bytes + rows * row_bytes,
         in_fp8 ? CostUnit::kFp8 : CostUnit::kBf16});
  }

  void linear(const char* section, int64_t n, int64_t k, bool in_fp8) {
    product(fmt::format("{}/linear {}x{}", section, n, k), tokens_, n, k, 1, in_fp8);
  }

  void norm(const char* label, double num_tensors) {
    // Inputs and outputs in BF16, and the quantised row.
    elementwise(label,
                (num_tensors + (fp8() ? 0.5 : 0)) * static_cast<double>(config_.hidden_size));
  }

  void attention(bool first_layer) {
    const int64_t hidden = config_.hidden_size;
    const int64_t q_dim = config_.num_heads * config_.qk_head_dim();
    const bool has_q_lora = config_.q_lora_rank > 0;
    const int64_t q_a_dim = has_q_lora ? config_.q_lora_rank : q_dim;
    if (first_layer) {
      norm("attention/rms_norm", 2);
    } else {
      norm("attention/add_rms_norm", 4);
    }
    linear("attention", q_a_dim + config_.kv_token_dim(), hidden, fp8());
    elementwise(has_q_lora ? "attention/rms_norm_pair" : "attention/rms_norm",
                2.0 * static_cast<double>((has_q_lora ? q_a_dim : 0) + config_.kv_lora_rank));
    if (has_q_lora) linear("attention", q_dim, config_.q_lora_rank, fp8());
    elementwise("attention/rope_write_kv",
                2.0 * static_cast<double>(config_.num_heads * config_.qk_rope_head_dim +
                                          config_.kv_token_dim()));
    if (shape_.decode_rows > 0) absorbed();
    if (shape_.prefill_tokens > 0) expanded();
    linear("attention", hidden, config_.num_heads * config_.v_head_dim, fp8());
  }

  void absorbed() {
    // Query tokens; those of one sequence share its KV.
    const double rows = tokens_ - static_cast<double>(shape_.prefill_tokens);
    const auto heads = static_cast<double>(config_.num_heads);
    const auto latent = static_cast<double>(config_.kv_lora_rank);
    const auto token_dim = static_cast<double>(config_.kv_token_dim());
    const auto nope = static_cast<double>(config_.qk_nope_head_dim);
    const auto v = static_cast<double>(config_.v_head_dim);
    const double pairs = rows * static_cast<double>(shape_.decode_context);
    // An e4m3 cache takes e4m3 queries, and FP8 products.
    const bool e4m3 = kv_token_bytes_ == token_dim;
    const double query_bytes = e4m3 ? 1 : 2;
    add({"attention/absorb_q", 1, 2 * rows * heads * nope * latent,
         heads * (2 * nope * latent + rows * (2 * nope + query_bytes * latent)), CostUnit::kBf16});
    add({"attention/mla_decode", 1, 2 * pairs * heads * (token_dim + latent),
         static_cast<double>(shape_.decode_rows * shape_.decode_context) * kv_token_bytes_ +
             rows * heads * (query_bytes * token_dim + 2 * latent),
         e4m3 ? CostUnit::kFp8 : CostUnit::kBf16});
    add({"attention/absorb_v", 1, 2 * rows * heads * v * latent,
         2 * heads * (v * latent + rows * (v + latent)), CostUnit::kBf16});
  }

  void expanded() {
    const auto queries = static_cast<double>(shape_.prefill_tokens);
    const auto prefix = static_cast<double>(shape_.prefill_prefix);
    const auto heads = static_cast<double>(config_.num_heads);
    const auto qk = static_cast<double>(config_.qk_head_dim());
    const auto v = static_cast<double>(config_.v_head_dim);
    const double keys = prefix + queries;
    const double pairs = queries * prefix + queries * (queries + 1) / 2;
    const double kv_up = heads * static_cast<double>(config_.qk_nope_head_dim + config_.v_head_dim);
    add({"attention/mla_prefill", 1,
         2 * pairs * heads * (qk + v) +
             2 * keys * kv_up * static_cast<double>(config_.kv_lora_rank),
         keys * kv_token_bytes_ + 2 * queries * heads * (qk + v), CostUnit::kBf16});
  }

  void mlp(const char* section, const char* norm_label, int64_t intermediate) {
    norm(norm_label, 4);
    linear(section, 2 * intermediate, config_.hidden_size, fp8());
    elementwise(fmt::format("{}/swiglu", section), 2.5 * static_cast<double>(intermediate));
    linear(section, config_.hidden_size, intermediate, fp8());
  }

  void dense() { mlp("dense", "attention/add_rms_norm", config_.intermediate_size); }

  void moe() {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.moe_intermediate_size;
    const auto experts = static_cast<double>(config_.num_routed_experts);
    const auto topk = static_cast<double>(config_.num_experts_per_token);
    const double rows = tokens_ * topk;
    const double read = experts * (1 - std::pow(1 - topk / experts, tokens_));
    norm("attention/add_rms_norm", 4);
    product(fmt::format("moe/linear {}x{}", config_.num_routed_experts, hidden), tokens_,
            config_.num_routed_experts, hidden, 1, false, 4);
    add({"moe/route", 1, 0, tokens_ * (experts * 4 + topk * 8), CostUnit::kMemory});
    add({"moe/sort", 1, 0, rows * 12, CostUnit::kMemory});
    const double row_bytes = static_cast<double>(hidden) * (fp8() ? 1 + 4.0 / 128 : 2);
    add({"moe/expand", 1, 0, (tokens_ + rows) * row_bytes, CostUnit::kMemory});
    product(fmt::format("moe/experts {}x{}", 2 * width, hidden), rows, 2 * width, hidden, read,
            fp8());
    add({"moe/swiglu", 1, 0, rows * static_cast<double>(width) * 2 * 2.5, CostUnit::kMemory});
    product(fmt::format("moe/experts {}x{}", hidden, width), rows, hidden, width, read, fp8());
    add({"moe/combine", 1, 0, (rows + 2 * tokens_) * static_cast<double>(hidden) * 2,
         CostUnit::kMemory});
    if (config_.num_shared_experts > 0) {
      const int64_t shared = config_.shared_intermediate_size();
      const auto shared_linear = [&](int64_t n, int64_t k) {
        product(fmt::format("moe/shared_linear {}x{}", n, k), tokens_, n, k, 1, fp8());
      };
      shared_linear(2 * shared, hidden);
      elementwise("moe/shared_swiglu", 2.5 * static_cast<double>(shared));
      shared_linear(hidden, shared);
    }
  }

  void head() {
    const double rows =
        static_cast<double>(shape_.num_decode_tokens()) + (shape_.prefill_tokens > 0 ? 1 : 0);
    const auto vocab = static_cast<double>(config_.vocab_size);
    elementwise("head/add", 3.0 * static_cast<double>(config_.hidden_size));
    product(fmt::format("head/linear {}x{}", config_.vocab_size, config_.hidden_size), rows,
            config_.vocab_size, config_.hidden_size, 1, false, 4);
    add({"head/sample", 1, 0, rows * vocab * 4, CostUnit::kMemory});
  }

  // Token and state of an MTP module's input.
  void join() {
    const int64_t hidden = config_.hidden_size;
    elementwise("mtp/embed", 2.0 * static_cast<double>(hidden));
    elementwise("mtp/rms_norm", 4.0 * static_cast<double>(hidden));
    linear("mtp", hidden, 2 * hidden, false);
  }

  // The module's KV of all verified rows, then a layer and the head for each draft.
  void drafts() {
    const int64_t hidden = config_.hidden_size;
    const int64_t q_dim = config_.num_heads * config_.qk_head_dim();
    const int64_t q_a_dim = config_.q_lora_rank > 0 ? config_.q_lora_rank : q_dim;
    tokens_ = static_cast<double>(shape_.num_decode_tokens());
    join();
    norm("attention/rms_norm", 2);
    linear("attention", q_a_dim + config_.kv_token_dim(), hidden, fp8());
    tokens_ = static_cast<double>(shape_.decode_rows);
    for (int64_t i = 0; i < shape_.draft_len; ++i) {
      join();
      attention(/*first_layer=*/true);
      config_.is_moe_layer(config_.num_layers) ? moe() : dense();
      elementwise("mtp/add_rms_norm", 4.0 * static_cast<double>(hidden));
      product(fmt::format("mtp/linear {}x{}", config_.vocab_size, hidden), tokens_,
              config_.vocab_size, hidden, 1, false, 4);
      add({"mtp/take_drafts", 1, 0, tokens_ * static_cast<double>(config_.vocab_size) * 4,
           CostUnit::kMemory});
    }
  }

  const DeepseekConfig& config_;
  const StepShape& shape_;
  double tokens_;  // of what is being added
  const double kv_token_bytes_;
  std::vector<OpCost> costs_;
};

}  // namespace

std::vector<OpCost> step_costs(const DeepseekConfig& config, const StepShape& shape,
                               int64_t kv_token_bytes) {
  return Costs(config, shape, kv_token_bytes).run();
}

double floor_us(const OpCost& cost, const MachineRates& rates) {
  const double flops_per_second =
      cost.unit == CostUnit::kFp8 ? rates.fp8_flops_per_second : rates.bf16_flops_per_second;
  return 1e6 * std::max(cost.bytes / rates.bytes_per_second, cost.flops / flops_per_second);
}

}  // namespace deepflight
