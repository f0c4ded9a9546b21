// Any text in the place of a tuned table: refused with one line, or its choices are candidates.
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "compute/cuda/kernels/gemm/tuned.h"

namespace {
const deepflight::gemm_fp8::TunedFor kHere{"NVIDIA H200", 13000, "abc"};
}

std::vector<std::string> fuzz_seeds() {
  using namespace deepflight::gemm_fp8;  // NOLINT: this kernel's own
  TunedTable table;
  for (const Shape& shape :
       {Shape{8, 2112, 7168}, {4096, 7168, 2048, 0, true}, {64, 128, 128, 4}}) {
    table.set(shape, choose(shape, {}), 2.5);
  }
  return {table.text(kHere)};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deepflight::gemm_fp8;  // NOLINT: this kernel's own
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto table = TunedTable::parse(text, kHere, "fuzz");
  if (!table.ok()) {
    CHECK(table.error().message.find('\n') == std::string::npos, table.error().message);
    return 0;
  }
  const auto again = TunedTable::parse(table->text(kHere), kHere, "fuzz");
  CHECK(again.ok() && again->text(kHere) == table->text(kHere));
  return 0;
}
