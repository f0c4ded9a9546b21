// Both routes; a chat goes through the same parser and template as a completion of it.
#include "server/tokenize.h"

#include <nlohmann/json.hpp>
#include <span>
#include <variant>
#include <vector>

#include "base/files.h"
#include "server/json_fields.h"

namespace deepflight {
namespace {

using nlohmann::json;

constexpr size_t kMaxTokens = size_t{1} << 22;

ApiResult<json> parse_object(std::string_view body) {
  auto parsed = parse_json(body, "the body");
  if (!parsed.ok()) return bad_field("", parsed.error().message);
  if (!parsed->is_object()) return bad_field("", "the body must be a JSON object");
  return std::move(parsed).value();
}

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

ApiResult<std::vector<int32_t>> encode_text(JsonFields& fields, const TextModel& model,
                                            const RequestLimits& limits) {
  std::string text;
  bool add_special_tokens = true;
  fields.text("prompt", limits.max_prompt_bytes, text);
  fields.boolean("add_special_tokens", add_special_tokens);
  fields.ignore({"model"});
  if (!limits.ignore_unknown_fields) fields.refuse_others();
  if (fields.failed()) return std::vector<int32_t>();
  auto ids = add_special_tokens ? encode_prompt(model.tokenizer, model.config, text, true)
                                : model.tokenizer.encode(
                                      text, {.add_special_tokens = false, .parse_special = true});
  if (!ids.ok()) return api_error(ids.error());
  return std::move(ids).value();
}

ApiResult<std::vector<int32_t>> encode_chat(std::string_view body, const TextModel& model,
                                            const RequestLimits& limits) {
  RequestLimits chat_limits = limits;
  chat_limits.ignore_unknown_fields = true;  // those of this route stand beside the chat's
  auto parsed = parse_api_request(Endpoint::kChat, body, chat_limits);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  auto prompt = prepare_chat(std::get<ApiRequest>(parsed), model);
  if (auto* error = std::get_if<ApiError>(&prompt)) return std::move(*error);
  return std::get<PreparedPrompt>(std::move(prompt)).token_ids;
}

}  // namespace

ApiResult<std::string> tokenize_json(std::string_view body, const TextModel& model,
                                     const RequestLimits& limits) {
  auto object = parse_object(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  std::optional<ApiError> error;
  JsonFields fields(std::get<json>(object), "", error);
  bool return_token_strs = false;
  fields.boolean("return_token_strs", return_token_strs);
  if (!fields.has("prompt") && !fields.has("messages"))
    fields.fail("prompt", "or messages is required");
  auto encoded = fields.has("messages") ? encode_chat(body, model, limits)
                                        : encode_text(fields, model, limits);
  if (error) return std::move(*error);
  if (auto* failed = std::get_if<ApiError>(&encoded)) return std::move(*failed);
  const auto& ids = std::get<std::vector<int32_t>>(encoded);
  json answer = {{"count", ids.size()},
                 {"max_model_len", limits.max_model_len},
                 {"tokens", ids},
                 {"token_strs", nullptr}};
  if (return_token_strs) {
    json& texts = answer["token_strs"] = json::array();
    for (const int32_t id : ids) texts.push_back(std::string(model.tokenizer.token_bytes(id)));
  }
  return dump(answer);
}

ApiResult<std::string> detokenize_json(std::string_view body, const TextModel& model,
                                       const RequestLimits& limits) {
  auto object = parse_object(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  std::optional<ApiError> error;
  JsonFields fields(std::get<json>(object), "", error);
  std::vector<int32_t> ids;
  if (!fields.has("tokens")) fields.fail("tokens", "is required");
  fields.integers("tokens", kMaxTokens, 0, limits.vocab_size - 1, ids);
  fields.ignore({"model"});
  if (!limits.ignore_unknown_fields) fields.refuse_others();
  if (error) return std::move(*error);
  return dump({{"prompt", model.tokenizer.decode(ids, false)}});
}

}  // namespace deepflight
