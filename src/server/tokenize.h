// POST /tokenize and /detokenize, in vLLM's form: what a prompt or a chat becomes, and back.
#pragma once

#include <string>
#include <string_view>

#include "server/api_request.h"
#include "server/prompt_builder.h"

namespace deepflight {

// {"prompt": text, "add_special_tokens"?: true} or the fields of a chat request, with
// "return_token_strs"?: false. Answers {"count", "max_model_len", "tokens", "token_strs"}; longer
// than the context is no error here.
ApiResult<std::string> tokenize_json(std::string_view body, const TextModel& model,
                                     const RequestLimits& limits);

// {"tokens": ids} to {"prompt": text}, special tokens written out.
ApiResult<std::string> detokenize_json(std::string_view body, const TextModel& model,
                                       const RequestLimits& limits);

}  // namespace deepflight
