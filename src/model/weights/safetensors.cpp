// Layout of a safetensors file: 8 bytes little-endian header length, the header (a JSON object from
// tensor name to {dtype, shape, data_offsets}, padded with spaces), then the data. The header is
// read by events rather than into a tree, so that duplicate names are seen and depth is bounded.
#include "model/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

namespace deepflight {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxShapeEntries = 16;
constexpr uint64_t kMaxTensorBytes = uint64_t{1} << 62;

// JSON events of the header -> SafetensorsHeader. The first problem stops the parser.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(std::string_view where) : where_(where) {}

  Result<SafetensorsHeader> finish() && {
    if (error_) return *std::move(error_);
    return std::move(header_);
  }
  bool failed() const { return error_.has_value(); }

  bool start_object(size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kRoot;
        return true;
      case State::kRootValue:
        if (root_key_ == "__metadata__") {
          state_ = State::kMetadata;
        } else {
          entry_ = SafetensorsEntry{.name = root_key_};
          has_dtype_ = has_shape_ = false;
          offsets_.clear();
          has_offsets_ = false;
          state_ = State::kTensor;
        }
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    switch (state_) {
      case State::kRoot:
        if (name.size() > kMaxNameBytes) {
          return fail("a tensor name of {} bytes, at most {}", name.size(), kMaxNameBytes);
        }
        // Errors are one line and quote names.
        if (printable(name) != name)
          return fail("'{}': control characters in a name", printable(name));
        if (!names_.insert(name).second) return fail("'{}' appears twice", name);
        root_key_ = name;
        state_ = State::kRootValue;
        return true;
      case State::kMetadata:
        metadata_key_ = name;
        state_ = State::kMetadataValue;
        return true;
      default:
        return tensor_key(name);
    }
  }

  bool end_object() override {
    switch (state_) {
      case State::kRoot:
        state_ = State::kEnd;
        return true;
      case State::kMetadata:
        state_ = State::kRoot;
        return true;
      default:
        state_ = State::kRoot;
        if (!has_dtype_) return fail("tensor '{}': no dtype", entry_.name);
        if (!has_shape_) return fail("tensor '{}': no shape", entry_.name);
        if (!has_offsets_) return fail("tensor '{}': no data_offsets", entry_.name);
        header_.entries.push_back(std::move(entry_));
        return true;
    }
  }

  bool start_array(size_t) override {
    if (state_ == State::kShapeValue) {
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kOffsetsValue) {
      state_ = State::kOffsets;
      return true;
    }
    return unexpected("an array");
  }

  bool end_array() override {
    if (state_ == State::kOffsets) {
      if (offsets_.size() != 2) {
        return fail("tensor '{}': data_offsets has {} entries, not 2", entry_.name,
                    offsets_.size());
      }
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
    }
    state_ = State::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (entry_.shape.size() == kMaxShapeEntries) {
        return fail("tensor '{}': more than {} dimensions", entry_.name, kMaxShapeEntries);
      }
      if (value > kMaxTensorBytes) {
        return fail("tensor '{}': dimension {} is too large", entry_.name, value);
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsets) {
      if (offsets_.size() == 2) {
        return fail("tensor '{}': data_offsets has more than 2 entries", entry_.name);
      }
      offsets_.push_back(value);
      return true;
    }
    return unexpected("a number");
  }

