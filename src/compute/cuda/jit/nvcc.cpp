#include "compute/cuda/jit/nvcc.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <regex>
#include <vector>

#include "base/files.h"
#include "compute/cuda/runtime/device.h"

extern char** environ;  // NOLINT: POSIX's

namespace deepflight {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMaxBytes = 64 << 20;

// A folder that goes with the object.
class Workspace {
 public:
  Workspace() {
    std::string pattern = (fs::temp_directory_path() / "deepflight-nvcc-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      throw DeviceError(fmt::format("{}: {}", pattern, std::strerror(errno)));
    }
    folder_ = pattern;
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path path(std::string_view name) const { return folder_ / name; }
  void write(std::string_view name, std::string_view text) const {
    const Status written = write_file(path(name), text);
    if (!written.ok()) throw DeviceError(written.error().message);
  }
  std::string read(std::string_view name) const {
    const auto text = read_file(path(name), kMaxBytes);
    if (!text.ok()) throw DeviceError(text.error().message);
    return text.value();
  }

 private:
  fs::path folder_;
};

// Runs the program with both its outputs to `log`. Returns the exit status.
int run(const std::vector<std::string>& words, const fs::path& log) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int failed =
      posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    throw DeviceError(fmt::format("DEEPFLIGHT_NVCC={}: {}", words[0], std::strerror(failed)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

const std::string& wanted_nvcc() {
  static const std::string wanted = [] {
    const char* value = std::getenv("DEEPFLIGHT_NVCC");
    return std::string(value == nullptr ? "" : value);
  }();
  return wanted;
}

std::string nvcc_version(const std::string& nvcc) {
  const Workspace workspace;
  const int status = run({nvcc, "--version"}, workspace.path("log"));
  const std::string text = workspace.read("log");
  static const std::regex pattern("release [0-9.]+, V([0-9.]+)");
  std::smatch found;
  if (status != 0 || !std::regex_search(text, found, pattern)) {
    throw DeviceError(fmt::format("DEEPFLIGHT_NVCC={}: --version does not tell one", nvcc));
  }
  return "nvcc-" + found[1].str();
}

JitBinary nvcc_compile(const std::string& nvcc, const JitSource& source) {
  const Workspace workspace;
  for (const JitHeader& header : source.headers) {
    workspace.write("include/" + std::string(header.path), header.text);
  }
  workspace.write("kernel.cu", source.text);
  const int status =
      run({nvcc, "--cubin", "--gpu-architecture=" + std::string(kJitArchitecture), "--std=c++20",
           "--expt-relaxed-constexpr", "--ptxas-options=-v", "--ptxas-options=-O3",
           "--include-path", workspace.path("include").string(), "--output-file",
           workspace.path("cubin").string(), workspace.path("kernel.cu").string()},
          workspace.path("log"));
  JitBinary binary;
  binary.log = workspace.read("log");
  if (status != 0) {
    throw DeviceError(fmt::format("kernel {} does not compile: {} ended with {}\n{}", source.name,
                                  nvcc, status, binary.log));
  }
  binary.cubin = workspace.read("cubin");
  return binary;
}

}  // namespace deepflight
