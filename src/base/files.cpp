// Reading foreign files: sizes are bounded before memory is taken.
#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

namespace deepflight {
namespace {

Error io_error(const std::filesystem::path& path, int error_number) {
  const auto code = error_number == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  return make_error(code, "{}: {}", path.string(), std::strerror(error_number));
}

Error not_a_file(const std::filesystem::path& path) {
  return make_error(ErrorCode::kIo, "{}: not a regular file", path.string());
}

// True if brackets nest deeper than max_depth outside strings. Runs before the parser, which
// recurses once a level.
bool nests_deeper(std::string_view text, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// What the parser says without its own tag: it quotes the input, of which a line has no room for
// all and no place for what cannot be printed.
std::string json_complaint(std::string_view text) {
  constexpr size_t kMaxBytes = 200;
  const size_t tag_end = text.find("] ");
  if (text.starts_with('[') && tag_end != std::string_view::npos) text.remove_prefix(tag_end + 2);
  std::string shown(text.substr(0, kMaxBytes));
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text.size() > kMaxBytes ? shown + "..." : shown;
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // Not to wait for a pipe's other end.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return io_error(path, errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int error_number = errno;
    ::close(fd);
    return io_error(path, error_number);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return not_a_file(path);
  }
  MappedFile file;
  file.size_bytes_ = static_cast<size_t>(info.st_size);
  if (file.size_bytes_ > 0) {
    void* data = ::mmap(nullptr, file.size_bytes_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int error_number = errno;
      ::close(fd);
      return io_error(path, error_number);
    }
    file.data_ = static_cast<const std::byte*>(data);
  }
  ::close(fd);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

Result<std::string> read_file(const std::filesystem::path& path, uint64_t max_bytes) {
  std::error_code unknown;
  const auto status = std::filesystem::status(path, unknown);
  // Opening a pipe would wait, a device may have no end; what is not there is told by the opening.
  if (exists(status) && !is_regular_file(status)) return not_a_file(path);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return io_error(path, errno != 0 ? errno : ENOENT);
  std::error_code failure;
  const uint64_t size = std::filesystem::file_size(path, failure);
  if (failure) return make_error(ErrorCode::kIo, "{}: {}", path.string(), failure.message());
  if (size > max_bytes) {
    return make_error(ErrorCode::kTooLarge, "{}: {} bytes, at most {} are read", path.string(),
                      size, max_bytes);
  }
  std::string text(size, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(size));
  if (static_cast<uint64_t>(stream.gcount()) != size) {
    return make_error(ErrorCode::kIo, "{}: short read", path.string());
  }
  return text;
}

Status write_file(const std::filesystem::path& path, std::string_view content) {
  static std::atomic<int> counter{0};  // tells threads apart, the process id processes
  std::error_code failure;
  std::filesystem::create_directories(path.parent_path(), failure);
  const std::filesystem::path temporary =
      path.string() + fmt::format(".{}.{}.tmp", getpid(), counter++);
  std::ofstream stream(temporary, std::ios::binary);
  stream << content;
  stream.close();
  std::error_code failed_rename;
  if (stream) std::filesystem::rename(temporary, path, failed_rename);
  if (stream && !failed_rename) return ok_status();
  std::filesystem::remove(temporary, failure);
  return make_error(ErrorCode::kIo, "{}: cannot be written", path.string());
}

Result<nlohmann::json> parse_json(std::string_view text, std::string_view where, int max_depth) {
  if (nests_deeper(text, max_depth)) {
    return invalid_argument("{}: JSON nested deeper than {} levels", where, max_depth);
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    return invalid_argument("{}: not valid JSON: {}", where, json_complaint(error.what()));
  }
}

Result<nlohmann::json> read_json_file(const std::filesystem::path& path, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, max_bytes));
  return parse_json(text, path.string());
}

}  // namespace deepflight
