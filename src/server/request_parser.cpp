// From a JSON body to an ApiRequest. Fields that OpenAI or its well-known extensions define and
// this server does not honour are refused by name, and so are names that nobody defines: a
// misspelt `max_token` must not pass for one that was heard.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "server/api_request.h"
#include "server/json_fields.h"
#include "server/response_format.h"
#include "server/tool_fields.h"
#include "server/unsupported_fields.h"

namespace deepflight {
namespace {

using nlohmann::json;

constexpr size_t kMaxNameBytes = 1024;

bool is_empty(const json& value) { return value.is_structured() && value.empty(); }

class RequestParser {
 public:
  RequestParser(const json& body, std::string_view text, Endpoint endpoint,
                const RequestLimits& limits)
      : text_(text), limits_(limits), fields_(body, "", error_) {
    request_.endpoint = endpoint;
  }

  ApiResult<ApiRequest> parse() {
    refuse_unsupported_fields(fields_, error_);
    // What clients tell about themselves, and hints that change no answer.
    fields_.ignore({"metadata", "priority", "prompt_cache_key", "prompt_cache_retention",
                    "request_id", "rid", "safety_identifier", "service_tier"});
    fields_.text("model", kMaxNameBytes, request_.model);
    parse_sampling();
    parse_lengths();
    parse_logit_bias();
    parse_output_options();
    request_.response_format = parse_response_format(fields_, text_, error_);
    if (request_.endpoint == Endpoint::kChat) {
      parse_chat_logprobs();
      parse_messages();
      parse_tools(fields_, text_, request_.tools, error_);
      parse_template_options();
    } else {
      parse_completion_logprobs();
      parse_prompts();
    }
    check_combinations();
    if (!limits_.ignore_unknown_fields) fields_.refuse_others();
    if (error_) return std::move(*error_);
    return std::move(request_);
  }

 private:
  void parse_sampling();
  void parse_lengths();
  void parse_logit_bias();
  void parse_output_options();
  void parse_chat_logprobs();
  void parse_completion_logprobs();
  void parse_messages();
  void parse_message(const json& item, size_t index);
  bool parse_content(JsonFields& fields, const std::string& role, std::string& content);
  void parse_template_options();
  void parse_prompts();
  void parse_prompt(const json& value);
  void parse_prompt_tokens(const json& value);
  void check_combinations();
  bool count_prompt_bytes(size_t num_bytes, std::string_view param);

