// Cache files: a magic word, the hash of the binary, the binary. The name is the kernel, the hash
// of all that went in, and the compiler's version.
#include "compute/cuda/jit/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/files.h"
#include "base/log.h"
#include "compute/cuda/jit/compiler.h"

namespace deepflight {
namespace {

constexpr uint64_t kMaxBytes = 64 << 20;
constexpr std::string_view kMagic = "DFCUBIN1";

// Like FNV-1a, of words of eight bytes and from two starting points: 128 bits against accidents,
// not against an enemy, who could write the binary itself.
class Hash {
 public:
  void add(std::string_view text) {
    const uint64_t size = text.size();
    add_bytes(reinterpret_cast<const char*>(&size), sizeof size);
    add_bytes(text.data(), text.size());
  }
  std::string hex() const { return fmt::format("{:016x}{:016x}", a_, b_); }

 private:
  void add_bytes(const char* bytes, size_t count) {
    for (size_t i = 0; i < count; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + i, std::min(count - i, sizeof word));
      a_ = (a_ ^ word) * 0x100000001b3u;
      b_ = ((b_ << 5 | b_ >> 59) ^ word) * 0x9e3779b97f4a7c15u;
    }
  }

  uint64_t a_ = 0xcbf29ce484222325u;
  uint64_t b_ = 0x84222325cbf29ce4u;
};

std::string hash_of(std::string_view text) {
  Hash hash;
  hash.add(text);
  return hash.hex();
}

// Magic, hash of the binary, binary.
std::optional<std::string> read_entry(const std::filesystem::path& path) {
  auto file = read_file(path, kMaxBytes);
  if (!file.ok()) return std::nullopt;
  const std::string& text = file.value();
  constexpr size_t kHashSize = 32;
  if (text.size() <= kMagic.size() + kHashSize || !text.starts_with(kMagic)) return std::nullopt;
  std::string cubin = text.substr(kMagic.size() + kHashSize);
  if (hash_of(cubin) != text.substr(kMagic.size(), kHashSize)) return std::nullopt;
  return cubin;
}

}  // namespace

JitCache JitCache::of_environment() {
  const auto variable = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const auto own = variable("DEEPFLIGHT_CACHE_DIR"); !own.empty()) return JitCache(own);
  if (const auto xdg = variable("XDG_CACHE_HOME"); !xdg.empty())
    return JitCache(xdg / "deepflight");
  if (const auto home = variable("HOME"); !home.empty()) {
    return JitCache(home / ".cache" / "deepflight");
  }
  return JitCache("");
}

std::string JitCache::key(const JitSource& source) {
  Hash hash;
  hash.add(source.text);
  for (const JitHeader& header : source.headers) {
    hash.add(header.path);
    hash.add(header.text);
  }
  for (const std::string& option : jit_options()) hash.add(option);
  return source.name + "-" + hash.hex();
}

std::optional<std::string> JitCache::load(const std::string& key,
                                          const std::string& version) const {
  if (folder_.empty()) return std::nullopt;
  if (!version.empty()) return read_entry(folder_ / (key + "-" + version + ".cubin"));
  std::error_code error;
  std::optional<std::string> best;
  std::string best_name;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(key + "-") || !name.ends_with(".cubin") || name < best_name) continue;
    if (auto cubin = read_entry(entry.path())) {
      best = std::move(cubin);
      best_name = name;
    }
  }
  return best;
}

bool JitCache::store(const std::string& key, const std::string& version,
                     const std::string& cubin) const {
  if (folder_.empty()) return false;
  const std::string content = fmt::format("{}{}{}", kMagic, hash_of(cubin), cubin);
  const auto written = write_file(folder_ / (key + "-" + version + ".cubin"), content);
  if (!written.ok()) spdlog::warn("kernel cache: {}", written.error().message);
  return written.ok();
}

}  // namespace deepflight
