// What a client asks of one generation, in one plain struct that server, scheduler and executor
// share. Ranges are those of OpenAI's API and of vLLM's extensions; validate() names the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace deepflight {

// Bounds that keep one request's cost bounded whatever it says.
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 1024;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxChoices = 128;

struct SamplingParams {
  float temperature = 1.0f;         // [0, 2]; 0 is greedy
  float top_p = 1.0f;               // (0, 1]
  int top_k = 0;                    // 0 or -1: off
  float min_p = 0.0f;               // [0, 1]: share of the most likely token's probability
  float repetition_penalty = 1.0f;  // (0, 2]: over prompt and output tokens
  float presence_penalty = 0.0f;    // [-2, 2]: over output tokens
  float frequency_penalty = 0.0f;   // [-2, 2]: over output tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, [-100, 100]
  std::optional<uint64_t> seed;                       // unset: drawn when the request is taken
  int num_choices = 1;                                // OpenAI's n
  int max_tokens = 16;                                // output tokens, >= 1
  int min_tokens = 0;               // no end-of-sequence or stop before so many output tokens
  std::optional<int> num_logprobs;  // unset: none; k: the chosen token's and the k most likely
  std::vector<std::string> stop;    // ends the text before the match
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool use_drafts = true;  // where the engine makes drafts (--mtp)

  bool greedy() const { return temperature == 0.0f; }

  // Error: kInvalidArgument naming the field and its range.
  Status validate(int vocab_size) const;
};

}  // namespace deepflight
