// The JSON of answers, in OpenAI's forms: whole responses and stream chunks of both endpoints, the
// list of models. Every function returns one line of valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_request.h"
#include "server/choice_output.h"
#include "text/tokenizer.h"

namespace deepflight {

struct Usage {
  int64_t num_prompt_tokens = 0;
  int64_t num_cached_tokens = 0;  // of the prompt
  int64_t num_completion_tokens = 0;
  int64_t num_reasoning_tokens = 0;  // of the completion
  // Of an engine with drafts: those verified for the request, and those accepted.
  bool has_drafts = false;
  int64_t num_drafts = 0;
  int64_t num_accepted_drafts = 0;
  float simulated_acceptance = -1.0f;  // negative: not simulated
};

// What all chunks and the whole response of one request have in common.
struct ResponseInfo {
  Endpoint endpoint = Endpoint::kChat;
  OutputOptions output;
  std::string id;
  std::string x_request_id;  // the response header: the client's own, or `id`
  std::string model;
  int64_t created = 0;
};

// A prompt as its choices show it.
struct PromptInfo {
  std::string text;                // for echo
  std::vector<int32_t> token_ids;  // for return_token_ids
};

// Where a choice's next logprobs stand in its text; kept between chunks.
struct LogprobCursor {
  int64_t text_offset = 0;  // in code points, as Python counts
};

// A chunk of a stream for one event of one choice. `usage`: null for none.
std::string chunk_json(const ResponseInfo& info, const PromptInfo& prompt, const ChoiceDelta& delta,
                       const Tokenizer& tokenizer, LogprobCursor& cursor, const Usage* usage);

// The last chunk, with the usage and without choices.
std::string usage_chunk_json(const ResponseInfo& info, const Usage& usage);

// A whole response; choices in order, `prompts[i]` that of choices[i].
std::string response_json(const ResponseInfo& info, const std::vector<const PromptInfo*>& prompts,
                          const std::vector<ChoiceDelta>& choices, const Tokenizer& tokenizer,
                          const Usage& usage);

// GET /version.
std::string version_json(std::string_view version);

// GET /v1/models and /v1/models/{id}.
std::string model_json(std::string_view name, int64_t created, int32_t max_model_len);
std::string model_list_json(std::string_view name, int64_t created, int32_t max_model_len);

}  // namespace deepflight
