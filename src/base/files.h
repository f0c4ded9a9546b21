// Files: read-only memory maps, bounded reads, whole writes and JSON, with errors that name the
// file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace deepflight {

// A whole file mapped read-only; unmapped when the last owner goes. Movable.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }

 private:
  MappedFile() = default;

  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

// Reads a file of at most max_bytes.
Result<std::string> read_file(const std::filesystem::path& path, uint64_t max_bytes);

// Writes a file by way of a temporary one beside it, making its folder: readers and a crash see
// the old content or the new, and nothing is left behind on failure.
Status write_file(const std::filesystem::path& path, std::string_view content);

// Parses JSON with a bound on nesting (deep nesting would overflow the parser's stack). `where`
// begins the error message.
Result<nlohmann::json> parse_json(std::string_view text, std::string_view where,
                                  int max_depth = 64);

Result<nlohmann::json> read_json_file(const std::filesystem::path& path, uint64_t max_bytes);

}  // namespace deepflight
