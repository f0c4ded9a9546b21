// From events of the engine to what a client sees.
#include "server/choice_output.h"

#include <iterator>
#include <utility>

namespace deepflight {

void ChoiceDelta::append(ChoiceDelta&& next) {
  choice_idx = next.choice_idx;
  reasoning += next.reasoning;
  content += next.content;
  for (ToolCallDelta& call : next.tool_calls) {
    if (!tool_calls.empty() && tool_calls.back().index == call.index) {
      tool_calls.back().arguments += call.arguments;
    } else {
      tool_calls.push_back(std::move(call));
    }
  }
  ends_in_calls = ends_in_calls || next.ends_in_calls;
  token_ids.insert(token_ids.end(), next.token_ids.begin(), next.token_ids.end());
  logprobs.insert(logprobs.end(), std::make_move_iterator(next.logprobs.begin()),
                  std::make_move_iterator(next.logprobs.end()));
  if (next.finish_reason) finish_reason = next.finish_reason;
  if (!next.matched_stop.empty()) matched_stop = std::move(next.matched_stop);
}

ChoiceOutput::ChoiceOutput(int choice_idx, const ApiRequest& request, const PreparedPrompt& prompt,
                           const Tokenizer& tokenizer)
    : choice_idx_(choice_idx),
      is_chat_(request.endpoint == Endpoint::kChat),
      separate_reasoning_(request.output.separate_reasoning),
      think_end_id_(tokenizer.token_to_id("</think>")),
      tool_is_named_(request.tools.choice == ToolChoice::kNamed),
      parser_(prompt.starts_in_thinking),
      saw_reasoning_(prompt.starts_in_thinking) {
  bool show_special_tokens = !request.output.skip_special_tokens;
  if (request.tools.choice != ToolChoice::kNone) {
    const bool one_call = tool_is_named_ || !request.tools.parallel_calls;
    tool_parser_.emplace(one_call ? 1 : ToolCallParser::kAnyNumber);
    begun_calls_ = tool_parser_->push(prompt.begun_output).calls;
    show_special_tokens |= tokenizer.is_special(tokenizer.token_to_id(kToolCallsBegin));
  }
  if (show_special_tokens) detokenizer_.emplace(tokenizer, false);
}

// Takes the calls out of the content.
void ChoiceOutput::split_tool_calls(bool is_end, ChoiceDelta& delta) {
  delta.tool_calls = std::exchange(begun_calls_, {});
  const auto add = [&delta](ToolCallParser::Delta part) {
    delta.content += part.content;
    ChoiceDelta more;
    more.choice_idx = delta.choice_idx;
    more.tool_calls = std::move(part.calls);
    delta.append(std::move(more));
  };
  const std::string text = std::exchange(delta.content, {});
  add(tool_parser_->push(text));
  if (!is_end) return;
  add(tool_parser_->finish());
  // Whoever names the function knows that it is called.
  delta.ends_in_calls = tool_parser_->num_calls() > 0 && !tool_is_named_;
}

// The text with special tokens, which the engine's has not. The token that ended the output is no
// text of it.
std::string ChoiceOutput::detokenize(const GenerationEvent& event) {
  size_t num_shown = event.token_ids.size();
  if (event.finish_reason == FinishReason::kStop && num_shown > 0) --num_shown;
  std::string text;
  for (size_t i = 0; i < num_shown; ++i) text += detokenizer_->push(event.token_ids[i]);
  if (event.finish_reason) text += detokenizer_->finish();
  return text;
}

ChoiceDelta ChoiceOutput::take(GenerationEvent event) {
  ChoiceDelta delta;
  delta.choice_idx = choice_idx_;
  delta.is_first = !std::exchange(started_, true);
  delta.finish_reason = event.finish_reason;
  delta.matched_stop = std::move(event.matched_stop);
  delta.logprobs = std::move(event.logprobs);
  std::string text = detokenizer_ ? detokenize(event) : std::move(event.text);
  if (is_chat_) {
    ThinkParser::Delta parts = parser_.push(text);
    if (event.finish_reason) {
      ThinkParser::Delta rest = parser_.finish();
      parts.reasoning += rest.reasoning;
      parts.content += rest.content;
    }
    saw_reasoning_ = saw_reasoning_ || parser_.in_reasoning() || !parts.reasoning.empty();
    if (separate_reasoning_) {
      delta.reasoning = std::move(parts.reasoning);
      delta.content = std::move(parts.content);
    }
  }
  if (!is_chat_ || !separate_reasoning_) delta.content = std::move(text);
  if (tool_parser_) split_tool_calls(event.finish_reason.has_value(), delta);
  for (const int32_t token_id : event.token_ids) {
    ++num_tokens_;
    if (token_id == think_end_id_ && num_tokens_to_think_end_ < 0) {
      num_tokens_to_think_end_ = num_tokens_;
    }
  }
  // Without a token for </think> the end is known to one event only.
  if (think_end_id_ < 0 && num_tokens_to_think_end_ < 0 && saw_reasoning_ &&
      !parser_.in_reasoning()) {
    num_tokens_to_think_end_ = num_tokens_;
  }
  delta.token_ids = std::move(event.token_ids);
  finished_ = event.finish_reason.has_value();
  return delta;
}

int ChoiceOutput::num_reasoning_tokens() const {
  if (!is_chat_ || !saw_reasoning_) return 0;
  return num_tokens_to_think_end_ < 0 ? num_tokens_ : num_tokens_to_think_end_;
}

}  // namespace deepflight
