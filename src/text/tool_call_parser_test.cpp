// The parser at every split point of its input, byte by byte and at random.
#include "text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace deepflight {
namespace {

struct Case {
  std::string text;
  std::string content;
  std::vector<ToolCallDelta> calls;
};

std::string call(const std::string& name, const std::string& arguments) {
  return std::string(kToolCallBegin) + name + std::string(kToolSeparator) + arguments +
         std::string(kToolCallEnd);
}
std::string fenced_call(const std::string& name, const std::string& arguments) {
  return call("function", name + "\n```json\n" + arguments + "\n```");
}
std::string calls(const std::string& inside) {
  return std::string(kToolCallsBegin) + inside + std::string(kToolCallsEnd);
}

std::vector<Case> cases() {
  const std::string begin(kToolCallsBegin);
  return {
      {"no call", "no call", {}},
      {"", "", {}},
      {" spaces \n", " spaces \n", {}},
      {"<｜tool▁call", "<｜tool▁call", {}},
      {"a < b and <｜tool x", "a < b and <｜tool x", {}},
      {calls(call("f", R"({"a": 1})")), "", {{0, "f", R"({"a": 1})"}}},
      {"I look.\n\n" + calls(call("f", "{}")), "I look.", {{0, "f", "{}"}}},
      {calls(call("f", "{}") + "\n" + call("g", "{\"x\": \"<｜tool▁call\"}")),
       "",
       {{0, "f", "{}"}, {1, "g", "{\"x\": \"<｜tool▁call\"}"}}},
      {calls(fenced_call("f", R"({"a": "```"})")), "", {{0, "f", R"({"a": "```"})"}}},
      {calls(fenced_call("f", "{\n  \"a\": 1\n}") + "\n" + fenced_call("g", "{}")),
       "",
       {{0, "f", "{\n  \"a\": 1\n}"}, {1, "g", "{}"}}},
      {calls(call("function", "f\n{\"no\": \"fence\"}")), "", {{0, "f", "{\"no\": \"fence\"}"}}},
      {call("f", "{}"), "", {{0, "f", "{}"}}},  // without the outer marks
      {calls(call("f", "{}")) + " and then", " and then", {{0, "f", "{}"}}},
      {calls(call("f", "")), "", {{0, "f", ""}}},
      // Cut off.
      {begin, "", {}},
      {begin + std::string(kToolCallBegin) + "half_a_na", "", {}},
      {begin + std::string(kToolCallBegin) + "f<｜tool▁sep｜>{\"a\": [1, 2",
       "",
       {{0, "f", "{\"a\": [1, 2"}}},
      {begin + std::string(kToolCallBegin) + "function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n``",
       "",
       {{0, "f", "{\"a\": 1}\n``"}}},
  };
}

void expect(const Case& wanted, const std::vector<std::string>& pieces) {
  ToolCallParser parser;
  std::string content;
  std::vector<ToolCallDelta> calls;
  const auto take = [&](const ToolCallParser::Delta& delta) {
    content += delta.content;
    for (const ToolCallDelta& piece : delta.calls) {
      if (static_cast<size_t>(piece.index) == calls.size()) {
        EXPECT_NE(piece.name, "");
        calls.push_back(piece);
      } else {
        ASSERT_EQ(static_cast<size_t>(piece.index) + 1, calls.size());
        EXPECT_EQ(piece.name, "");
        calls.back().arguments += piece.arguments;
      }
    }
  };
  for (const std::string& piece : pieces) take(parser.push(piece));
  take(parser.finish());
  EXPECT_EQ(content, wanted.content) << wanted.text;
  EXPECT_EQ(calls, wanted.calls) << wanted.text;
  EXPECT_EQ(parser.num_calls(), static_cast<int>(wanted.calls.size()));
}

TEST(ToolCallParser, EverySplit) {
  for (const Case& wanted : cases()) {
    SCOPED_TRACE(wanted.text);
    for (size_t at = 0; at <= wanted.text.size(); ++at) {
      expect(wanted, {wanted.text.substr(0, at), wanted.text.substr(at)});
    }
    std::vector<std::string> bytes;
    for (const char byte : wanted.text) bytes.emplace_back(1, byte);
    expect(wanted, bytes);
  }
}

TEST(ToolCallParser, RandomPieces) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    for (const Case& wanted : cases()) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < wanted.text.size();) {
        const size_t length = std::min<size_t>(1 + random() % 9, wanted.text.size() - at);
        pieces.push_back(wanted.text.substr(at, length));
        at += length;
      }
      expect(wanted, pieces);
    }
  }
}

TEST(ToolCallParser, ArgumentsComeAsTheyAreWritten) {
  ToolCallParser parser;
  parser.push(std::string(kToolCallsBegin) + std::string(kToolCallBegin) + "f<｜tool▁sep｜>");
  const auto delta = parser.push("{\"city\": \"Par");
  ASSERT_EQ(delta.calls.size(), 1u);
  EXPECT_EQ(delta.calls[0].arguments, "{\"city\": \"Par");
}

TEST(ToolCallParser, CallsPastTheLimitAreDropped) {
  ToolCallParser parser(1);
  const auto delta = parser.push(calls(call("f", "{}") + call("g", "{\"x\": 1}")));
  EXPECT_EQ(delta.calls, (std::vector<ToolCallDelta>{{0, "f", "{}"}}));
}

}  // namespace
}  // namespace deepflight
