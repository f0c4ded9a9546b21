// Splits generated text into content and calls of tools while it streams, in the forms that
// DeepSeek models write:
//
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>...<｜tool▁calls▁end｜>
//
// (V3.1), or with "function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```" in a call (V3, R1). Marks
// may arrive split at any byte; the joined deltas do not depend on how the text was cut. White
// space before the calls and between them belongs to nothing. ARGUMENTS are given out as they come
// and are not checked to be JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace deepflight {

inline constexpr std::string_view kToolCallsBegin = "<｜tool▁calls▁begin｜>";
inline constexpr std::string_view kToolCallsEnd = "<｜tool▁calls▁end｜>";
inline constexpr std::string_view kToolCallBegin = "<｜tool▁call▁begin｜>";
inline constexpr std::string_view kToolCallEnd = "<｜tool▁call▁end｜>";
inline constexpr std::string_view kToolSeparator = "<｜tool▁sep｜>";
inline constexpr std::string_view kToolTypeFunction = "function";  // V3 writes it before the name
inline constexpr std::string_view kToolFenceBegin = "```json\n";
inline constexpr std::string_view kToolFenceEnd = "\n```";

// A piece of a call. The name comes whole with the call's first piece and is empty afterwards.
struct ToolCallDelta {
  int index = 0;
  std::string name;
  std::string arguments;
  friend bool operator==(const ToolCallDelta&, const ToolCallDelta&) = default;
};

class ToolCallParser {
 public:
  struct Delta {
    std::string content;
    std::vector<ToolCallDelta> calls;
  };

  static constexpr int kAnyNumber = 1 << 20;

  // Calls past `max_calls` are dropped.
  explicit ToolCallParser(int max_calls = kAnyNumber) : max_calls_(max_calls) {}

  Delta push(std::string_view text);
  // Gives out what was held back in case it were a mark; of a call that is not whole, what there is
  // of its arguments. No push may follow.
  Delta finish();

  int num_calls() const { return num_calls_; }

 private:
  enum class State { kContent, kBetween, kHead, kName, kFence, kArguments };

  bool run(Delta& delta, bool is_end);
  bool run_content(Delta& delta, bool is_end);
  bool run_between();
  bool run_head(Delta& delta);
  bool run_name(Delta& delta);
  bool run_fence(bool is_end);
  bool run_arguments(Delta& delta, bool is_end);
  void begin_call(Delta& delta, std::string_view name);
  void add_arguments(Delta& delta, std::string_view text);

  const int max_calls_;
  State state_ = State::kContent;
  bool fenced_ = false;
  int num_calls_ = 0;  // begun
  std::string pending_;
};

}  // namespace deepflight