  bool number_integer(number_integer_t value) override {
    if (state_ == State::kShape || state_ == State::kOffsets) {
      return fail("tensor '{}': negative number {} in {}", entry_.name, value,
                  state_ == State::kShape ? "shape" : "data_offsets");
    }
    return unexpected("a number");
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadataValue) {
      header_.metadata.emplace_back(metadata_key_, value);
      state_ = State::kMetadata;
      return true;
    }
    if (state_ == State::kDTypeValue) {
      const auto dtype = parse_dtype(value);
      if (!dtype)
        return fail("tensor '{}': unknown dtype '{}'", entry_.name, printable(value.substr(0, 64)));
      entry_.dtype = *dtype;
      state_ = State::kTensor;
      return true;
    }
    return unexpected("a string");
  }

  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a fractional or too large number");
  }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool null() override { return unexpected("null"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail("header is not valid JSON near byte {}", position);
  }

 private:
  enum class State {
    kStart,
    kRoot,
    kRootValue,
    kMetadata,
    kMetadataValue,
    kTensor,
    kDTypeValue,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
    kEnd,
  };

  template <typename... Args>
  bool fail(fmt::format_string<Args...> format, Args&&... args) {
    if (!error_) {
      error_ = invalid_argument("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
    }
    return false;
  }

  bool unexpected(std::string_view what) {
    switch (state_) {
      case State::kStart:
        return fail("header is {}, not an object", what);
      case State::kMetadataValue:
        return fail("__metadata__ holds {}, not only strings", what);
      case State::kRootValue:
        return fail("'{}' is {}, not an object", root_key_, what);
      default:
        return fail("tensor '{}': {} where none belongs", entry_.name, what);
    }
  }

  bool tensor_key(const std::string& name) {
    bool* seen = nullptr;
    if (name == "dtype") {
      seen = &has_dtype_;
      state_ = State::kDTypeValue;
    } else if (name == "shape") {
      seen = &has_shape_;
      state_ = State::kShapeValue;
    } else if (name == "data_offsets") {
      seen = &has_offsets_;
      state_ = State::kOffsetsValue;
    } else {
      return fail("tensor '{}': unknown field '{}'", entry_.name, printable(name.substr(0, 64)));
    }
    if (*seen) return fail("tensor '{}': {} appears twice", entry_.name, name);
    *seen = true;
    return true;
  }

  static std::string printable(std::string text) {
    for (char& c : text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    return text;
  }

  const std::string_view where_;
  State state_ = State::kStart;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  std::string root_key_;
  std::string metadata_key_;
  SafetensorsEntry entry_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::vector<uint64_t> offsets_;
  std::optional<Error> error_;
};

// Bytes of dtype and shape, or nothing on overflow.
std::optional<uint64_t> num_bytes(const SafetensorsEntry& entry) {
  uint64_t count = static_cast<uint64_t>(dtype_bytes(entry.dtype));
  bool overflow = false;
  bool is_empty = false;
  for (const int64_t dimension : entry.shape) {
    // Zeros count as ones here: strides multiply the other dimensions of an empty tensor too.
    is_empty |= dimension == 0;
    const auto factor = static_cast<uint64_t>(std::max<int64_t>(dimension, 1));
    overflow |= __builtin_mul_overflow(count, factor, &count);
  }
  if (overflow || count > kMaxTensorBytes) return std::nullopt;
  return is_empty ? 0 : count;
}

// Every tensor's range fits its dtype and shape, and together they tile the data section.
Status check_ranges(std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                    std::string_view where) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t position = 0;
  for (const auto& entry : entries) {
    const auto expected_bytes = num_bytes(entry);
    if (!expected_bytes) {
      return invalid_argument("{}: tensor '{}': shape is too large", where, entry.name);
    }
    if (entry.begin > entry.end || entry.end > data_bytes) {
      return invalid_argument(
          "{}: tensor '{}': data_offsets [{}, {}] do not lie in the {} data "
          "bytes of the file",
          where, entry.name, entry.begin, entry.end, data_bytes);
    }
    if (entry.end - entry.begin != *expected_bytes) {
      return invalid_argument(
          "{}: tensor '{}': data_offsets span {} bytes, dtype and shape need "
          "{}",
          where, entry.name, entry.end - entry.begin, *expected_bytes);
    }
    if (entry.begin < position) {
      return invalid_argument("{}: tensor '{}': overlaps the tensor before it", where, entry.name);
    }
    if (entry.begin > position) {
      return invalid_argument("{}: tensor '{}': {} bytes before it belong to no tensor", where,
                              entry.name, entry.begin - position);
    }
    position = entry.end;
  }
  if (position != data_bytes) {
    return invalid_argument("{}: {} bytes at the end belong to no tensor", where,
                            data_bytes - position);
  }
  return ok_status();
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                   std::string_view where) {
  if (file.size() < kLengthBytes) {
    return invalid_argument("{}: {} bytes, too short for a safetensors header", where, file.size());
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  }
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return invalid_argument("{}: header of {} bytes, at most {} are allowed", where, header_bytes,
                            kMaxSafetensorsHeaderBytes);
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return invalid_argument("{}: header of {} bytes, the file has {} after its length", where,
                            header_bytes, file.size() - kLengthBytes);
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  if (header_bytes == 0 || text[0] != '{') {
    return invalid_argument("{}: header does not begin with '{{'", where);
  }
  HeaderReader reader(where);
  nlohmann::json::sax_parse(text, text + header_bytes, &reader);
  ASSIGN_OR_RETURN(SafetensorsHeader header, std::move(reader).finish());
  header.data_begin = kLengthBytes + header_bytes;
  RETURN_IF_ERROR(check_ranges(header.entries, file.size() - header.data_begin, where));
  return header;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(path));
  SafetensorsFile file(std::move(mapped));
  file.name_ = path.string();
  ASSIGN_OR_RETURN(file.header_, parse_safetensors_header(file.file_.bytes(), file.name_));
  file.index_.reserve(file.header_.entries.size());
  for (size_t i = 0; i < file.header_.entries.size(); ++i) {
    file.index_.emplace(file.header_.entries[i].name, i);
  }
  return file;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

Result<TensorView> SafetensorsFile::view(const SafetensorsEntry& entry) const {
  const auto* data = file_.bytes().data() + header_.data_begin + entry.begin;
  // A view is never written through (StoredTensor); TensorView has no const flavour.
  void* values = const_cast<std::byte*>(data);
  const auto& shape = entry.shape;
  switch (shape.size()) {
    case 0:
      return TensorView(values, entry.dtype, {1});
    case 1:
      return TensorView(values, entry.dtype, {shape[0]});
    case 2:
      return TensorView(values, entry.dtype, {shape[0], shape[1]});
    case 3:
      return TensorView(values, entry.dtype, {shape[0], shape[1], shape[2]});
    case 4:
      return TensorView(values, entry.dtype, {shape[0], shape[1], shape[2], shape[3]});
    default:
      return unsupported("{}: tensor '{}' has {} dimensions, up to {} are read", name_, entry.name,
                         shape.size(), kMaxRank);
  }
}

}  // namespace deepflight
