// The seeds of a target under libFuzzer: written to the directory that DF_FUZZ_CORPUS names, which
// is then to be given as the corpus:
//
//   mkdir c; DF_FUZZ_CORPUS=c build/fuzz/tests/json_schema_fuzz -max_total_time=60 c
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

// Each fuzz source defines it.
std::vector<std::string> fuzz_seeds();

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  const char* directory = std::getenv("DF_FUZZ_CORPUS");
  if (directory == nullptr) return 0;
  int number = 0;
  for (const std::string& seed : fuzz_seeds()) {
    const std::string path = std::string(directory) + "/seed_" + std::to_string(number++);
    std::ofstream file(path, std::ios::binary);
    file << seed;
    if (!file.flush()) {
      std::fprintf(stderr, "%s: cannot be written\n", path.c_str());
      std::exit(2);
    }
  }
  return 0;
}
