// A state machine over the pending text, as in think_parser.cpp: each state consumes what it can
// decide and holds back what may yet become a mark.
#include "text/tool_call_parser.h"

#include <algorithm>
#include <initializer_list>

namespace deepflight {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

// Length of the longest suffix of `text` that is a proper prefix of one of the marks.
size_t mark_at_end(std::string_view text, std::initializer_list<std::string_view> marks) {
  size_t longest = 0;
  for (const std::string_view mark : marks) {
    for (size_t length = std::min(text.size(), mark.size() - 1); length > longest; --length) {
      if (text.ends_with(mark.substr(0, length))) longest = length;
    }
  }
  return longest;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

}  // namespace

ToolCallParser::Delta ToolCallParser::push(std::string_view text) {
  Delta delta;
  pending_ += text;
  while (run(delta, false)) {
  }
  return delta;
}

ToolCallParser::Delta ToolCallParser::finish() {
  Delta delta;
  while (run(delta, true)) {
  }
  pending_.clear();
  return delta;
}

// True when the state has moved on and more may be done.
bool ToolCallParser::run(Delta& delta, bool is_end) {
  switch (state_) {
    case State::kContent:
      return run_content(delta, is_end);
    case State::kBetween:
      return run_between();
    case State::kHead:
      return run_head(delta);
    case State::kName:
      return run_name(delta);
    case State::kFence:
      return run_fence(is_end);
    case State::kArguments:
      return run_arguments(delta, is_end);
  }
  return false;
}

bool ToolCallParser::run_content(Delta& delta, bool is_end) {
  const std::string_view text = pending_;
  const size_t calls = text.find(kToolCallsBegin);
  const size_t call = text.find(kToolCallBegin);  // some outputs lack the outer marks
  const size_t mark = std::min(calls, call);
  size_t num_certain = mark;
  if (mark == std::string_view::npos) {
    num_certain =
        is_end ? text.size() : text.size() - mark_at_end(text, {kToolCallsBegin, kToolCallBegin});
  }
  if (!is_end || mark != std::string_view::npos) {
    num_certain = text.substr(0, num_certain).find_last_not_of(kSpace) + 1;
  }
  delta.content += text.substr(0, num_certain);
  if (mark == std::string_view::npos) {
    pending_.erase(0, num_certain);
    return false;
  }
  pending_.erase(0, calls < call ? calls + kToolCallsBegin.size() : call);
  state_ = State::kBetween;
  return true;
}

bool ToolCallParser::run_between() {
  const size_t call = pending_.find(kToolCallBegin);
  const size_t end = pending_.find(kToolCallsEnd);
  if (call < end) {
    pending_.erase(0, call + kToolCallBegin.size());
    state_ = State::kHead;
    return true;
  }
  if (end == std::string::npos) return false;
  pending_.erase(0, end + kToolCallsEnd.size());
  state_ = State::kContent;
  return true;
}

bool ToolCallParser::run_head(Delta& delta) {
  const size_t separator = pending_.find(kToolSeparator);
  if (separator == std::string::npos) return false;
  const std::string head(trimmed(std::string_view(pending_).substr(0, separator)));
  pending_.erase(0, separator + kToolSeparator.size());
  if (head == kToolTypeFunction) {
    state_ = State::kName;
    return true;
  }
  fenced_ = false;
  begin_call(delta, head);
  state_ = State::kArguments;
  return true;
}

// V3: the name has a line of its own.
bool ToolCallParser::run_name(Delta& delta) {
  const size_t line_end = pending_.find('\n');
  if (line_end == std::string::npos) return false;
  begin_call(delta, trimmed(std::string_view(pending_).substr(0, line_end)));
  pending_.erase(0, line_end + 1);
  state_ = State::kFence;
  return true;
}

bool ToolCallParser::run_fence(bool is_end) {
  const std::string_view text = pending_;
  if (!is_end && text.size() < kToolFenceBegin.size() && kToolFenceBegin.starts_with(text)) {
    return false;
  }
  fenced_ = text.starts_with(kToolFenceBegin);
  if (fenced_) pending_.erase(0, kToolFenceBegin.size());
  state_ = State::kArguments;
  return true;
}

bool ToolCallParser::run_arguments(Delta& delta, bool is_end) {
  const std::string_view text = pending_;
  const size_t end = text.find(kToolCallEnd);
  if (end == std::string_view::npos && !is_end) {
    // "\n```" and the mark behind it, or the mark alone.
    static const std::string fence_and_end = std::string(kToolFenceEnd) + std::string(kToolCallEnd);
    const size_t held = fenced_ ? mark_at_end(text, {fence_and_end, kToolCallEnd})
                                : mark_at_end(text, {kToolCallEnd});
    add_arguments(delta, text.substr(0, text.size() - held));
    pending_.erase(0, pending_.size() - held);
    return false;
  }
  std::string_view arguments = text.substr(0, end);
  if (fenced_ && arguments.ends_with(kToolFenceEnd)) arguments.remove_suffix(kToolFenceEnd.size());
  add_arguments(delta, arguments);
  if (end == std::string_view::npos) return false;
  pending_.erase(0, end + kToolCallEnd.size());
  state_ = State::kBetween;
  return true;
}

void ToolCallParser::begin_call(Delta& delta, std::string_view name) {
  if (++num_calls_ > max_calls_) return;
  delta.calls.push_back({num_calls_ - 1, std::string(name), {}});
}

void ToolCallParser::add_arguments(Delta& delta, std::string_view text) {
  if (text.empty() || num_calls_ > max_calls_) return;
  if (delta.calls.empty() || delta.calls.back().index != num_calls_ - 1) {
    delta.calls.push_back({num_calls_ - 1, {}, {}});
  }
  delta.calls.back().arguments += text;
}

}  // namespace deepflight
