// The fields that say what an answer must look like: response_format, and tools whose arguments are
// held to their schema. Read here, and turned into the constraint that the engine keeps.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "grammar/output_form.h"
#include "server/api_request.h"
#include "server/json_fields.h"
#include "server/prompt_builder.h"

namespace deepflight {

// response_format as a schema: none for {"type": "text"}. `body`: the request's text, from which
// the schema is read once more with its keys in order, for the answer has them so.
std::optional<nlohmann::ordered_json> parse_response_format(JsonFields& fields,
                                                            std::string_view body,
                                                            std::optional<ApiError>& error);

// The compiler of a model's constraints. Error: kUnsupported if its tokenizer does not lend itself.
Result<std::unique_ptr<OutputFormCompiler>> make_form_compiler(const Tokenizer& tokenizer,
                                                               const ModelInfo& model);

// What the output that follows `prompt` is held to: nothing, a document, calls of tools, or either.
// An answer that begins in thinking is free until </think>. Strict tools that the model may call or
// not are held to their schema once a call begins. `compiler` null: such requests are refused.
ApiResult<OutputConstraint> constrain_output(const ApiRequest& request,
                                             const PreparedPrompt& prompt, const TextModel& model,
                                             OutputFormCompiler* compiler);

}  // namespace deepflight
