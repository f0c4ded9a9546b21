// Masks over a vocabulary of R1's size: how long the first visit of a place takes, and the next.
#include <benchmark/benchmark.h>

#include <chrono>

#include "grammar/output_form.h"
#include "grammar/vocabulary_testing.h"

namespace deepflight {
namespace {

constexpr int32_t kVocabSize = 129280;

std::shared_ptr<const TokenVocabulary> vocabulary() {
  static const auto made = [] {
    const Tokenizer tokenizer = tokenizer_of(made_up_words(kVocabSize - 256 - 1, 1), {"<end>"});
    return TokenVocabulary::create(tokenizer, kVocabSize, {{kVocabSize - 1}}, {}).value();
  }();
  return made;
}

const char* const kSchemas[] = {
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,
        "maximum":150},"mail":{"type":"string","format":"email"},"tags":{"type":"array","items":
        {"type":"string","maxLength":20},"maxItems":5}},"required":["name","age","mail","tags"]})",
    R"({"type":"object"})",
    R"({"type":"string","pattern":"^[a-zA-Z ]+$"})",
};

void BM_BuildVocabulary(benchmark::State& state) {
  const Tokenizer tokenizer = tokenizer_of(made_up_words(kVocabSize - 256 - 1, 1), {"<end>"});
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        TokenVocabulary::create(tokenizer, kVocabSize, {{kVocabSize - 1}}, {}).value());
  }
}
BENCHMARK(BM_BuildVocabulary)->Unit(benchmark::kMillisecond);

void BM_Compile(benchmark::State& state) {
  OutputForm form;
  form.schema = nlohmann::ordered_json::parse(kSchemas[state.range(0)]);
  for (auto _ : state) {
    benchmark::DoNotOptimize(OutputFormCompiler(vocabulary()).compile(form).value());
  }
}
BENCHMARK(BM_Compile)->DenseRange(0, 2)->Unit(benchmark::kMicrosecond);

// One output written at random, token after token: masks of a grammar never used before (0) or one
// that has seen the same output (1).
void BM_Masks(benchmark::State& state) {
  OutputForm form;
  form.schema = nlohmann::ordered_json::parse(kSchemas[state.range(0)]);
  const bool is_warm = state.range(1) == 1;
  const auto made = OutputFormCompiler(vocabulary()).compile(form).value();
  int64_t num_masks = 0, sum_ns = 0, longest_ns = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const auto grammar = is_warm ? made : OutputFormCompiler(vocabulary()).compile(form).value();
    uint32_t seed = 1;
    auto position = grammar->start();
    state.ResumeTiming();
    for (int i = 0; i < 60; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const auto mask = grammar->mask(position);
      const int64_t ns = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
      longest_ns = std::max(longest_ns, ns);
      sum_ns += ns;
      ++num_masks;
      seed = seed * 1664525 + 1013904223;
      int32_t token = static_cast<int32_t>(seed >> 8) % kVocabSize;
      while (!allows_token(*mask, token)) token = (token + 1) % kVocabSize;
      grammar->accept(position, token);
      if (token == kVocabSize - 1) break;
    }
  }
  state.counters["us_a_mask"] = static_cast<double>(sum_ns) * 1e-3 / static_cast<double>(num_masks);
  state.counters["longest_us"] = static_cast<double>(longest_ns) * 1e-3;
}
BENCHMARK(BM_Masks)->ArgsProduct({{0, 1, 2}, {0, 1}})->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace deepflight
