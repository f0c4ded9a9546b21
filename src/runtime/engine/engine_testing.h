// For tests of the engine: an engine over a tiny model, its requests' events, a tiny tokenizer.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/executor/executor_testing.h"

namespace deepflight {

using Tokens = std::vector<int32_t>;

// What became of one choice.
struct Output {
  Tokens tokens;
  std::string text;
  std::vector<OutputLogprob> logprobs;
  std::optional<FinishReason> finish_reason;
  std::string matched_stop;
  std::optional<Error> error;
  int num_cached_tokens = 0;
  int num_events = 0;
  int num_last_events = 0;  // exactly 1 in the end
};

// Gathers the events of one request. Copies share what they gathered.
class Watch {
 public:
  explicit Watch(int num_choices = 1) : shared_(std::make_shared<Shared>(num_choices)) {}

  EventCallback callback() const {
    return [shared = shared_](GenerationEvent event) {
      std::lock_guard lock(shared->mutex);
      Output& output = shared->outputs.at(event.choice_idx);
      // gtest's EXPECT is thread-safe here; after its last event a choice is silent.
      EXPECT_FALSE(output.finish_reason.has_value());
      ++output.num_events;
      output.text += event.text;
      output.tokens.insert(output.tokens.end(), event.token_ids.begin(), event.token_ids.end());
      for (auto& entry : event.logprobs) output.logprobs.push_back(std::move(entry));
      output.num_cached_tokens = event.num_cached_tokens;
      if (event.finish_reason) {
        output.finish_reason = event.finish_reason;
        output.matched_stop = event.matched_stop;
        output.error = event.error;
        ++output.num_last_events;
        --shared->num_unfinished;
      }
      shared->changed.notify_all();
    };
  }

  // Waits until every choice has ended (or the tests' patience has).
  std::vector<Output> wait() const {
    wait_for([](const Shared& shared) { return shared.num_unfinished == 0; });
    std::lock_guard lock(shared_->mutex);
    return shared_->outputs;
  }
  Output wait_one() const { return wait().at(0); }
  void wait_for_tokens(size_t count) const {
    wait_for([=](const Shared& shared) { return shared.outputs[0].tokens.size() >= count; });
  }
  bool finished() const {
    std::lock_guard lock(shared_->mutex);
    return shared_->num_unfinished == 0;
  }

 private:
  struct Shared {
    explicit Shared(int num_choices) : outputs(num_choices), num_unfinished(num_choices) {}
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Output> outputs;
    int num_unfinished;
  };
  template <typename Condition>
  void wait_for(const Condition& condition) const {
    std::unique_lock lock(shared_->mutex);
    EXPECT_TRUE(shared_->changed.wait_for(lock, std::chrono::seconds(60),
                                          [&] { return condition(*shared_); }));
  }
  std::shared_ptr<Shared> shared_;
};

inline SchedulerConfig small_scheduler() {
  SchedulerConfig config;
  config.max_num_slots = 8;
  config.num_pages = 64;
  config.max_model_len = 256;
  config.max_batched_tokens = 128;
  config.max_chunk_tokens = 128;
  return config;
}

struct EngineRig {
  explicit EngineRig(TinyModel& model, SchedulerConfig scheduler = small_scheduler(),
                     const Tokenizer* tokenizer = nullptr)
      : EngineRig(model, model.backend, std::move(scheduler), tokenizer) {}
  EngineRig(TinyModel& model, Backend& backend, SchedulerConfig scheduler,
            const Tokenizer* tokenizer = nullptr, MtpMode mode = MtpMode::kEagle)
      : executor(executor_config(scheduler, mode), model.config, model.weights, backend),
        owned(std::make_unique<Engine>(EngineConfig{{"tiny",
                                                     static_cast<int32_t>(model.config.vocab_size),
                                                     scheduler.max_model_len,
                                                     {kTinyEos}},
                                                    scheduler},
                                       executor, tokenizer)),
        engine(*owned) {}

