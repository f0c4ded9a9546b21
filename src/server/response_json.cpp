// Writing answers as OpenAI's clients read them.
#include "server/response_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/unicode.h"

namespace deepflight {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLowestLogprob = -9999.0;  // JSON has no infinity; vLLM writes this one

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json finish_reason_json(const ChoiceDelta& delta) {
  if (!delta.finish_reason) return nullptr;
  switch (*delta.finish_reason) {
    case FinishReason::kStop:
      return delta.ends_in_calls ? "tool_calls" : "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      break;
  }
  return "error";
}

Json usage_json(const Usage& usage, Endpoint endpoint) {
  Json json = {{"prompt_tokens", usage.num_prompt_tokens},
               {"total_tokens", usage.num_prompt_tokens + usage.num_completion_tokens},
               {"completion_tokens", usage.num_completion_tokens},
               {"prompt_tokens_details", {{"cached_tokens", usage.num_cached_tokens}}}};
  if (endpoint == Endpoint::kChat) {
    json["completion_tokens_details"]["reasoning_tokens"] = usage.num_reasoning_tokens;
  }
  // OpenAI's names for predicted output.
  if (usage.has_drafts) {
    json["completion_tokens_details"]["accepted_prediction_tokens"] = usage.num_accepted_drafts;
    json["completion_tokens_details"]["rejected_prediction_tokens"] =
        usage.num_drafts - usage.num_accepted_drafts;
  }
  if (usage.simulated_acceptance >= 0) json["simulated_acceptance"] = usage.simulated_acceptance;
  return json;
}

double finite(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : kLowestLogprob;
}

// A token as text; one that is no whole UTF-8 sequence as "bytes:\xe2\x80", so that different
// tokens stay different.
std::string token_text(std::string_view bytes) {
  if (is_valid_utf8(bytes)) return std::string(bytes);
  std::string text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<uint8_t>(byte));
  return text;
}

Json chat_token_json(int32_t token_id, float logprob, const Tokenizer& tokenizer) {
  const std::string_view bytes = tokenizer.token_bytes(token_id);
  Json byte_values = Json::array();
  for (const char byte : bytes) byte_values.push_back(static_cast<uint8_t>(byte));
  return {{"token", token_text(bytes)},
          {"logprob", finite(logprob)},
          {"bytes", std::move(byte_values)}};
}

Json chat_logprobs_json(const std::vector<OutputLogprob>& logprobs, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const OutputLogprob& entry : logprobs) {
    Json token = chat_token_json(entry.token_id, entry.logprob, tokenizer);
    Json top = Json::array();
    for (const auto& [id, logprob] : entry.top)
      top.push_back(chat_token_json(id, logprob, tokenizer));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs_json(const std::vector<OutputLogprob>& logprobs,
                              const Tokenizer& tokenizer, LogprobCursor& cursor) {
  Json json = {{"tokens", Json::array()},
               {"token_logprobs", Json::array()},
               {"top_logprobs", Json::array()},
               {"text_offset", Json::array()}};
  for (const OutputLogprob& entry : logprobs) {
    const std::string_view bytes = tokenizer.token_bytes(entry.token_id);
    json["tokens"].push_back(token_text(bytes));
    json["token_logprobs"].push_back(finite(entry.logprob));
    json["text_offset"].push_back(cursor.text_offset);
    // A code point counts where its first byte stands, so tokens that share one do not add up.
    cursor.text_offset +=
        std::ranges::count_if(bytes, [](char byte) { return (byte & 0xc0) != 0x80; });
    Json top = Json::object();
    for (const auto& [id, logprob] : entry.top) {
      top[token_text(tokenizer.token_bytes(id))] = finite(logprob);
    }
    top[token_text(bytes)] = finite(entry.logprob);
    json["top_logprobs"].push_back(std::move(top));
  }
  return json;
}

// What a choice has in every form. Absent fields that a client may read anyway are null.
Json choice_json(const ResponseInfo& info, const ChoiceDelta& delta, const Tokenizer& tokenizer,
                 LogprobCursor& cursor) {
  Json choice = {{"index", delta.choice_idx}};
  if (!info.output.logprobs) {
    choice["logprobs"] = nullptr;
  } else if (info.endpoint == Endpoint::kChat) {
    choice["logprobs"] = chat_logprobs_json(delta.logprobs, tokenizer);
  } else {
    choice["logprobs"] = completion_logprobs_json(delta.logprobs, tokenizer, cursor);
  }
  choice["finish_reason"] = finish_reason_json(delta);
  if (!delta.matched_stop.empty()) choice["stop_reason"] = delta.matched_stop;
  if (info.output.return_token_ids) choice["token_ids"] = delta.token_ids;
  return choice;
}

// The same in every chunk of a call: of the request's id, the choice and the call.
std::string tool_call_id(const ResponseInfo& info, int choice_idx, int index) {
  constexpr size_t kTail = 16;
  const std::string_view id = info.id;
  return fmt::format("call_{}_{}_{}", id.substr(id.size() - std::min(id.size(), kTail)), choice_idx,
                     index);
}

Json tool_calls_json(const ResponseInfo& info, const ChoiceDelta& delta, bool streamed) {
  Json calls = Json::array();
  for (const ToolCallDelta& call : delta.tool_calls) {
    Json item = Json::object();
    if (streamed) item["index"] = call.index;
    if (call.name.empty()) {
      item["function"] = {{"arguments", call.arguments}};
    } else {
      item["id"] = tool_call_id(info, delta.choice_idx, call.index);
      item["type"] = "function";
      item["function"] = {{"name", call.name}, {"arguments", call.arguments}};
    }
    calls.push_back(std::move(item));
  }
  return calls;
}

Json chat_delta_json(const ResponseInfo& info, const ChoiceDelta& delta) {
  Json json = Json::object();
  if (delta.is_first) json["role"] = "assistant";
  if (!delta.reasoning.empty()) {
    json["reasoning_content"] = delta.reasoning;
    json["reasoning"] = delta.reasoning;
  }
  // A token without text of its own yet still gets a chunk, with empty content.
  if (!delta.tool_calls.empty()) json["tool_calls"] = tool_calls_json(info, delta, true);
  if (!delta.content.empty() || (delta.reasoning.empty() && delta.tool_calls.empty())) {
    json["content"] = delta.content;
  }
  return json;
}

Json head_json(const ResponseInfo& info, const char* object) {
  return {{"id", info.id}, {"object", object}, {"created", info.created}, {"model", info.model}};
}

const char* chunk_object(const ResponseInfo& info) {
  return info.endpoint == Endpoint::kChat ? "chat.completion.chunk" : "text_completion";
}

Json one_model_json(std::string_view name, int64_t created, int32_t max_model_len) {
  return {{"id", name},         {"object", "model"},
          {"created", created}, {"owned_by", "deepflight"},
          {"root", name},       {"max_model_len", max_model_len}};
}

}  // namespace

