// The bodies of a load's requests: random prompts, or the lines of a file.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/bench_serve/load_schedule.h"
#include "base/result.h"

namespace deepflight {

enum class LoadEndpoint { kCompletions, kChat };

struct LoadRequest {
  LoadEndpoint endpoint = LoadEndpoint::kCompletions;
  std::string body;
  int64_t asked_prompt_tokens = 0;  // 0: not known before the server counts them
  int64_t asked_output_tokens = 0;  // 0: the model may stop by itself

  const char* path() const {
    return endpoint == LoadEndpoint::kChat ? "/v1/chat/completions" : "/v1/completions";
  }
};

struct LoadRequestsConfig {
  std::string model;
  std::string endpoint;      // "completions", "chat", or empty: what fits the prompts
  std::string prompts_path;  // JSON lines; empty: random prompts
  LengthRange prompt_len;    // of random prompts, tokens (words of text prompts)
  LengthRange output_len;    // a line's "max_tokens" comes first
  int64_t vocab_size = 0;    // random token ids lie below
  bool text_prompts = false;
  bool ignore_eos = true;
  nlohmann::json extra_body = nlohmann::json::object();  // merged over; null removes a field
  uint64_t seed = 0;
};

class LoadRequests {
 public:
  // Reads the file, if there is one, and checks that everything fits together.
  static Result<LoadRequests> make(LoadRequestsConfig config);

  void set_model(std::string name) { config_.model = std::move(name); }

  // Request `index` of a stream; streams differ in their random prompts (so that none finds
  // another's in a prefix cache) and share the lengths. A file's lines come round again.
  LoadRequest request(uint64_t stream, int64_t index) const;

 private:
  struct Line {
    nlohmann::json prompt;    // a string, or null
    nlohmann::json messages;  // a list, or null
    int64_t max_tokens = 0;   // 0: not given
  };

  explicit LoadRequests(LoadRequestsConfig config) : config_(std::move(config)) {}
  static Result<Line> parse_line(std::string_view text, const std::string& where);
  Status read_lines();
  Status choose_endpoint();
  nlohmann::json random_prompt(uint64_t stream, int64_t index, int64_t length) const;

  LoadRequestsConfig config_;
  LoadEndpoint endpoint_ = LoadEndpoint::kCompletions;
  std::vector<Line> lines_;
};

}  // namespace deepflight
