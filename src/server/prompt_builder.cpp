// Rendering, tokenizing and measuring prompts.
#include "server/prompt_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <variant>

#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kThinkBegin = "<think>";
constexpr std::string_view kThinkEnd = "</think>";
constexpr std::string_view kWhiteSpace = " \t\r\n";
constexpr int kDefaultCompletionTokens = 16;  // OpenAI's

std::string_view trimmed_end(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

// Whether text that goes on from here is reasoning: a <think> stands open.
bool ends_in_thinking(const ApiRequest& request, std::string_view rendered) {
  if (!request.continue_final_message) return trimmed_end(rendered).ends_with(kThinkBegin);
  const std::string_view last = request.messages.back().content;
  const size_t begin = last.rfind(kThinkBegin);
  return begin != std::string_view::npos && last.find(kThinkEnd, begin) == std::string_view::npos;
}

// Whether the template shows the model its tools by itself: reads the variable `tools`.
bool reads_tools(const ChatTemplate& chat_template) {
  for (const char* use : {" tools ", " tools|", " tools)", " tools:", "(tools", " tools%"}) {
    if (chat_template.mentions(use)) return true;
  }
  return false;
}

// For templates that do not: each tool, and how to call one.
std::string describe_tools(const ordered_json& definitions, bool fenced) {
  std::string text = "## Tools\nYou can call these functions.\n";
  for (const ordered_json& tool : definitions) {
    const ordered_json& function = tool.at("function");
    text += fmt::format("\n### {}\n", function.at("name").get<std::string>());
    if (function.contains("description") && function["description"].is_string()) {
      text += fmt::format("Description: {}\n", function["description"].get<std::string>());
    }
    text += fmt::format("Parameters (JSON schema): {}\n",
                        function.value("parameters", ordered_json::object()).dump());
  }
  const std::string example =
      fenced ? fmt::format("{}{}NAME\n{}{{\"argument\": \"value\"}}{}", kToolTypeFunction,
                           kToolSeparator, kToolFenceBegin, kToolFenceEnd)
             : fmt::format("NAME{}{{\"argument\": \"value\"}}", kToolSeparator);
  text += fmt::format(
      "\nTo call functions, end your answer with exactly this form, one call after the other:\n"
      "{}{}{}{}{}\nThe arguments are one JSON object that follows the schema.",
      kToolCallsBegin, kToolCallBegin, example, kToolCallEnd, kToolCallsEnd);
  return text;
}

// The variables that templates of this family read.
ordered_json template_context(const ApiRequest& request, const TextModel& model) {
  auto messages = ordered_json::array();
  const bool use_tools = request.tools.choice != ToolChoice::kNone;
  const bool describe = use_tools && !reads_tools(*model.chat_template);
  if (describe && request.messages.front().role != "system") {
    messages.push_back({{"role", "system"}, {"content", ""}});
  }
  for (const ApiMessage& message : request.messages) {
    ordered_json item = {{"role", message.role}, {"content", message.content}};
    if (!message.tool_calls.is_null()) {
      item["tool_calls"] = message.tool_calls;
      if (message.content.empty()) item["content"] = nullptr;
    }
    if (!message.tool_call_id.empty()) item["tool_call_id"] = message.tool_call_id;
    messages.push_back(std::move(item));
  }
  if (describe) {
    std::string& system = messages.front()["content"].get_ref<std::string&>();
    if (!system.empty()) system += "\n\n";
    system += describe_tools(request.tools.definitions, writes_fences(*model.chat_template));
  }
  ordered_json context = {{"messages", std::move(messages)},
                          {"add_generation_prompt", request.add_generation_prompt},
                          {"bos_token", model.config.bos_token.value_or("")},
                          {"eos_token", model.config.eos_token.value_or("")}};
  if (use_tools) context["tools"] = request.tools.definitions;
  if (request.thinking) {
    // Two names of one switch: DeepSeek's templates and others'.
    context["thinking"] = *request.thinking;
    context["enable_thinking"] = *request.thinking;
  }
  return context;
}

ApiResult<std::string> render_chat(const ApiRequest& request, const TextModel& model) {
  if (model.chat_template == nullptr) {
    return bad_field("messages", "this model has no chat template; use /v1/completions");
  }
  const auto rendered = model.chat_template->render(template_context(request, model));
  if (!rendered.ok()) {
    ApiError error = api_error(rendered.error());
    error.param = "messages";
    return error;
  }
  std::string text = *rendered;
  if (request.continue_final_message) {
    // What the template puts behind the last message must not be there.
    const std::string_view last = trimmed_end(request.messages.back().content);
    const size_t at = last.empty() ? std::string::npos : text.rfind(last);
    if (at == std::string::npos) {
      return bad_field("continue_final_message",
                       "the chat template does not render the last message as it is");
    }
    text.resize(at + last.size());
  }
  return text;
}

ApiError too_long(std::string_view param, std::string message) {
  ApiError error = bad_field(param, std::move(message));
  error.code = "context_length_exceeded";
  return error;
}

// Prompt and output together must fit; without max_tokens the output gets what is left.
std::optional<ApiError> fit_context(ApiRequest& request, const std::vector<PreparedPrompt>& prompts,
                                    int32_t max_model_len) {
  const bool is_chat = request.endpoint == Endpoint::kChat;
  size_t longest = 0;
  for (const PreparedPrompt& prompt : prompts) {
    longest = std::max(longest, prompt.token_ids.size());
  }
  const char* prompt_param = is_chat ? "messages" : "prompt";
  if (longest == 0)
    return bad_field(prompt_param, fmt::format("{} must not be empty", prompt_param));
  if (longest >= static_cast<size_t>(max_model_len)) {
    return too_long(prompt_param, fmt::format("{}: {} tokens, the model's context has {}",
                                              prompt_param, longest, max_model_len));
  }
  const int left = max_model_len - static_cast<int>(longest);
  if (!request.max_tokens) {
    request.sampling.max_tokens = is_chat ? left : std::min(left, kDefaultCompletionTokens);
  } else if (*request.max_tokens > left) {
    return too_long(
        request.max_tokens_param,
        fmt::format("{} is {} and the prompt has {} tokens, the model's context has {}",
                    request.max_tokens_param, *request.max_tokens, longest, max_model_len));
  } else {
    request.sampling.max_tokens = *request.max_tokens;
  }
  if (request.sampling.min_tokens > request.sampling.max_tokens) {
    return bad_field("min_tokens",
                     fmt::format("min_tokens is {}, at most {} tokens can follow",
                                 request.sampling.min_tokens, request.sampling.max_tokens));
  }
  return std::nullopt;
}

// The beginning of the call that the client insists on; empty if it leaves the choice to the model.
std::string begun_call(const ToolOptions& tools, bool fenced) {
  if (tools.choice != ToolChoice::kRequired && tools.choice != ToolChoice::kNamed) return {};
  std::string text = fmt::format("{}{}", kToolCallsBegin, kToolCallBegin);
  if (fenced) text += fmt::format("{}{}", kToolTypeFunction, kToolSeparator);
  if (tools.choice == ToolChoice::kNamed) {
    text += tools.name;
    text += fenced ? fmt::format("\n{}", kToolFenceBegin) : std::string(kToolSeparator);
  }
  return text;
}

std::optional<ApiError> check_tool_marks(const ApiRequest& request, const TextModel& model) {
  if (request.tools.choice == ToolChoice::kNone) return std::nullopt;
  const int32_t mark = model.tokenizer.token_to_id(kToolCallsBegin);
  if (mark < 0)
    return unsupported_field("tools",
                             "by this model's tokenizer, which has no marks for calls, is");
  if (request.continue_final_message) {
    return unsupported_field("continue_final_message", "together with tools is");
  }
  // Such marks are no part of the text in which the engine looks for stop strings.
  if (model.tokenizer.is_special(mark) && !request.sampling.stop.empty()) {
    return unsupported_field("stop", "together with tools is");
  }
  return std::nullopt;
}

ApiResult<PreparedPrompt> prepare_completion(ApiPrompt& prompt, bool echo, const TextModel& model) {
  PreparedPrompt prepared;
  if (auto* token_ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    prepared.token_ids = std::move(*token_ids);
    if (echo) prepared.text = model.tokenizer.decode(prepared.token_ids, true);
    return prepared;
  }
  auto& text = std::get<std::string>(prompt);
  auto token_ids = encode_prompt(model.tokenizer, model.config, text, true);
  if (!token_ids.ok()) return api_error(token_ids.error());
  prepared.token_ids = std::move(token_ids).value();
  if (echo) prepared.text = std::move(text);
  return prepared;
}

}  // namespace

