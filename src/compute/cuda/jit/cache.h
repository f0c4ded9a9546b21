// Compiled kernels on disk: $DEEPFLIGHT_CACHE_DIR, else $XDG_CACHE_HOME/deepflight, else
// ~/.cache/deepflight. A file is written under another name and renamed, so that processes may
// share a folder; one that is damaged counts as missing. A folder that cannot be written costs time
// only.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "compute/cuda/jit/source.h"

namespace deepflight {

class JitCache {
 public:
  explicit JitCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
  // As the environment says.
  static JitCache of_environment();

  // Of everything that goes into the binary but the compiler's version.
  static std::string key(const JitSource& source);

  // With no version, the binary of any compiler will do (the newest).
  std::optional<std::string> load(const std::string& key, const std::string& version) const;
  // False if the folder does not take it.
  bool store(const std::string& key, const std::string& version, const std::string& cubin) const;

  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace deepflight
