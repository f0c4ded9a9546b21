// One choice of an answer while it is generated: takes the engine's events and gives what the
// client is to see of each, reasoning apart from content.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/inference_service.h"
#include "server/api_request.h"
#include "server/prompt_builder.h"
#include "text/detokenizer.h"
#include "text/think_parser.h"
#include "text/tokenizer.h"
#include "text/tool_call_parser.h"

namespace deepflight {

// What an event adds; also, added up, a whole choice.
struct ChoiceDelta {
  int choice_idx = 0;
  bool is_first = false;
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> tool_calls;
  std::vector<int32_t> token_ids;
  std::vector<OutputLogprob> logprobs;
  std::optional<FinishReason> finish_reason;
  bool ends_in_calls = false;  // with kStop: it stopped for the client to call tools
  std::string matched_stop;

  void append(ChoiceDelta&& next);
};

class ChoiceOutput {
 public:
  // `tokenizer` outlives this object.
  ChoiceOutput(int choice_idx, const ApiRequest& request, const PreparedPrompt& prompt,
               const Tokenizer& tokenizer);

  ChoiceDelta take(GenerationEvent event);

  bool finished() const { return finished_; }
  int num_tokens() const { return num_tokens_; }
  int num_reasoning_tokens() const;

 private:
  std::string detokenize(const GenerationEvent& event);
  void split_tool_calls(bool is_end, ChoiceDelta& delta);

  const int choice_idx_;
  const bool is_chat_;
  const bool separate_reasoning_;
  const int32_t think_end_id_;  // </think> as a token, or -1
  const bool tool_is_named_;
  ThinkParser parser_;
  std::optional<ToolCallParser> tool_parser_;          // if the model was told of tools
  std::vector<ToolCallDelta> begun_calls_;             // by the prompt, not yet given out
  std::optional<IncrementalDetokenizer> detokenizer_;  // if special tokens are to be shown
  bool started_ = false;
  bool finished_ = false;
  bool saw_reasoning_ = false;
  int num_tokens_ = 0;
  int num_tokens_to_think_end_ = -1;  // up to </think> and with it
};

}  // namespace deepflight
