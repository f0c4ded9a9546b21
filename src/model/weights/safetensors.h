// One safetensors file, memory-mapped. The header is validated completely before anything is handed
// out: a view never reaches outside the file, whoever wrote it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/result.h"
#include "tensor/tensor_view.h"

namespace deepflight {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own cap

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the data section
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by position in the file
  std::vector<std::pair<std::string, std::string>> metadata;
  uint64_t data_begin = 0;  // bytes from the start of the file
};

// Checks a whole file's structure given its bytes; only the header is read. `where` begins errors.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                   std::string_view where);

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  const std::string& name() const { return name_; }  // the path as given
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const {
    return header_.metadata;
  }
  const SafetensorsEntry* find(std::string_view name) const;

  // The entry's values in the mapped file: valid while this object (or a move of it) lives. Values
  // may lie at any address, aligned or not. A scalar is a vector of one. An error if the rank is
  // above kMaxRank.
  Result<TensorView> view(const SafetensorsEntry& entry) const;

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}

  std::string name_;
  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, size_t> index_;  // keys point into header_.entries
};

}  // namespace deepflight
