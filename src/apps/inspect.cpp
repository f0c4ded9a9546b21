// Gathers a report from config, tensor table and (unless dummy) the checkpoint's headers; prints it
// as text or JSON.
#include "apps/inspect.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <vector>

#include "model/deepseek/config.h"
#include "model/deepseek/memory_plan.h"
#include "model/deepseek/tensor_table.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

// One tensor, or the same tensor of several experts.
struct TensorLine {
  TensorRow row;
  std::string name;
  std::string dtype;
  int64_t count = 1;
  int64_t bytes = 0;  // of all, scales included
};

struct FormatSum {
  int64_t num_tensors = 0;
  int64_t bytes = 0;
};

struct Report {
  DeepseekConfig config;
  std::vector<TensorLine> tensors;
  std::map<std::string, FormatSum> formats;
  MemoryPlan plan;
  int num_mtp_modules = 0;  // with all their tensors there
  int64_t mtp_parameters = 0;
  int64_t kv_pages = 0;
  std::vector<std::string> warnings;
};

int64_t view_bytes(const TensorView& view) {
  return view ? view.num_elements() * dtype_bytes(view.dtype()) : 0;
}

// A line's dtype and bytes: from the checkpoint's header, or as the config implies.
Result<TensorLine> describe(const TensorRow& row, const DeepseekConfig& config,
                            const std::optional<Checkpoint>& checkpoint) {
  TensorLine line{.row = row, .name = row.name};
  if (checkpoint) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, load_tensor(*checkpoint, row));
    line.dtype = dtype_name(tensor.values.dtype());
    line.bytes = view_bytes(tensor.values) + view_bytes(tensor.scale_inv);
    return line;
  }
  const bool is_fp8 =
      row.format == StorageFormat::kFp8 && config.quantization == WeightQuantization::kFp8Block128;
  const DType float_dtype = row.kind == TensorKind::kRouterBias ? DType::kF32 : config.dtype;
  line.dtype = dtype_name(is_fp8 ? DType::kF8E4M3 : float_dtype);
  line.bytes = stored_bytes(config, row);
  return line;
}

// Adds the line, or makes an equal line of another expert stand for both.
void add_line(TensorLine line, bool all,
              std::map<std::tuple<int, TensorKind, std::string>, size_t>& expert_lines,
              std::vector<TensorLine>& lines) {
  if (all || line.row.expert < 0) {
    lines.push_back(std::move(line));
    return;
  }
  const auto key = std::make_tuple(line.row.layer, line.row.kind, line.dtype);
  const auto [found, is_new] = expert_lines.emplace(key, lines.size());
  if (is_new) {
    const std::string number = fmt::format(".{}.", line.row.expert);
    const size_t at = line.name.find(number, line.name.find(".experts."));
    line.name.replace(at, number.size(), ".*.");
    line.row.expert = -1;
    lines.push_back(std::move(line));
  } else {
    ++lines[found->second].count;
    lines[found->second].bytes += line.bytes;
  }
}

