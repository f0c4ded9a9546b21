// From what a request says to the token ids that the engine runs: chat messages through the model's
// template, text through the tokenizer, and the check that prompt and output fit the context.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/constraint.h"
#include "server/api_request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace deepflight {

// A model's text side. Everything outlives its users; chat_template is null if there is none.
struct TextModel {
  const Tokenizer& tokenizer;
  const TokenizerConfig& config;
  const ChatTemplate* chat_template = nullptr;
};

struct PreparedPrompt {
  std::string text;  // completions with echo only
  std::vector<int32_t> token_ids;
  bool starts_in_thinking = false;  // the prompt ends inside <think>
  std::string begun_output;         // what the prompt has already of the answer: a call's beginning
  OutputConstraint constraint;      // what the answer is held to, see response_format.h
};

// Whether calls are written in V3's form, with a fence around the arguments.
bool writes_fences(const ChatTemplate& chat_template);

// The messages of a chat, whether they fit the context or not. Thread-safe.
ApiResult<PreparedPrompt> prepare_chat(const ApiRequest& request, const TextModel& model);

// Also sets request.sampling.max_tokens. May take long for big prompts. Thread-safe.
ApiResult<std::vector<PreparedPrompt>> prepare_prompts(ApiRequest& request, const TextModel& model,
                                                       int32_t max_model_len);

}  // namespace deepflight
