// Fuzz target: any body, either endpoint, ends as a request or as an error that is valid JSON, and
// a request is within its limits.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_request.h"

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":0.9,)"
      R"("n":2,"stop":["a"],"stream":true,"stream_options":{"include_usage":true},"seed":7})",
      R"({"messages":[{"role":"system","content":[{"type":"text","text":"x"}]},)"
      R"({"role":"assistant","content":null}],"logprobs":true,"top_logprobs":3,)"
      R"("logit_bias":{"5":-100},"max_completion_tokens":10,"continue_final_message":true})",
      R"({"messages":[{"role":"user","content":"hi"}],"chat_template_kwargs":{"thinking":true},)"
      R"("separate_reasoning":false,"tools":[],"response_format":{"type":"json_schema","json_schema":{"name":"n",)"
      R"("schema":{"type":"object"}}}})",
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":)"
      R"([{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool",)"
      R"("tool_call_id":"1","content":"b"}],"tools":[{"type":"function","function":{"name":"f",)"
      R"("description":"d","parameters":{"type":"object"}}}],"tool_choice":{"type":"function",)"
      R"("function":{"name":"f"}},"parallel_tool_calls":false})",
      R"({"prompt":[[1,2,3],[4]],"max_tokens":5,"echo":true,"min_tokens":1,"top_k":-1})",
      R"({"prompt":["a","b"],"logprobs":5,"stop_token_ids":[1],"ignore_eos":true,"min_p":0.1})",
      R"({"prompt":[1,2,3],"repetition_penalty":1.2,"presence_penalty":1,"cache_salt":"s"})",
  };
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deepflight;
  const RequestLimits limits{.vocab_size = 100, .max_model_len = 64, .max_prompt_bytes = 1000};
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletions}) {
    const auto result = parse_api_request(endpoint, body, limits);
    if (const auto* error = std::get_if<ApiError>(&result)) {
      if (error->status != 400 || !nlohmann::json::accept(to_json(*error))) __builtin_trap();
      continue;
    }
    const auto& request = std::get<ApiRequest>(result);
    const bool has_input =
        endpoint == Endpoint::kChat ? !request.messages.empty() : !request.prompts.empty();
    const int n = request.sampling.num_choices;
    const auto num_choices = static_cast<size_t>(n) * std::max<size_t>(request.prompts.size(), 1);
    if (!has_input || n < 1 || num_choices > static_cast<size_t>(limits.max_choices)) {
      __builtin_trap();
    }
  }
  return 0;
}
