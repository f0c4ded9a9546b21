// Any text in any pieces: the joined deltas are those of the whole text.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/tool_call_parser.h"

std::vector<std::string> fuzz_seeds() {
  return {
      "\x03ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜>",
      "\x01<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
      "1}\n```<｜tool▁call▁end｜> x",
      "\x07plain <｜tool"};
}

namespace {

std::string joined(std::string_view text, size_t piece) {
  deepflight::ToolCallParser parser;
  std::string content, calls;
  int last = -1;
  const auto take = [&](const deepflight::ToolCallParser::Delta& delta) {
    content += delta.content;
    for (const auto& call : delta.calls) {
      CHECK(call.index == last || call.index == last + 1, call.index, last);
      if (call.index != last) calls += "\n" + call.name + ":";
      last = call.index;
      calls += call.arguments;
    }
  };
  for (size_t at = 0; at < text.size(); at += piece) take(parser.push(text.substr(at, piece)));
  take(parser.finish());
  return content + calls;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  CHECK(joined(text, std::max<size_t>(1, data[0] % 16)) == joined(text, std::max<size_t>(1, size)));
  return 0;
}
