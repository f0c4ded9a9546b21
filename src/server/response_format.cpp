// From fields to forms.
#include "server/response_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "grammar/json_schema.h"
#include "text/chat_template.h"
#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxDescriptionBytes = size_t{64} << 10;
constexpr std::string_view kThinkEnd = "</think>";
constexpr std::array<std::string_view, 5> kMarks = {kToolCallsBegin, kToolCallsEnd, kToolCallBegin,
                                                    kToolCallEnd, kToolSeparator};

ordered_json any_object() { return {{"type", "object"}}; }

bool is_strict(const ordered_json& tool) {
  const ordered_json& function = tool.at("function");
  return function.contains("strict") && function["strict"] == true;
}

// What the arguments of a tool must be. Without parameters there are none.
ordered_json parameters_of(const ordered_json& tool) {
  const ordered_json& function = tool.at("function");
  if (function.contains("parameters") && !function["parameters"].is_null()) {
    return function["parameters"];
  }
  return {{"type", "object"}, {"properties", ordered_json::object()}};
}

// A schema that cannot be enforced counts for a strict tool only; another's calls are then held to
// being JSON objects.
ordered_json enforced_parameters(const ordered_json& tool) {
  ordered_json parameters = parameters_of(tool);
  if (is_strict(tool)) return parameters;
  GrammarBuilder builder;
  SchemaCompiler compiler(builder);
  const auto root = compiler.compile(parameters);
  if (root.ok() && std::move(builder).finish(*root).ok()) return parameters;
  return any_object();
}

OutputForm::Calls calls_of(const ToolOptions& options, bool is_fenced) {
  OutputForm::Calls calls{
      .is_fenced = is_fenced,
      .only_one = options.choice == ToolChoice::kNamed || !options.parallel_calls};
  for (const ordered_json& tool : options.definitions) {
    const auto name = tool.at("function").at("name").get<std::string>();
    if (options.choice == ToolChoice::kNamed && name != options.name) continue;
    calls.tools.push_back({name, enforced_parameters(tool)});
    if (options.choice == ToolChoice::kNamed) break;
  }
  return calls;
}

// The part of a compiler's error that a client can act on.
ApiError form_error(const OutputForm& form, const Error& error) {
  const bool is_of_tool =
      form.calls && std::ranges::any_of(form.calls->tools, [&](const auto& tool) {
        return error.message.starts_with(tool.name + ": ");
      });
  const char* param = form.schema && !is_of_tool ? "response_format" : "tools";
  return bad_field(param, fmt::format("{}: {}", param, error.message));
}

}  // namespace

std::optional<ordered_json> parse_response_format(JsonFields& fields, std::string_view body,
                                                  std::optional<ApiError>& error) {
  const json* format = fields.find("response_format");
  if (format == nullptr) return std::nullopt;
  const auto type = format->is_object() ? format->find("type") : format->end();
  if (!format->is_object() || type == format->end() || !type->is_string()) {
    fields.fail("response_format", "must be an object with a type");
    return std::nullopt;
  }
  if (*type == "text") return std::nullopt;
  if (*type == "json_object") return any_object();
  if (*type != "json_schema") {
    fields.fail("response_format", "must have the type text, json_object or json_schema");
    return std::nullopt;
  }
  JsonFields parts(*format, "response_format.", error);
  const json* named = parts.find("json_schema");
  if (named == nullptr || !named->is_object()) {
    if (!error) parts.fail("json_schema", "must be an object with a schema");
    return std::nullopt;
  }
  JsonFields schema_fields(*named, "response_format.json_schema.", error);
  std::string text;
  bool strict = true;  // it always is
  schema_fields.text("name", kMaxNameBytes, text);
  schema_fields.text("description", kMaxDescriptionBytes, text);
  schema_fields.boolean("strict", strict);
  const json* schema = schema_fields.find("schema");
  if (error) return std::nullopt;
  if (schema == nullptr) {
    schema_fields.fail("schema", "is required");
    return std::nullopt;
  }
  auto ordered = parse_ordered_json(body, "the body");
  if (!ordered.ok()) {
    error = bad_field("response_format", ordered.error().message);
    return std::nullopt;
  }
  return std::move(ordered.value()["response_format"]["json_schema"]["schema"]);
}

Result<std::unique_ptr<OutputFormCompiler>> make_form_compiler(const Tokenizer& tokenizer,
                                                               const ModelInfo& model) {
  ASSIGN_OR_RETURN(auto vocabulary, TokenVocabulary::create(tokenizer, model.vocab_size,
                                                            model.eos_token_ids, kMarks));
  return std::make_unique<OutputFormCompiler>(std::move(vocabulary));
}

ApiResult<OutputConstraint> constrain_output(const ApiRequest& request,
                                             const PreparedPrompt& prompt, const TextModel& model,
                                             OutputFormCompiler* compiler) {
  const ToolOptions& tools = request.tools;
  const bool must_call =
      tools.choice == ToolChoice::kRequired || tools.choice == ToolChoice::kNamed;
  const bool may_call = must_call || tools.choice == ToolChoice::kAuto;
  const bool has_strict = may_call && std::ranges::any_of(tools.definitions, is_strict);
  const bool has_format = request.response_format.has_value() && !must_call;
  if (!must_call && !has_strict && !has_format) return OutputConstraint{};
  const char* param = has_format ? "response_format" : "tools";
  // Calls that must come are begun all the same where they cannot be held to anything.
  if (compiler == nullptr && !has_format && !has_strict) return OutputConstraint{};
  if (compiler == nullptr) return unsupported_field(param, "with this model's tokenizer is");
  if (request.continue_final_message) {
    return unsupported_field("continue_final_message", fmt::format("together with {} is", param));
  }

  OutputForm form;
  OutputConstraint constraint;
  if (has_format) form.schema = request.response_format;
  if (may_call) {
    using Start = OutputForm::CallStart;
    form.calls = calls_of(tools, writes_fences(*model.chat_template));
    form.calls->start = tools.choice == ToolChoice::kNamed      ? Start::kName
                        : tools.choice == ToolChoice::kRequired ? Start::kCallMark
                        : has_format                            ? Start::kNothing
                                                                : Start::kCallsMark;
    if (!must_call && !has_format)
      constraint.after_token = model.tokenizer.token_to_id(kToolCallsBegin);
  }
  if (has_format && prompt.starts_in_thinking) {
    constraint.after_token = model.tokenizer.token_to_id(kThinkEnd);
    constraint.is_required = true;
    form.may_begin_with_line_breaks = true;
    if (constraint.after_token < 0) {
      return unsupported_field(param, "with this model's tokenizer, which has no </think>, is");
    }
  }
  auto grammar = compiler->compile(form);
  if (!grammar.ok()) return form_error(form, grammar.error());
  constraint.grammar = std::move(grammar).value();
  return constraint;
}

}  // namespace deepflight