bool writes_fences(const ChatTemplate& chat_template) { return chat_template.mentions("```json"); }

ApiResult<PreparedPrompt> prepare_chat(const ApiRequest& request, const TextModel& model) {
  if (auto error = check_tool_marks(request, model)) return std::move(*error);
  auto rendered = render_chat(request, model);
  if (auto* error = std::get_if<ApiError>(&rendered)) return std::move(*error);
  auto& text = std::get<std::string>(rendered);
  bool in_thinking = ends_in_thinking(request, text);
  const std::string begun = begun_call(request.tools, writes_fences(*model.chat_template));
  if (!begun.empty()) {
    if (std::exchange(in_thinking, false)) text += fmt::format("\n{}\n\n", kThinkEnd);
    text += begun;
  }
  // The template writes the special tokens itself.
  auto token_ids =
      model.tokenizer.encode(text, {.add_special_tokens = false, .parse_special = true});
  if (!token_ids.ok()) return api_error(token_ids.error());
  return PreparedPrompt{{}, std::move(token_ids).value(), in_thinking, begun, {}};
}

ApiResult<std::vector<PreparedPrompt>> prepare_prompts(ApiRequest& request, const TextModel& model,
                                                       int32_t max_model_len) {
  std::vector<PreparedPrompt> prompts;
  const bool is_chat = request.endpoint == Endpoint::kChat;
  const size_t num_prompts = is_chat ? 1 : request.prompts.size();
  for (size_t i = 0; i < num_prompts; ++i) {
    auto prepared = is_chat ? prepare_chat(request, model)
                            : prepare_completion(request.prompts[i], request.output.echo, model);
    if (auto* error = std::get_if<ApiError>(&prepared)) return std::move(*error);
    prompts.push_back(std::get<PreparedPrompt>(std::move(prepared)));
  }
  if (auto error = fit_context(request, prompts, max_model_len)) return std::move(*error);
  return prompts;
}

}  // namespace deepflight
