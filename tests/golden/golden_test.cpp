// The forward pass against transformers: logits of every position by both attention roads, and
// greedy continuations through the whole engine, over the fixtures beside this file.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "compute/cpu/cpu_backend.h"
#include "golden_testing.h"
#include "runtime/engine/engine.h"

namespace deepflight {
namespace {

constexpr double kF32Tolerance = 1e-4;
// What rounding every product's input to e4m3 (relative step 2^-4) may do to the logits of a
// typical position. Single positions go further: the rounding also moves routing decisions.
constexpr double kFp8Tolerance = 0.1;
class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  void load(bool fp8_activations) {
    backend_ = std::make_unique<CpuBackend>(CpuBackendConfig{2, fp8_activations});
    weights_ = fixture_.load_weights(*backend_);
  }

  std::vector<float> all_logits(const std::vector<int32_t>& tokens, int64_t chunk, bool absorbed) {
    return fixture_.all_logits(*backend_, weights_, KvFormat::kF32, tokens, chunk, absorbed);
  }

  const GoldenFixture fixture_{GetParam()};
  const DeepseekConfig& config_ = fixture_.config();
  const std::vector<Golden>& goldens_ = fixture_.goldens();
  std::unique_ptr<CpuBackend> backend_;
  ModelWeights weights_;
};

TEST_P(GoldenTest, LogitsOfEveryPosition) {
  load(/*fp8_activations=*/false);
  for (const auto& golden : goldens_) {
    const auto num_tokens = static_cast<int64_t>(golden.token_ids.size());
    const auto expanded = all_logits(golden.token_ids, num_tokens, false);
    EXPECT_LT(relative_error(expanded.data(), golden.logits), kF32Tolerance) << num_tokens;
    const auto absorbed = all_logits(golden.token_ids, num_tokens, true);
    EXPECT_LT(relative_error(absorbed.data(), golden.logits), kF32Tolerance) << num_tokens;
    // Chunking changes no bit.
    for (const int64_t chunk : {1, 7, 64, 100}) {
      EXPECT_EQ(all_logits(golden.token_ids, chunk, false), expanded) << chunk;
      EXPECT_EQ(all_logits(golden.token_ids, chunk, true), absorbed) << chunk;
    }
  }
}

TEST_P(GoldenTest, Fp8ActivationsStayWithinTheirFormat) {
  load(/*fp8_activations=*/true);
  if (!fixture_.is_fp8()) {
    // Nothing is quantised: the switch must change nothing.
    const auto& golden = goldens_.back();
    const auto logits =
        all_logits(golden.token_ids, static_cast<int64_t>(golden.token_ids.size()), false);
    EXPECT_LT(relative_error(logits.data(), golden.logits), kF32Tolerance);
    return;
  }
  for (const auto& golden : goldens_) {
    const auto num_tokens = static_cast<int64_t>(golden.token_ids.size());
    const auto logits = all_logits(golden.token_ids, num_tokens, false);
    const double error = median_row_error(logits, golden.logits, config_.vocab_size);
    EXPECT_LT(error, kFp8Tolerance);
    EXPECT_GT(error, kF32Tolerance) << "activations were not quantised";
    EXPECT_EQ(all_logits(golden.token_ids, 7, false), logits);
  }
}

// Greedy continuations of all prompts at once through scheduler, executor and engine.
TEST_P(GoldenTest, GreedyContinuationsThroughTheEngine) {
  load(/*fp8_activations=*/false);
  for (const int chunk : {16, 64, 512}) {
    EngineConfig config;
    config.model = {"golden", static_cast<int32_t>(config_.vocab_size), kMaxPositions};
    config.scheduler.max_num_slots = 8;
    config.scheduler.num_pages = 40;
    config.scheduler.max_model_len = kMaxPositions;
    config.scheduler.max_chunk_tokens = chunk;
    config.scheduler.max_batched_tokens = std::max(chunk, 32);
    ExecutorConfig executor_config;
    executor_config.num_pages = config.scheduler.num_pages;
    executor_config.max_num_slots = config.scheduler.max_num_slots;
    executor_config.max_batched_tokens = config.scheduler.max_batched_tokens;
    executor_config.max_pages_per_slot = config.scheduler.max_pages_per_slot();
    Executor executor(executor_config, config_, weights_, *backend_);
    Engine engine(config, executor, nullptr);
    std::mutex mutex;
    std::vector<std::vector<int32_t>> outputs(goldens_.size());
    for (size_t i = 0; i < goldens_.size(); ++i) {
      GenerationRequest request;
      request.request_id = std::to_string(i);
      request.prompt_token_ids = goldens_[i].token_ids;
      request.sampling.temperature = 0.0f;
      request.sampling.max_tokens = static_cast<int>(goldens_[i].greedy_ids.size());
      request.sampling.ignore_eos = true;
      const Status status = engine.submit(request, [&, i](GenerationEvent event) {
        std::lock_guard lock(mutex);
        outputs[i].insert(outputs[i].end(), event.token_ids.begin(), event.token_ids.end());
      });
      ASSERT_TRUE(status.ok()) << status.error().message;
    }
    ASSERT_TRUE(engine.wait_until_idle(60'000'000));
    for (size_t i = 0; i < goldens_.size(); ++i) {
      EXPECT_EQ(outputs[i], goldens_[i].greedy_ids) << "prompt " << i << " chunk " << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenTest, testing::ValuesIn(golden_fixture_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace deepflight