Result<Report> make_report(const InspectOptions& options) {
  Report report;
  ASSIGN_OR_RETURN(report.config, DeepseekConfig::load(options.model_dir));
  RETURN_IF_ERROR(report.config.truncate_layers(options.num_layers));
  const DeepseekConfig& config = report.config;
  const auto rows = tensor_table(config);
  std::optional<Checkpoint> checkpoint;
  report.num_mtp_modules = static_cast<int>(config.num_nextn_predict_layers);
  if (options.load_format == "auto") {
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::open(options.model_dir));
    ASSIGN_OR_RETURN(const TableMatch match, match_table(*checkpoint, config, rows));
    report.num_mtp_modules = match.num_mtp_modules;
    if (match.num_unexpected > 0) {
      report.warnings.push_back(fmt::format("{} tensors are of no use here, the first is {}",
                                            match.num_unexpected, match.first_unexpected));
    }
    if (match.num_mtp_modules < config.num_nextn_predict_layers) {
      report.warnings.push_back(
          fmt::format("config.json names {} MTP modules, the checkpoint has "
                      "{}",
                      config.num_nextn_predict_layers, match.num_mtp_modules));
    }
  }
  if (!config.unread_fields.empty()) {
    report.warnings.push_back(
        fmt::format("fields of config.json that are not read: {}",
                    nlohmann::json(config.unread_fields).dump(-1, ' ', true)));
  }
  std::map<std::tuple<int, TensorKind, std::string>, size_t> expert_lines;
  std::vector<TensorRow> present;
  std::vector<int64_t> present_bytes;
  for (const auto& row : rows) {
    if (checkpoint && row.optional && !checkpoint->contains(row.name)) continue;
    ASSIGN_OR_RETURN(TensorLine line, describe(row, config, checkpoint));
    FormatSum& sum = report.formats[line.dtype];
    ++sum.num_tensors;
    sum.bytes += line.bytes;
    present_bytes.push_back(line.bytes);
    if (row.optional) report.mtp_parameters += row.num_elements();
    add_line(std::move(line), options.all, expert_lines, report.tensors);
    present.push_back(row);
  }
  report.plan = make_memory_plan(config, present, present_bytes);
  report.kv_pages = options.kv_pages > 0
                        ? options.kv_pages
                        : (config.max_position_embeddings + kKvPageTokens - 1) / kKvPageTokens;
  return report;
}

std::string_view rope_name(RopeScalingType type) {
  switch (type) {
    case RopeScalingType::kNone:
      return "default";
    case RopeScalingType::kLinear:
      return "linear";
    case RopeScalingType::kYarn:
      return "yarn";
  }
  return "?";
}

std::string_view method_name(TopkMethod method) {
  switch (method) {
    case TopkMethod::kGreedy:
      return "greedy";
    case TopkMethod::kGroupLimitedGreedy:
      return "group_limited_greedy";
    case TopkMethod::kNoauxTc:
      return "noaux_tc";
  }
  return "?";
}

int64_t num_moe_layers(const DeepseekConfig& config) {
  int64_t count = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) count += config.is_moe_layer(layer);
  return count;
}

nlohmann::ordered_json model_json(const DeepseekConfig& c) {
  nlohmann::ordered_json json = {{"vocab_size", c.vocab_size},
                                 {"hidden_size", c.hidden_size},
                                 {"num_layers", c.num_layers},
                                 {"num_moe_layers", num_moe_layers(c)},
                                 {"max_position_embeddings", c.max_position_embeddings},
                                 {"num_heads", c.num_heads},
                                 {"q_lora_rank", c.q_lora_rank},
                                 {"kv_lora_rank", c.kv_lora_rank},
                                 {"qk_nope_head_dim", c.qk_nope_head_dim},
                                 {"qk_rope_head_dim", c.qk_rope_head_dim},
                                 {"v_head_dim", c.v_head_dim},
                                 {"rope_type", rope_name(c.rope.type)},
                                 {"rope_theta", c.rope_theta},
                                 {"tie_word_embeddings", c.tie_word_embeddings},
                                 {"intermediate_size", c.intermediate_size},
                                 {"eos_token_ids", c.eos_token_ids}};
  if (c.num_routed_experts > 0) {
    json["num_routed_experts"] = c.num_routed_experts;
    json["num_shared_experts"] = c.num_shared_experts;
    json["num_experts_per_token"] = c.num_experts_per_token;
    json["moe_intermediate_size"] = c.moe_intermediate_size;
    json["num_expert_groups"] = c.num_expert_groups;
    json["topk_groups"] = c.topk_groups;
    json["scoring"] = c.scoring == ScoringFunc::kSigmoid ? "sigmoid" : "softmax";
    json["topk_method"] = method_name(c.topk_method);
  }
  return json;
}

nlohmann::ordered_json weights_json(const WeightBytes& bytes) {
  return {{"group", bytes.group},
          {"parameters", bytes.num_parameters},
          {"stored_bytes", bytes.stored_bytes},
          {"f32_bytes", bytes.f32_bytes}};
}

