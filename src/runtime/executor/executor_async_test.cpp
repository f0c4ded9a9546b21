// The executor over a device that does everything as late as it may: captured decode steps and
// their padding, staging, deltas in rounds, failures told at the end, the memory plan.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/executor/executor_fixture_testing.h"
#include "runtime/executor/plan_testing.h"

namespace deepflight {
namespace {

using Plan = TestPlan;

ExecutorConfig graph_config(std::vector<int32_t> sizes = {1, 2, 8}) {
  ExecutorConfig config = small_executor_config();
  config.decode_batch_sizes = std::move(sizes);
  return config;
}

class ExecutorAsyncTest : public DeferredExecutorTest {
 protected:
  // Three sequences, prefilled, then `num_steps` decode steps two in flight.
  static std::vector<Tokens> three_sequences(Executor& executor, int num_steps, int padded,
                                             const std::shared_ptr<SamplingParams>& sampling) {
    std::vector<Tokens> outputs(4);
    const auto keep = [&](const StepResult& result) {
      for (const auto& row : result.rows) outputs[row.slot].push_back(row.tokens.at(0));
    };
    keep(run(executor, Plan()
                           .admit(0, numbered_prompt(60, 1), {3, 4}, sampling)
                           .admit(2, numbered_prompt(70, 2), {0, 9}, sampling)
                           .admit(3, numbered_prompt(5, 3), {7}, sampling)
                           .prefill(0, 0, 60)
                           .prefill(2, 0, 70)
                           .prefill(3, 0, 5)));
    const auto decode = [&] {
      executor.launch(Plan().decode(3).decode(0).decode(2).padded(padded));
    };
    decode();
    for (int i = 1; i < num_steps; ++i) {
      decode();
      keep(executor.collect());
    }
    keep(executor.collect());
    return outputs;
  }
  static std::shared_ptr<SamplingParams> drawn() {
    auto sampling = std::make_shared<SamplingParams>();
    sampling->temperature = 1.2f;
    sampling->frequency_penalty = 0.4f;
    return sampling;
  }
};

TEST_F(ExecutorAsyncTest, CapturedStepsGiveTheSameTokens) {
  for (const auto& sampling : {greedy(), drawn()}) {
    Executor plain(small_executor_config(), model_->config, model_->weights, model_->backend);
    const auto want = three_sequences(plain, 30, 3, sampling);
    EXPECT_EQ(plain.stats().num_graph_steps, 0);
    for (const int padded : {3, 4, 8}) {
      Executor closures(graph_config({3, 4, 8}), model_->config, model_->weights, model_->backend);
      EXPECT_EQ(three_sequences(closures, 30, padded, sampling), want) << padded;
      EXPECT_EQ(closures.stats().num_graph_steps, 30);
      const auto captured = make(graph_config({3, 4, 8}));
      EXPECT_EQ(three_sequences(*captured, 30, padded, sampling), want) << padded;
      EXPECT_EQ(captured->stats().num_graph_steps, 30);
      EXPECT_EQ(captured->stats().num_steps, 31);
    }
    EXPECT_EQ(three_sequences(*make(small_executor_config()), 30, 0, sampling),
              want);  // eager, deferred
  }
}

// A size that was not captured, or a chunk beside the rows: the plan runs as it is.
TEST_F(ExecutorAsyncTest, OtherStepsRunEagerly) {
  const auto executor = make(graph_config());
  EXPECT_EQ(device_.num_captures, 3);
  run(*executor, Plan()
                     .admit(0, numbered_prompt(10, 1), {3})
                     .admit(1, numbered_prompt(100, 2), {4, 5})
                     .prefill(0, 0, 10)
                     .prefill(1, 0, 50, false));
  run(*executor, Plan().decode(0).padded(3));
  run(*executor, Plan().decode(0).prefill(1, 50, 20, false).padded(1));
  EXPECT_EQ(run(*executor, Plan().prefill(1, 70, 5, false)).rows.size(), 0u);
  EXPECT_EQ(executor->stats().num_graph_steps, 0);
  run(*executor, Plan().decode(0).padded(1));
  EXPECT_EQ(executor->stats().num_graph_steps, 1);
  EXPECT_EQ(executor->stats().num_steps, 5);
  // A plan whose rows do not fit its own size runs as it is, too.
  run(*executor, Plan().prefill(1, 75, 25));
  EXPECT_EQ(run(*executor, Plan().decode(0).decode(1).padded(1)).rows.size(), 2u);
  EXPECT_EQ(executor->stats().num_graph_steps, 1);
}

TEST_F(ExecutorAsyncTest, PaddingLeavesNoTrace) {
  const auto executor = make(graph_config());
  run(*executor, Plan()
                     .admit(0, numbered_prompt(10, 1), {3})
                     .admit(1, numbered_prompt(12, 2), {0})
                     .prefill(0, 0, 10)
                     .prefill(1, 0, 12));
  // All of the pool but slot 0's tokens becomes NaN.
  const KvPool pool = device_.last_pool;
  const auto num_floats = pool.size_bytes() / 4;
  auto* values = static_cast<float*>(pool.base);
  const int64_t page_floats = pool.page_stride_bytes() / 4;
  const auto is_written = [&](int64_t i, int64_t kv_len) {
    return i / page_floats == 3 && i % (kPageTokens * pool.token_dim) < kv_len * pool.token_dim;
  };
  for (int64_t i = 0; i < num_floats; ++i) {
    if (!is_written(i, 10)) values[i] = std::numeric_limits<float>::quiet_NaN();
  }
  const StepState state = device_.last_state;
  const auto snapshot = [](const TensorView& view) {
    const auto* bytes = static_cast<const uint8_t*>(view.raw());
    return std::vector<uint8_t>(bytes, bytes + view.num_elements() * dtype_bytes(view.dtype()));
  };
  const auto rest = [&] {  // of slots 1 to 3
    std::vector<std::vector<uint8_t>> parts;
    for (const auto& view : {state.last_tokens, state.kv_lens, state.num_outputs, state.page_table,
                             state.output_counts}) {
      parts.push_back(snapshot(view.slice(0, 1, 3)));
    }
    return parts;
  };
  const auto before = rest();
  for (int i = 0; i < 5; ++i) run(*executor, Plan().decode(0).padded(8));
  EXPECT_EQ(executor->stats().num_graph_steps, 5);
  EXPECT_EQ(rest(), before);
  EXPECT_EQ(state.kv_lens.data<int32_t>()[0], 15);
  for (int64_t i = 0; i < num_floats; ++i) {
    ASSERT_EQ(std::isnan(values[i]), !is_written(i, 15)) << i;
  }
}

TEST_F(ExecutorAsyncTest, AStepIsOneShortCopy) {
  ExecutorConfig config = graph_config();
  config.max_batched_tokens = 8192;
  const auto executor = make(config);
  auto asks = greedy();
  asks->num_logprobs = 2;
  run(*executor, Plan()
                     .admit(0, numbered_prompt(10, 1), {3})
                     .admit(1, numbered_prompt(12, 2), {0}, asks)
                     .prefill(0, 0, 10)
                     .prefill(1, 0, 12));
  const int before = device_.num_copies_in;
  run(*executor, Plan().decode(0).padded(1));
  EXPECT_EQ(device_.num_copies_in, before + 1);
  EXPECT_LE(device_.last_copy_in_bytes, 1024);
  EXPECT_EQ(device_.last_copy_out_bytes, 128);  // the bad row, the tokens
  const auto result = run(*executor, Plan().decode(0).decode(1).padded(2));
  EXPECT_GT(device_.last_copy_out_bytes, 128);
  EXPECT_EQ(result.rows.at(1).logprobs.at(0).top.at(0).first, result.rows[1].tokens[0]);
  EXPECT_TRUE(result.rows[0].logprobs.empty());
}

// Tokens go to the device only where a penalty needs them, in as many rounds as it takes.
TEST_F(ExecutorAsyncTest, DeltasInRounds) {
  auto fancy = std::make_shared<SamplingParams>();
  fancy->temperature = 0.9f;
  fancy->repetition_penalty = 1.3f;
  fancy->presence_penalty = 0.5f;
  fancy->min_tokens = 3;
  fancy->max_tokens = 40;
  fancy->stop_token_ids = {40, 41};
  for (int i = 0; i < 90; ++i) fancy->logit_bias.emplace_back(i, 0.1f * static_cast<float>(i % 7));
  while (fancy->logit_bias.size() < kMaxLogitBiases) fancy->logit_bias.emplace_back(95, 0.01f);

  Executor plain(small_executor_config(), model_->config, model_->weights, model_->backend);
  const auto want = three_sequences(plain, 10, 0, fancy);
  EXPECT_EQ(three_sequences(*make(small_executor_config()), 10, 0, fancy), want);
  EXPECT_EQ(device_.num_delta_rounds, 1);
  ExecutorConfig cramped = small_executor_config();
  cramped.delta_block_bytes = 1;
  device_.num_delta_rounds = 0;
  EXPECT_EQ(three_sequences(*make(cramped), 10, 0, fancy), want);
  EXPECT_EQ(device_.num_delta_rounds, 3);
}

TEST_F(ExecutorAsyncTest, FailuresOfTheDeviceAreToldAtTheEnd) {
  const auto executor = make(graph_config());
  run(*executor, Plan().admit(0, numbered_prompt(10, 1), {3}).prefill(0, 0, 10));
  device_.bad_row = 0;
  executor->launch(Plan().decode(0).padded(2));
  EXPECT_THROW(executor->collect(), CheckFailure);
  EXPECT_EQ(run(*executor, Plan().decode(0)).rows.size(), 1u);
  device_.broken = true;
  executor->launch(Plan().decode(0));
  try {
    (void)executor->collect();
    FAIL();
  } catch (const CheckFailure&) {
    FAIL();
  } catch (const std::runtime_error&) {  // NOLINT: what is wanted
  }
}

ExecutorConfig measured_config(int64_t limit_bytes) {
  ExecutorConfig config = graph_config({1, 2, 4});
  config.num_pages = 0;
  config.warm_up = true;
  config.memory_limit_bytes = limit_bytes;
  config.weights_bytes = 10'000'000;
  return config;
}

TEST_F(ExecutorAsyncTest, ThePoolTakesWhatIsLeft) {
  constexpr int64_t kLimit = 16'000'000;
  const auto executor = make(measured_config(kLimit));
  const ExecutorMemory& memory = executor->memory();
  EXPECT_EQ(memory.weights_bytes, 10'000'000);
  // A full budget; expanded attention at 320 tokens of context takes less.
  EXPECT_EQ(memory.scratch_bytes, 256 * DeferredBackend::kScratchBytesPerToken);
  EXPECT_EQ(memory.graph_bytes, (1 + 2 + 4) * DeferredBackend::kGraphBytesPerRow);
  EXPECT_EQ(memory.page_bytes,
            Executor::kv_pool_bytes({.num_pages = 1}, model_->config, DType::kF32));
  EXPECT_LE(memory.total_bytes(), kLimit);
  // What is not used: the bound on the graphs, and less than a page.
  const int64_t graph_slack = 3 * 4 * DeferredBackend::kGraphBytesPerRow - memory.graph_bytes;
  EXPECT_GT(memory.total_bytes(), kLimit - graph_slack - memory.page_bytes);
  EXPECT_EQ(device_.used_bytes(), memory.total_bytes() - memory.weights_bytes);
  EXPECT_GT(memory.num_pages, 5);

  // Trial steps have left nothing, and no later step takes more.
  EXPECT_EQ(executor->stats().num_steps, 0);
  const auto got = three_sequences(*executor, 20, 4, drawn());
  Executor plain(small_executor_config(), model_->config, model_->weights, model_->backend);
  EXPECT_EQ(got, three_sequences(plain, 20, 0, drawn()));
  run(*executor, Plan()
                     .retire(0)
                     .retire(2)
                     .admit(0, numbered_prompt(300, 1), {1, 2, 3, 4, 5})
                     .prefill(0, 0, 256, false));
  EXPECT_EQ(device_.used_bytes(), memory.total_bytes() - memory.weights_bytes);
}

TEST_F(ExecutorAsyncTest, TooLittleMemoryIsOneLine) {
  // Too little for the buffers; for what is measured; just enough.
  int64_t limit = 10'000'001;
  int num_errors = 0;
  while (num_errors < 4) {
    DeferredBackend device(model_->backend);
    const auto executor =
        Executor::create(measured_config(limit), model_->config, model_->weights, device);
    if (executor.ok()) {
      EXPECT_EQ((*executor)->memory().num_pages, 5);
      break;
    }
    ++num_errors;
    const std::string& message = executor.error().message;
    for (const char* flag : {"--max-num-batched-tokens", "--max-num-seqs", "--max-model-len",
                             "--gpu-memory-fraction"}) {
      EXPECT_NE(message.find(flag), std::string::npos) << message;
    }
    EXPECT_EQ(message.find('\n'), std::string::npos);
    const std::string prefix = "device memory: ";
    ASSERT_EQ(message.rfind(prefix, 0), 0u) << message;
    const int64_t missing = std::stoll(message.substr(prefix.size()));
    ASSERT_GT(missing, 0);
    limit += missing;
  }
  EXPECT_EQ(num_errors, 2);
}

TEST_F(ExecutorAsyncTest, FixedAndCappedPools) {
  ExecutorConfig config = measured_config(int64_t{1} << 30);
  config.max_num_pages = 40;
  EXPECT_EQ(make(config)->memory().num_pages, 40);
  config.num_pages = 50;
  EXPECT_EQ(make(config)->memory().num_pages, 50);
  config.memory_limit_bytes = 10'000'000 + 100;
  EXPECT_THROW(make(config), ExecutorMemoryError);
  EXPECT_EQ(make(small_executor_config())->memory().num_pages, 24);
  // The real one: warm-up on the CPU backend.
  config = graph_config();
  config.warm_up = true;
  Executor executor(config, model_->config, model_->weights, model_->backend);
  Executor plain(small_executor_config(), model_->config, model_->weights, model_->backend);
  EXPECT_EQ(three_sequences(executor, 9, 8, greedy()), three_sequences(plain, 9, 0, greedy()));
}

}  // namespace
}  // namespace deepflight
