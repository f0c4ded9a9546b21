// A text file of the repository that CMake put into the program (df_embed_files in
// cmake/df_embed.cmake): pages that the server hands out, headers that kernels are compiled with.
#pragma once

#include <string_view>

namespace deepflight {

struct EmbeddedFile {
  std::string_view path;  // below src/
  std::string_view text;
};

}  // namespace deepflight
