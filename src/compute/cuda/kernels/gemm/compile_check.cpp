// Compiles every kernel that choose() can return for the shapes of R1 and of small models, as the
// serving process would, and fails on spills, on descriptors in threads' registers and on global
// variables (config.h). Needs NVRTC and no GPU. Also leaves the binaries in the kernel cache, if
// told to (--fill), or compiles all that choose() weighs (--all).
#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <regex>
#include <string_view>

#include "base/check.h"
#include "base/thread_pool.h"
#include "compute/cuda/jit/cache.h"
#include "compute/cuda/jit/compiler.h"
#include "compute/cuda/kernels/gemm/choose.h"
#include "compute/cuda/kernels/gemm/source.h"

namespace deepflight::gemm_fp8 {
namespace {

std::vector<Config> chosen_configs() {
  std::vector<Config> configs;
  const auto add_all = [&](int64_t n, int64_t k, int num_groups, int64_t max_m) {
    for (const bool batch_invariant : {false, true}) {
      for (const int64_t m : row_steps(max_m)) {
        for (const bool swiglu : {false, true}) {
          if (swiglu && n % 256 != 0) continue;
          const Config config =
              choose({m, n, k, num_groups, false, swiglu, batch_invariant}, {132});
          if (std::find(configs.begin(), configs.end(), config) == configs.end()) {
            configs.push_back(config);
          }
        }
      }
    }
  };
  const int64_t dense[][2] = {{2112, 7168}, {24576, 1536}, {32768, 512},  {7168, 16384},
                              {4096, 7168}, {7168, 2048},  {36864, 7168}, {7168, 18432},
                              {576, 2048},  {24, 128}};
  for (const auto& [n, k] : dense) add_all(n, k, 0, 16384);
  for (const int groups : {256, 64, 32, 16}) {
    add_all(4096, 7168, groups, 65536);
    add_all(7168, 2048, groups, 65536);
  }
  return configs;
}

// "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", or another count.
bool spills(const std::string& log) {
  static const std::regex pattern("([0-9]+) bytes (stack frame|spill stores|spill loads)");
  for (std::sregex_iterator i(log.begin(), log.end(), pattern), end; i != end; ++i) {
    if ((*i)[1] != "0") return true;
  }
  return log.find("spill stores") == std::string::npos;
}

// Instructions in a kernel that move a thread's register to a warp's (R2UR, as sm_90a encodes it).
int count_r2ur(const std::string& cubin) {
  constexpr uint64_t kOpcodeMask = 0xfff, kR2ur = 0x2ca;
  constexpr size_t kInstructionBytes = 16;
  Elf64_Ehdr header;
  CHECK(cubin.size() >= sizeof(header), cubin.size());
  std::memcpy(&header, cubin.data(), sizeof(header));
  int count = 0;
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    CHECK(cubin.size() >= header.e_shoff + (i + 1) * sizeof(section), cubin.size(), header.e_shoff);
    std::memcpy(&section, cubin.data() + header.e_shoff + i * sizeof(section), sizeof(section));
    if ((section.sh_flags & SHF_EXECINSTR) == 0) continue;
    for (size_t at = 0; at < section.sh_size; at += kInstructionBytes) {
      uint64_t instruction;
      std::memcpy(&instruction, cubin.data() + section.sh_offset + at, sizeof(instruction));
      count += (instruction & kOpcodeMask) == kR2ur;
    }
  }
  return count;
}

// Where the compiler takes the place in the ring for a thread's own, it derives the descriptors of
// every product in threads' registers and moves them, which costs up to 6%: 16 more of those a
// product, 75 to 210 in a kernel. Kernels without have 10 to 33.
constexpr int kMostR2ur = 50;

// All that is weighed, for tuning: with few and with many rows.
std::vector<Config> candidate_configs() {
  std::vector<Config> configs;
  for (const int64_t m : {64, 320}) {
    for (const int groups : {0, 32}) {
      for (const bool swiglu : {false, true}) {
        for (const Config& config :
             candidates({m * std::max(groups, 1), 4096, 7168, groups, false, swiglu})) {
          if (std::find(configs.begin(), configs.end(), config) == configs.end()) {
            configs.push_back(config);
          }
        }
      }
    }
  }
  return configs;
}

int check_all(bool fill, bool all) {
  const std::vector<Config> configs = all ? candidate_configs() : chosen_configs();
  std::mutex mutex;
  int failures = 0;
  ThreadPool pool(0);
  pool.parallel_for(static_cast<int64_t>(configs.size()), [&](int64_t i) {
    const JitSource source = source_of(configs[i]);
    const std::string key = JitCache::key(source);
    const JitCache cache = JitCache::of_environment();
    if (fill && cache.load(key, jit_compiler_version())) return;
    const JitBinary binary = jit_compile(source);
    const int r2ur = count_r2ur(binary.cubin);
    const bool bad = spills(binary.log) || binary.log.find("C75") != std::string::npos ||
                     r2ur == 0 || r2ur > kMostR2ur ||  // none: the encoding has changed
                     binary.cubin.find(".nv.global") != std::string::npos;  // see config.h
    if (fill) cache.store(key, jit_compiler_version(), binary.cubin);
    std::lock_guard lock(mutex);
    static const std::regex registers("Used ([0-9]+) registers");
    std::smatch found;
    const bool known = std::regex_search(binary.log, found, registers);
    fmt::print("{:<40} {:>4} registers, {} bytes shared, {} R2UR{}\n", to_string(configs[i]),
               known ? found[1].str() : "?", configs[i].shared_bytes(), r2ur,
               bad ? "  FAILED" : "");
    if (bad) fmt::print("{}\n", binary.log);
    failures += bad;
  });
  fmt::print("{} kernels, {} that spill, are warned of, move too much or have global variables\n",
             configs.size(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace deepflight::gemm_fp8

int main(int argc, char** argv) {
  const std::string_view option = argc > 1 ? argv[1] : "";
  return deepflight::gemm_fp8::check_all(option == "--fill", option == "--all");
}