  static ExecutorConfig executor_config(const SchedulerConfig& scheduler, MtpMode mode) {
    ExecutorConfig config;
    config.num_pages = scheduler.num_pages;
    config.max_num_slots = scheduler.max_num_slots;
    config.max_batched_tokens = scheduler.max_batched_tokens;
    config.max_pages_per_slot = scheduler.max_pages_per_slot();
    config.decode_batch_sizes = scheduler.decode_batch_sizes;
    config.speculative.draft_len = scheduler.draft_len;
    config.speculative.mode = mode;
    return config;
  }

  // Submits a request that must be taken.
  Watch submit(GenerationRequest request) {
    const Watch watch(request.sampling.num_choices);
    const Status status = engine.submit(std::move(request), watch.callback());
    EXPECT_TRUE(status.ok()) << status.error().message;
    return watch;
  }

  // Submits and waits until the request's id is free again (its last event comes a moment earlier).
  std::vector<Output> run(GenerationRequest request) {
    const auto outputs = submit(std::move(request)).wait();
    EXPECT_TRUE(engine.wait_until_idle(60'000'000));
    return outputs;
  }
  Output run_one(GenerationRequest request) { return run(std::move(request)).at(0); }

  // Waits for rest, then checks that every page and slot came back.
  void expect_all_returned() {
    EXPECT_TRUE(engine.wait_until_idle(60'000'000));
    // A step that was launched before the last request ended may still be on its way back.
    ServiceStats stats;
    for (int i = 0; i < 5000; ++i) {
      stats = engine.stats();
      if (stats.num_running == 0 && stats.num_free_pages == stats.num_pages) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(stats.num_running, 0);
    EXPECT_EQ(stats.num_waiting, 0);
    EXPECT_EQ(stats.num_free_pages, stats.num_pages);
  }

  Executor executor;
  std::unique_ptr<Engine> owned;
  Engine& engine;
};

inline Tokens make_prompt(int length, uint32_t content) {
  std::mt19937 random(content);
  Tokens tokens(length);
  for (int32_t& token : tokens) token = 2 + static_cast<int32_t>(random() % 94);
  return tokens;
}

// Greedy and blind to end-of-sequence, unless the test says otherwise.
inline GenerationRequest greedy_request(const std::string& id, Tokens prompt, int max_tokens) {
  GenerationRequest request;
  request.request_id = id;
  request.prompt_token_ids = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

// 96 byte-level tokens: <bos>, <eos>, single characters, the two halves of some letters in UTF-8,
// and a few longer ones.
inline Tokenizer tiny_tokenizer() {
  std::vector<std::string> tokens = {"<bos>", "<eos>"};
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  for (char c = 'A'; c <= 'Z'; ++c) tokens.emplace_back(1, c);
  for (char c = '0'; c <= '9'; ++c) tokens.emplace_back(1, c);
  for (const char* token : {"Ã",  "©",  "¨",   "Ġ",    ".",  ",",   "!",  "?",  "ab", "abc", "bc",
                            "cd", "de", "xyz", "Ġthe", "Ġa", "ing", "er", "on", "Ã©", "!!",  "...",
                            "::", "-",  "+",   "=",    "(",  ")",   "[",  "]",  "{",  "}"}) {
    tokens.emplace_back(token);
  }
  nlohmann::json vocab;
  for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  const nlohmann::json added = [] {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& [id, content] : {std::pair<int, const char*>{0, "<bos>"}, {1, "<eos>"}}) {
      list.push_back({{"id", id},
                      {"content", content},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", true}});
    }
    return list;
  }();
  const nlohmann::json json = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  auto tokenizer = Tokenizer::from_json(json.dump());
  CHECK(tokenizer.ok(), tokenizer.error().message);
  return std::move(tokenizer).value();
}

// The parameter: drafts per sequence and step.
class EngineDraftsTest : public ::testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() { model_ = new DraftingModel; }
  static void TearDownTestSuite() { delete model_; }

  static SchedulerConfig small_scheduler() {
    SchedulerConfig config = deepflight::small_scheduler();
    config.draft_len = GetParam();
    return config;
  }

  static Tokens greedy_tokens(const Tokens& prompt, int count) {
    EngineRig rig(*model_, small_scheduler());
    return rig.run_one(greedy_request("r", prompt, count)).tokens;
  }

  static inline DraftingModel* model_ = nullptr;
};

}  // namespace deepflight