std::string chunk_json(const ResponseInfo& info, const PromptInfo& prompt, const ChoiceDelta& delta,
                       const Tokenizer& tokenizer, LogprobCursor& cursor, const Usage* usage) {
  Json chunk = head_json(info, chunk_object(info));
  Json choice = choice_json(info, delta, tokenizer, cursor);
  const bool with_prompt_ids = info.output.return_token_ids && delta.is_first;
  if (info.endpoint == Endpoint::kChat) {
    choice["delta"] = chat_delta_json(info, delta);
    if (with_prompt_ids) chunk["prompt_token_ids"] = prompt.token_ids;
  } else {
    choice["text"] =
        info.output.echo && delta.is_first ? prompt.text + delta.content : delta.content;
    if (with_prompt_ids) choice["prompt_token_ids"] = prompt.token_ids;
  }
  chunk["choices"] = Json::array({std::move(choice)});
  if (usage != nullptr) {
    chunk["usage"] = usage_json(*usage, info.endpoint);
  } else if (info.output.include_usage) {
    chunk["usage"] = nullptr;
  }
  return dump(chunk);
}

std::string usage_chunk_json(const ResponseInfo& info, const Usage& usage) {
  Json chunk = head_json(info, chunk_object(info));
  chunk["choices"] = Json::array();
  chunk["usage"] = usage_json(usage, info.endpoint);
  return dump(chunk);
}

std::string response_json(const ResponseInfo& info, const std::vector<const PromptInfo*>& prompts,
                          const std::vector<ChoiceDelta>& choices, const Tokenizer& tokenizer,
                          const Usage& usage) {
  const bool is_chat = info.endpoint == Endpoint::kChat;
  Json response = head_json(info, is_chat ? "chat.completion" : "text_completion");
  Json list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const ChoiceDelta& delta = choices[i];
    LogprobCursor cursor;
    Json choice = choice_json(info, delta, tokenizer, cursor);
    if (is_chat) {
      const Json reasoning = delta.reasoning.empty() ? Json(nullptr) : Json(delta.reasoning);
      choice["message"] = {{"role", "assistant"},
                           {"content", delta.content},
                           {"reasoning_content", reasoning},
                           {"reasoning", reasoning}};
      if (!delta.tool_calls.empty()) {
        choice["message"]["tool_calls"] = tool_calls_json(info, delta, false);
        if (delta.content.empty()) choice["message"]["content"] = nullptr;
      }
    } else {
      choice["text"] = info.output.echo ? prompts[i]->text + delta.content : delta.content;
      if (info.output.return_token_ids) choice["prompt_token_ids"] = prompts[i]->token_ids;
    }
    list.push_back(std::move(choice));
  }
  response["choices"] = std::move(list);
  response["usage"] = usage_json(usage, info.endpoint);
  if (is_chat && info.output.return_token_ids) {
    response["prompt_token_ids"] = prompts.front()->token_ids;
  }
  return dump(response);
}

std::string model_json(std::string_view name, int64_t created, int32_t max_model_len) {
  return dump(one_model_json(name, created, max_model_len));
}

std::string version_json(std::string_view version) { return dump({{"version", version}}); }

std::string model_list_json(std::string_view name, int64_t created, int32_t max_model_len) {
  return dump(
      {{"object", "list"}, {"data", Json::array({one_model_json(name, created, max_model_len)})}});
}

}  // namespace deepflight
