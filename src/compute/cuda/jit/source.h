// What is compiled at run time: a text and the headers that it includes, all in memory. Plain data.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace deepflight {

struct JitHeader {
  std::string_view path;  // as #include has it
  std::string_view text;
};

// One translation unit with one kernel, `extern "C"` and called `name`. The name also begins the
// name of the file in the cache.
struct JitSource {
  std::string name;
  std::string text;
  std::span<const JitHeader> headers;
};

}  // namespace deepflight