  const std::string_view text_;  // the body
  const RequestLimits& limits_;
  std::optional<ApiError> error_;
  JsonFields fields_;
  ApiRequest request_;
  size_t num_prompt_bytes_ = 0;
};

void RequestParser::parse_sampling() {
  SamplingParams& sampling = request_.sampling;
  fields_.number("temperature", 0, 2, sampling.temperature);
  fields_.number("top_p", 0, 1, sampling.top_p, true);
  fields_.integer("top_k", -1, 1 << 30, sampling.top_k);
  fields_.number("min_p", 0, 1, sampling.min_p);
  fields_.number("repetition_penalty", 0, 2, sampling.repetition_penalty, true);
  fields_.number("presence_penalty", -2, 2, sampling.presence_penalty);
  fields_.number("frequency_penalty", -2, 2, sampling.frequency_penalty);
  fields_.integer("n", 1, std::min(limits_.max_choices, kMaxChoices), sampling.num_choices);
  if (const json* seed = fields_.find("seed")) {
    // A negative seed is a seed too: clients draw them from signed integers.
    if (seed->is_number_unsigned()) {
      sampling.seed = seed->get<uint64_t>();
    } else if (const auto value = as_integer(*seed)) {
      sampling.seed = static_cast<uint64_t>(*value);
    } else {
      fields_.fail("seed", "must be a 64-bit integer");
    }
  }
  fields_.texts("stop", kMaxStopStrings, kMaxStopStringBytes, sampling.stop);
  fields_.integers("stop_token_ids", kMaxStopTokenIds, 0, limits_.vocab_size - 1,
                   sampling.stop_token_ids);
  fields_.boolean("ignore_eos", sampling.ignore_eos);
  fields_.boolean("mtp", sampling.use_drafts);
  int best_of = sampling.num_choices;
  if (fields_.integer("best_of", 1, kMaxChoices, best_of) && best_of != sampling.num_choices) {
    error_ = unsupported_field("best_of", "other than n is");
  }
}

void RequestParser::parse_lengths() {
  const int64_t max_len = std::max<int64_t>(limits_.max_model_len, 1);
  // The newer name wins where both are given.
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    int value = 0;
    if (fields_.integer(name, 1, 1 << 30, value)) {
      request_.max_tokens = value;
      request_.max_tokens_param = name;
    }
  }
  const int64_t most = request_.max_tokens ? *request_.max_tokens : max_len;
  fields_.integer("min_tokens", 0, most, request_.sampling.min_tokens);
}

void RequestParser::parse_logit_bias() {
  const json* biases = fields_.find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object()) {
    return fields_.fail("logit_bias", fmt::format("must be an object from token id to bias, not {}",
                                                  json_type_name(*biases)));
  }
  if (biases->size() > kMaxLogitBiases) {
    return fields_.fail("logit_bias", fmt::format("has {} entries, at most {} are allowed",
                                                  biases->size(), kMaxLogitBiases));
  }
  for (const auto& [key, value] : biases->items()) {
    int32_t token_id = -1;
    const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), token_id);
    if (problem != std::errc() || end != key.data() + key.size() || token_id < 0 ||
        token_id >= limits_.vocab_size) {
      return fields_.fail(
          "logit_bias", fmt::format("must have token ids in [0, {}) as keys", limits_.vocab_size));
    }
    const double bias = value.is_number() ? value.get<double>() : 1000.0;
    if (!(bias >= -100 && bias <= 100)) {
      return fields_.fail("logit_bias", "must have numbers in [-100, 100] as values");
    }
    request_.sampling.logit_bias.emplace_back(token_id, static_cast<float>(bias));
  }
}

void RequestParser::parse_output_options() {
  OutputOptions& output = request_.output;
  fields_.boolean("stream", output.stream);
  if (const json* options = fields_.find("stream_options")) {
    if (!options->is_object()) {
      fields_.fail("stream_options",
                   fmt::format("must be an object, not {}", json_type_name(*options)));
    } else if (!output.stream) {
      fields_.fail("stream_options", "needs stream to be true");
    } else {
      JsonFields stream_fields(*options, "stream_options.", error_);
      stream_fields.boolean("include_usage", output.include_usage);
      stream_fields.boolean("continuous_usage_stats", output.continuous_usage_stats);
      stream_fields.ignore({"include_obfuscation"});
      if (!limits_.ignore_unknown_fields) stream_fields.refuse_others();
    }
  }
  fields_.boolean("return_token_ids", output.return_token_ids);
  fields_.boolean("skip_special_tokens", output.skip_special_tokens);
  fields_.text("cache_salt", kMaxNameBytes, request_.cache_salt);
  std::string user;
  fields_.text("user", kMaxNameBytes, user);
}

void RequestParser::parse_chat_logprobs() {
  fields_.boolean("logprobs", request_.output.logprobs);
  int num_top = 0;
  if (fields_.integer("top_logprobs", 0, kMaxTopLogprobs, num_top) && num_top > 0 &&
      !request_.output.logprobs) {
    fields_.fail("top_logprobs", "needs logprobs to be true");
  }
  if (request_.output.logprobs) request_.sampling.num_logprobs = num_top;
}

void RequestParser::parse_completion_logprobs() {
  int num_top = 0;
  if (!fields_.integer("logprobs", 0, kMaxTopLogprobs, num_top)) return;
  request_.output.logprobs = true;
  request_.sampling.num_logprobs = num_top;
}

bool RequestParser::count_prompt_bytes(size_t num_bytes, std::string_view param) {
  num_prompt_bytes_ += num_bytes;
  if (num_prompt_bytes_ <= limits_.max_prompt_bytes) return true;
  fields_.fail(param, fmt::format("has more than {} bytes of text", limits_.max_prompt_bytes));
  return false;
}