nlohmann::ordered_json to_json(const Report& report) {
  const DeepseekConfig& config = report.config;
  const MemoryPlan& plan = report.plan;
  nlohmann::ordered_json json;
  json["architecture"] = architecture_name(config.architecture);
  json["model"] = model_json(config);
  json["parameters"] = {{"total", config.num_total_parameters()},
                        {"active", config.num_active_parameters()},
                        {"mtp", report.mtp_parameters}};
  json["mtp_modules"] = report.num_mtp_modules;
  for (const auto& [dtype, sum] : report.formats) {
    json["formats"][dtype] = {{"tensors", sum.num_tensors}, {"bytes", sum.bytes}};
  }
  for (const auto& line : report.tensors) {
    json["tensors"].push_back({{"name", line.name},
                               {"kind", tensor_kind_name(line.row.kind)},
                               {"count", line.count},
                               {"dtype", line.dtype},
                               {"shape", line.row.shape},
                               {"sharding", sharding_name(line.row.sharding)},
                               {"bytes", line.bytes}});
  }
  for (const auto& group : plan.weights) json["memory"]["weights"].push_back(weights_json(group));
  json["memory"]["total"] = weights_json(plan.total);
  const auto kv = [&](int64_t token_bytes, int64_t page_bytes) {
    return nlohmann::ordered_json{{"token_bytes", token_bytes},
                                  {"page_bytes", page_bytes},
                                  {"pool_bytes", page_bytes * report.kv_pages}};
  };
  json["memory"]["kv"] = {{"page_tokens", kKvPageTokens},
                          {"pages", report.kv_pages},
                          {"bf16", kv(plan.kv_token_bytes_bf16, plan.kv_page_bytes_bf16())},
                          {"f32", kv(plan.kv_token_bytes_f32, plan.kv_page_bytes_f32())}};
  json["warnings"] = report.warnings;
  return json;
}

std::string bytes_text(int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(units)) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, units[unit]);
}

std::string count_text(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} billion", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.2f} million", value / 1e6);
  return fmt::format("{}", count);
}

void print_model(const Report& report, std::ostream& out) {
  const DeepseekConfig& c = report.config;
  const int64_t num_moe = num_moe_layers(c);
  const auto line = [&out](std::string_view label, const std::string& text) {
    out << fmt::format("{:<13}{}\n", label, text);
  };
  line("architecture", std::string(architecture_name(c.architecture)));
  line("parameters",
       fmt::format("{} total, {} active per token", count_text(c.num_total_parameters()),
                   count_text(c.num_active_parameters())) +
           (report.mtp_parameters > 0
                ? fmt::format("; MTP {} more", count_text(report.mtp_parameters))
                : ""));
  line("layers", fmt::format("{}: {} dense, {} mixture of experts; {} MTP modules", c.num_layers,
                             c.num_layers - num_moe, num_moe, report.num_mtp_modules));
  line("width",
       fmt::format("hidden {}, intermediate {}, vocabulary {}{}", c.hidden_size,
                   c.intermediate_size, c.vocab_size, c.tie_word_embeddings ? " (tied)" : ""));
  line("attention",
       fmt::format("{} heads, q_lora {}, kv_lora {}, nope {}, rope {}, v {}", c.num_heads,
                   c.q_lora_rank > 0 ? std::to_string(c.q_lora_rank) : "none", c.kv_lora_rank,
                   c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim));
  line("rope",
       fmt::format("theta {}, {}{}, up to {} positions", c.rope_theta, rope_name(c.rope.type),
                   c.rope.type == RopeScalingType::kNone ? "" : fmt::format(" x{}", c.rope.factor),
                   c.max_position_embeddings));
  if (num_moe > 0) {
    line("experts",
         fmt::format("{} routed of {}, {} shared, {} per token", c.num_routed_experts,
                     c.moe_intermediate_size, c.num_shared_experts, c.num_experts_per_token));
    line("routing", fmt::format("{} {}, {} of {} groups, {}x{:.4g}",
                                c.scoring == ScoringFunc::kSigmoid ? "sigmoid" : "softmax",
                                method_name(c.topk_method), c.topk_groups, c.num_expert_groups,
                                c.norm_topk_prob ? "normalised, " : "", c.routed_scaling_factor));
  }
  for (const auto& [dtype, sum] : report.formats) {
    line(dtype == report.formats.begin()->first ? "formats" : "",
         fmt::format("{}: {} tensors, {}", dtype, sum.num_tensors, bytes_text(sum.bytes)));
  }
  for (const auto& warning : report.warnings) line("warning", warning);
}

