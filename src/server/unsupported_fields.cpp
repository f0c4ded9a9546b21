// The table of refused fields, with the values of each that change nothing and so are let through.
#include "server/unsupported_fields.h"

#include <nlohmann/json.hpp>

namespace deepflight {
namespace {

using nlohmann::json;

struct UnsupportedField {
  const char* name;
  bool (*harmless)(const json& value);
};

bool never(const json&) { return false; }
bool is_false(const json& value) { return value.is_boolean() && !value.get<bool>(); }
bool is_true(const json& value) { return value.is_boolean() && value.get<bool>(); }
bool is_one(const json& value) { return value.is_number() && value == 1; }
bool is_empty(const json& value) { return value.is_structured() && value.empty(); }
bool is_auto_or_none(const json& value) { return value == "none" || value == "auto"; }
bool is_text_only(const json& value) { return value == json::array({"text"}); }

constexpr UnsupportedField kUnsupportedFields[] = {
    {"allowed_token_ids", never},
    {"audio", never},
    {"bad_words", is_empty},
    {"chat_template", never},
    {"documents", is_empty},
    {"early_stopping", is_false},
    {"ebnf", never},
    {"function_call", is_auto_or_none},
    {"functions", is_empty},
    {"guided_choice", never},
    {"guided_grammar", never},
    {"guided_json", never},
    {"guided_regex", never},
    {"include_reasoning", is_true},
    {"include_stop_str_in_output", is_false},
    {"json_schema", never},
    {"kv_transfer_params", never},
    {"length_penalty", is_one},
    {"logits_processors", is_empty},
    {"lora_path", never},
    {"modalities", is_text_only},
    {"no_stop_trim", is_false},
    {"prediction", never},
    {"prompt_embeds", never},
    {"prompt_logprobs", never},
    {"reasoning_effort", never},
    {"regex", never},
    {"return_hidden_states", is_false},
    {"return_tokens_as_token_ids", is_false},
    {"spaces_between_special_tokens", is_true},
    {"store", is_false},
    {"stream_reasoning", is_true},
    {"structured_outputs", never},
    {"suffix", never},
    {"thinking_token_budget", never},
    {"truncate_prompt_tokens", never},
    {"use_beam_search", is_false},
    {"verbosity", never},
    {"vllm_xargs", is_empty},
    {"web_search_options", never},
};

}  // namespace

void refuse_unsupported_fields(const JsonFields& fields, std::optional<ApiError>& error) {
  for (const UnsupportedField& field : kUnsupportedFields) {
    const json* value = fields.find(field.name);
    if (value == nullptr || field.harmless(*value)) continue;
    const bool others_work = value->is_boolean() || value->is_structured();
    error = unsupported_field(field.name, others_work ? "with this value is" : "");
    return;
  }
}

}  // namespace deepflight