void RequestParser::parse_messages() {
  if (error_) return;
  const json* messages = fields_.find("messages");
  if (messages == nullptr) return fields_.fail("messages", "is required");
  if (!messages->is_array() || messages->empty()) {
    return fields_.fail("messages", "must be a list of at least one message");
  }
  if (messages->size() > static_cast<size_t>(limits_.max_messages)) {
    return fields_.fail("messages", fmt::format("has {} entries, at most {} are allowed",
                                                messages->size(), limits_.max_messages));
  }
  for (size_t i = 0; i < messages->size() && !error_; ++i) parse_message((*messages)[i], i);
}

void RequestParser::parse_message(const json& item, size_t index) {
  const std::string name = fmt::format("messages[{}]", index);
  if (!item.is_object()) {
    return fields_.fail(name, fmt::format("must be an object, not {}", json_type_name(item)));
  }
  JsonFields fields(item, name + ".", error_);
  ApiMessage message;
  if (!fields.text("role", kMaxNameBytes, message.role)) {
    return fields.fail("role", "is required");
  }
  if (message.role == "developer") message.role = "system";
  constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};
  if (std::ranges::find(kRoles, message.role) == kRoles.end()) {
    return fields.fail("role", "must be system, developer, user, assistant or tool");
  }
  for (const char* field : {"function_call", "audio"}) {
    const json* value = fields.find(field);
    if (value != nullptr && !is_empty(*value)) {
      error_ = unsupported_field(fields.full_name(field));
      return;
    }
  }
  std::string ignored;
  fields.text("name", kMaxNameBytes, ignored);
  fields.text("tool_call_id", kMaxNameBytes, message.tool_call_id);
  message.tool_calls = parse_tool_calls(fields, error_);
  if (!message.tool_calls.is_null() && message.role != "assistant") {
    return fields.fail("tool_calls", "belongs to messages of the assistant");
  }
  for (const auto& call : message.tool_calls) {
    const auto& arguments = call["function"]["arguments"].get_ref<const std::string&>();
    if (!count_prompt_bytes(arguments.size(), "messages")) return;
  }
  if (!parse_content(fields, message.role, message.content)) return;
  request_.messages.push_back(std::move(message));
}

// A string, or a list of text parts, which are joined. An assistant's may be missing.
bool RequestParser::parse_content(JsonFields& fields, const std::string& role,
                                  std::string& content) {
  const json* value = fields.find("content");
  if (error_) return false;
  if (value == nullptr) {
    if (role != "assistant") fields.fail("content", "is required");
    return role == "assistant";
  }
  if (value->is_string()) {
    content = value->get<std::string>();
    return count_prompt_bytes(content.size(), "messages");
  }
  if (!value->is_array()) {
    fields.fail("content", fmt::format("must be a string or a list of text parts, not {}",
                                       json_type_name(*value)));
    return false;
  }
  for (const json& part : *value) {
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string()) {
      fields.fail("content", "must have parts of the form {\"type\": \"text\", \"text\": \"...\"}");
      return false;
    }
    if (*type != "text") {
      error_ = unsupported_field(fields.full_name("content"), "with a part other than text is");
      return false;
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      fields.fail("content", "must have a string as text of each part");
      return false;
    }
    content += text->get_ref<const std::string&>();
    if (!count_prompt_bytes(text->get_ref<const std::string&>().size(), "messages")) return false;
  }
  return true;
}

void RequestParser::parse_template_options() {
  if (bool echo = false; fields_.boolean("echo", echo) && echo) {
    error_ = unsupported_field("echo", "in a chat is");
  }
  fields_.boolean("separate_reasoning", request_.output.separate_reasoning);
  fields_.boolean("continue_final_message", request_.continue_final_message);
  const bool given = fields_.boolean("add_generation_prompt", request_.add_generation_prompt);
  if (request_.continue_final_message) {
    if (given && request_.add_generation_prompt) {
      fields_.fail("continue_final_message", "cannot go with add_generation_prompt");
    }
    request_.add_generation_prompt = false;
    if (!error_ && request_.messages.back().role != "assistant") {
      fields_.fail("continue_final_message", "needs a last message of the assistant");
    }
  }
  const json* kwargs = fields_.find("chat_template_kwargs");
  if (kwargs == nullptr) return;
  if (!kwargs->is_object()) {
    return fields_.fail("chat_template_kwargs",
                        fmt::format("must be an object, not {}", json_type_name(*kwargs)));
  }
  // Only what cannot change how text is rendered or tokenized otherwise.
  JsonFields kwargs_fields(*kwargs, "chat_template_kwargs.", error_);
  for (const auto& [key, value] : kwargs->items()) {
    if (error_) return;
    if (key != "thinking" && key != "enable_thinking") {
      const std::string shown = key.substr(0, 64);
      error_ = unsupported_field(kwargs_fields.full_name(shown));
      return;
    }
    bool thinking = false;
    if (kwargs_fields.boolean(key, thinking)) request_.thinking = thinking;
  }
}