void print_tensors(const Report& report, std::ostream& out) {
  size_t width = 6;
  for (const auto& line : report.tensors) width = std::max(width, line.name.size());
  out << fmt::format("\n{:<{}}  {:<8} {:>6} {:<16} {:<10} {:>11}\n", "tensor", width, "type",
                     "count", "shape", "sharding", "bytes");
  for (const auto& line : report.tensors) {
    out << fmt::format("{:<{}}  {:<8} {:>6} {:<16} {:<10} {:>11}\n", line.name, width, line.dtype,
                       line.count, fmt::format("[{}]", fmt::join(line.row.shape, ", ")),
                       sharding_name(line.row.sharding), bytes_text(line.bytes));
  }
}

void print_memory(const Report& report, std::ostream& out) {
  const MemoryPlan& plan = report.plan;
  out << fmt::format("\n{:<20} {:>18} {:>12} {:>12}\n", "memory: weights", "parameters",
                     "as stored", "float32");
  const auto row = [&out](const WeightBytes& bytes) {
    out << fmt::format("{:<20} {:>18} {:>12} {:>12}\n", bytes.group, bytes.num_parameters,
                       bytes_text(bytes.stored_bytes), bytes_text(bytes.f32_bytes));
  };
  for (const auto& group : plan.weights) row(group);
  row(plan.total);
  out << fmt::format("\n{:<39} {:>12} {:>12}\n", "memory: KV cache", "bfloat16", "float32");
  const auto kv_row = [&out](const std::string& label, int64_t bf16, int64_t f32) {
    out << fmt::format("{:<39} {:>12} {:>12}\n", label, bytes_text(bf16), bytes_text(f32));
  };
  kv_row("a token, all layers", plan.kv_token_bytes_bf16, plan.kv_token_bytes_f32);
  kv_row(fmt::format("a page of {} tokens", kKvPageTokens), plan.kv_page_bytes_bf16(),
         plan.kv_page_bytes_f32());
  kv_row(fmt::format("{} pages ({} tokens)", report.kv_pages, report.kv_pages * kKvPageTokens),
         plan.kv_page_bytes_bf16() * report.kv_pages, plan.kv_page_bytes_f32() * report.kv_pages);
}

}  // namespace

void add_inspect_options(CLI::App* app, InspectOptions* options) {
  app->add_option("--model", options->model_dir, "model directory (Hugging Face layout)")
      ->required();
  app->add_option("--load-format", options->load_format,
                  "auto: check the directory's safetensors; dummy: config.json alone")
      ->check(CLI::IsMember({"auto", "dummy"}));
  app->add_option("--num-layers", options->num_layers, "only the first layers; 0: all")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--kv-pages", options->kv_pages,
                  "KV pages to plan for; 0: one sequence of full length")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 32));
  app->add_flag("--all", options->all, "list every expert's tensors");
  app->add_flag("--json", options->json, "print one JSON object");
}

Status run_inspect(const InspectOptions& options, std::ostream& out) {
  ASSIGN_OR_RETURN(const Report report, make_report(options));
  if (options.json) {
    out << to_json(report).dump(2) << '\n';
    return ok_status();
  }
  print_model(report, out);
  print_tensors(report, out);
  print_memory(report, out);
  return ok_status();
}

}  // namespace deepflight
