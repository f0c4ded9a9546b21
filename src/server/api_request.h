// A generation request as it was asked for, typed and range-checked, before it meets the tokenizer:
// what the parser makes of a body. Everything that sizes work is bounded by RequestLimits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/engine/inference_service.h"
#include "server/api_error.h"

namespace deepflight {

struct RequestLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  int max_choices = 128;  // n, and n times the prompts of one request
  int max_messages = 4096;
  size_t max_prompt_bytes = size_t{16} << 20;  // of text, before it is tokenized
  bool ignore_unknown_fields = false;          // of a body; else they are refused by name
};

enum class Endpoint { kChat, kCompletions };

struct ApiMessage {
  std::string role;  // system, user, assistant, tool ("developer" becomes "system")
  std::string content;
  nlohmann::ordered_json tool_calls;  // of an assistant: a list, or null
  std::string tool_call_id;           // of a tool's answer
};

enum class ToolChoice {
  kNone,      // no tools, or they are not to be used
  kAuto,      // as the model likes
  kRequired,  // some of them
  kNamed,     // the one
};

struct ToolOptions {
  nlohmann::ordered_json definitions = nlohmann::ordered_json::array();  // as the client wrote them
  ToolChoice choice = ToolChoice::kNone;
  std::string name;            // with kNamed
  bool parallel_calls = true;  // false: only the first call is given out
};

// A completion's prompt: text, or token ids as given.
using ApiPrompt = std::variant<std::string, std::vector<int32_t>>;

// How the answer is shown; the engine does not see these.
struct OutputOptions {
  bool stream = false;
  bool include_usage = false;           // a last chunk with the usage
  bool continuous_usage_stats = false;  // the usage so far in every chunk
  bool logprobs = false;
  bool echo = false;              // completions: the prompt before the text
  bool return_token_ids = false;  // of the prompt and of the output
  bool separate_reasoning = true;
  bool skip_special_tokens = true;
};

struct ApiRequest {
  Endpoint endpoint = Endpoint::kChat;
  std::string model;              // empty: the one that is served
  SamplingParams sampling;        // its max_tokens follows from the field below
  std::optional<int> max_tokens;  // unset: what the context leaves (chat) or 16 (completions)
  std::string max_tokens_param;   // the field that gave it
  OutputOptions output;
  std::optional<nlohmann::ordered_json> response_format;  // the schema of the answer
  std::string cache_salt;

  // Chat.
  std::vector<ApiMessage> messages;
  ToolOptions tools;
  std::optional<bool> thinking;  // chat_template_kwargs.thinking or .enable_thinking
  bool add_generation_prompt = true;
  bool continue_final_message = false;

  // Completions: one choice (times n) for each.
  std::vector<ApiPrompt> prompts;
};

// Parses the body of POST /v1/chat/completions or /v1/completions.
ApiResult<ApiRequest> parse_api_request(Endpoint endpoint, std::string_view body,
                                        const RequestLimits& limits);

}  // namespace deepflight
