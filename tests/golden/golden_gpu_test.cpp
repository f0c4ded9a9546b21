// The goldens on the GPU: logits of every position by both attention roads, against transformers'
// and against the CPU backend that rounds its activations the same way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "compute/cpu/cpu_backend.h"
#include "compute/cuda/cuda_backend.h"
#include "golden_testing.h"

namespace deepflight {
namespace {

// Each of about eight roundings to BF16 a layer (relative step 2^-9) moves a row on its way; they
// add up like a random walk.
double bf16_tolerance(const DeepseekConfig& config) {
  return 3 * std::exp2(-9) * std::sqrt(8.0 * static_cast<double>(config.num_layers));
}
// A rounding to e4m3 is off by 2^-3 / sqrt(12) of the value at most (root mean square). A BF16 step
// before it flips some codes, those flips more in the next product, so that soon both sides round
// independently of each other: sqrt(2) of that a layer.
double fp8_tolerance(const DeepseekConfig& config) {
  return std::exp2(-3) / std::sqrt(12.0) * std::sqrt(2.0 * static_cast<double>(config.num_layers));
}

class GoldenGpuTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenGpuTest, LogitsOfEveryPosition) {
  const GoldenFixture fixture(GetParam());
  const auto cuda = CudaBackend::create({}).value();
  CpuBackend cpu({.num_threads = 8, .fp8_activations = true});
  const ModelWeights cuda_weights = fixture.load_weights(*cuda);
  const ModelWeights cpu_weights = fixture.load_weights(cpu);
  for (const auto& golden : fixture.goldens()) {
    const auto num_tokens = static_cast<int64_t>(golden.token_ids.size());
    const auto on_cpu =
        fixture.all_logits(cpu, cpu_weights, KvFormat::kF32, golden.token_ids, num_tokens, false);
    const int64_t vocab_size = fixture.config().vocab_size;
    for (const bool absorbed : {false, true}) {
      for (const int64_t chunk : {num_tokens, int64_t{7}}) {
        SCOPED_TRACE(testing::Message() << num_tokens << " tokens, chunks of " << chunk
                                        << (absorbed ? ", absorbed" : ", expanded"));
        const auto logits = fixture.all_logits(*cuda, cuda_weights, KvFormat::kBF16,
                                               golden.token_ids, chunk, absorbed);
        const double tolerance =
            fixture.is_fp8() ? fp8_tolerance(fixture.config()) : bf16_tolerance(fixture.config());
        const double from_golden = median_row_error(logits, golden.logits, vocab_size);
        const double from_cpu = median_row_error(logits, on_cpu, vocab_size);
        EXPECT_LT(from_golden, tolerance);
        EXPECT_LT(from_cpu, tolerance);
        RecordProperty("from_golden", std::to_string(from_golden));
        RecordProperty("from_cpu", std::to_string(from_cpu));
        std::printf("%-20s from transformers %.4f, from the CPU backend %.4f, tolerance %.4f\n",
                    GetParam().c_str(), from_golden, from_cpu, tolerance);
      }
    }
  }
}

// With batch-invariant kernels logits have the same bits in chunks of any size: as many query
// tokens in a step (absorbed), or as little of the prompt (expanded), as it may be.
void expect_same_bits_in_any_chunks(const ModelFixture& fixture,
                                    const std::vector<int32_t>& token_ids) {
  CudaBackendConfig config;
  config.batch_invariant = true;
  const auto cuda = CudaBackend::create(config).value();
  const ModelWeights weights = fixture.load_weights(*cuda);
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  for (const bool absorbed : {false, true}) {
    const auto whole =
        fixture.all_logits(*cuda, weights, KvFormat::kBF16, token_ids, num_tokens, absorbed);
    for (const int64_t chunk : {1, 2, 4, 7, 64, 100}) {
      EXPECT_EQ(fixture.all_logits(*cuda, weights, KvFormat::kBF16, token_ids, chunk, absorbed),
                whole)
          << num_tokens << " tokens, chunks of " << chunk << (absorbed ? ", absorbed" : "");
    }
  }
}

TEST_P(GoldenGpuTest, BatchInvariantLogits) {
  const GoldenFixture fixture(GetParam());
  for (const auto& golden : fixture.goldens()) {
    expect_same_bits_in_any_chunks(fixture, golden.token_ids);
  }
}

TEST(TinyR1GpuTest, BatchInvariantLogits) {
  const ModelFixture fixture("models/tiny-r1");
  std::vector<int32_t> token_ids;
  for (int32_t i = 0; i < 230; ++i) token_ids.push_back((i * 7919 + 13) % 1152);
  expect_same_bits_in_any_chunks(fixture, token_ids);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenGpuTest, testing::ValuesIn(golden_fixture_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace deepflight
