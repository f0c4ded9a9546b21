// What is compiled at run time: a text and the headers that it includes, all in memory. Plain data.
#pragma once

#include <span>
#include <string>

#include "base/embedded_file.h"

namespace deepflight {

using JitHeader = EmbeddedFile;  // its path as #include has it

// One translation unit with one kernel, `extern "C"` and called `name`. The name also begins the
// name of the file in the cache.
struct JitSource {
  std::string name;
  std::string text;
  std::span<const JitHeader> headers;
};

}  // namespace deepflight