void RequestParser::parse_prompts() {
  if (error_) return;
  fields_.boolean("echo", request_.output.echo);
  const json* prompt = fields_.find("prompt");
  if (prompt == nullptr) return fields_.fail("prompt", "is required");
  if (prompt->is_string()) return parse_prompt(*prompt);
  if (!prompt->is_array() || prompt->empty()) {
    return fields_.fail("prompt",
                        "must be a string, a list of strings, a list of token ids or a "
                        "list of such lists");
  }
  if (prompt->front().is_number()) return parse_prompt_tokens(*prompt);
  if (prompt->size() > static_cast<size_t>(limits_.max_choices)) {
    return fields_.fail("prompt", fmt::format("has {} entries, at most {} are allowed",
                                              prompt->size(), limits_.max_choices));
  }
  for (const json& item : *prompt) {
    if (error_) return;
    parse_prompt(item);
  }
}

void RequestParser::parse_prompt(const json& value) {
  if (value.is_array()) return parse_prompt_tokens(value);
  if (!value.is_string()) {
    return fields_.fail("prompt", fmt::format("must hold strings or lists of token ids, not {}",
                                              json_type_name(value)));
  }
  auto text = value.get<std::string>();
  if (count_prompt_bytes(text.size(), "prompt")) request_.prompts.emplace_back(std::move(text));
}

void RequestParser::parse_prompt_tokens(const json& value) {
  if (value.empty()) return fields_.fail("prompt", "must not hold an empty list of token ids");
  if (value.size() >= static_cast<size_t>(std::max(limits_.max_model_len, 1))) {
    error_ = bad_field("prompt", fmt::format("prompt has {} tokens, the model's context has {}",
                                             value.size(), limits_.max_model_len));
    error_->code = "context_length_exceeded";
    return;
  }
  std::vector<int32_t> token_ids;
  token_ids.reserve(value.size());
  for (const json& item : value) {
    const auto token_id = as_integer(item);
    if (!token_id || *token_id < 0 || *token_id >= limits_.vocab_size) {
      return fields_.fail("prompt",
                          fmt::format("must hold token ids in [0, {})", limits_.vocab_size));
    }
    token_ids.push_back(static_cast<int32_t>(*token_id));
  }
  request_.prompts.emplace_back(std::move(token_ids));
}

void RequestParser::check_combinations() {
  if (error_) return;
  const OutputOptions& output = request_.output;
  const auto num_choices =
      static_cast<int64_t>(request_.prompts.size()) * request_.sampling.num_choices;
  if (num_choices > limits_.max_choices) {
    fields_.fail("n", fmt::format("times the number of prompts is {}, at most {} are allowed",
                                  num_choices, limits_.max_choices));
  } else if (output.echo && output.logprobs) {
    error_ = unsupported_field("echo", "together with logprobs is");
  } else if (!output.skip_special_tokens && !request_.sampling.stop.empty()) {
    // Stop strings are searched in the text without special tokens.
    error_ = unsupported_field("skip_special_tokens", "false together with stop is");
  }
}

}  // namespace

ApiResult<ApiRequest> parse_api_request(Endpoint endpoint, std::string_view body,
                                        const RequestLimits& limits) {
  const auto parsed = parse_json(body, "the body");
  if (!parsed.ok()) return bad_field("", parsed.error().message);
  if (!parsed->is_object()) return bad_field("", "the body must be a JSON object");
  return RequestParser(*parsed, body, endpoint, limits).parse();
}

}  // namespace deepflight
