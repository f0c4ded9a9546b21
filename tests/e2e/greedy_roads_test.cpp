// The promise that results do not depend on company: 200 chat requests to models/tiny-r1 give the
// same greedy tokens alone, batched, in chunks of any size, with the prefix cache cold and warm,
// planned one step ahead or not, and after preemptions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "apps/chat_prompt.h"
#include "apps/local_engine.h"
#include "base/log.h"

namespace deepflight {
namespace {

constexpr int kMaxTokens = 160;

// Under a sanitizer (DF_TIME_FACTOR) fewer, which take its checks by the same roads.
size_t num_requests() {
  static const size_t number = std::getenv("DF_TIME_FACTOR") != nullptr &&
                                       std::string_view(std::getenv("DF_TIME_FACTOR")) != "1"
                                   ? 40
                                   : 200;
  return number;
}

// Two pages long, so that the requests share pages and no chunk size covers a prompt's beginning.
constexpr const char* kSystem =
    "You are tiny-r1, the demo model of Deepflight. People ask you about numbers: sums, "
    "differences, "
    "products, lists to sort, to reverse or to count. Think step by step before you answer, write "
    "every digit of the work down, keep the carries, and give nothing but the result at the end. "
    "Questions come in English and in Chinese; answer in the language of the question.";

using Outputs = std::vector<std::vector<int32_t>>;

EngineOptions base_options() {
  EngineOptions options;
  options.model_dir = "models/tiny-r1";
  options.show_progress = false;
  options.max_num_seqs = 32;
  options.kv_cache_mib = 512;
  return options;
}

std::vector<std::string> read_prompts() {
  std::ifstream file("models/tiny-r1/eval.jsonl");
  std::vector<std::string> prompts;
  for (std::string line; std::getline(file, line) && prompts.size() < num_requests();) {
    prompts.push_back(nlohmann::json::parse(line)["prompt"].get<std::string>());
  }
  return prompts;
}

// A running engine and the requests in its model's terms.
class Road {
 public:
  // Prompts of `num_questions` questions each, of which the first `num_prompts` are asked.
  explicit Road(const EngineOptions& options, size_t num_prompts = num_requests(),
                size_t num_questions = 1) {
    auto local = LocalEngine::start(options);
    if (!local.ok()) throw std::runtime_error(local.error().message);
    local_ = std::move(local).value();
    const auto prompter =
        ChatPrompter::make(*local_->tokenizer(), local_->tokenizer_config()).value();
    const auto questions = read_prompts();
    for (size_t i = 0; i < std::min(num_prompts, questions.size()); ++i) {
      std::string prompt = questions[i];
      for (size_t k = 1; k < num_questions; ++k) {
        prompt += "\n" + questions[(i + 7 * k) % questions.size()];
      }
      prompts_.push_back(prompter.prompt(kSystem, prompt).value());
    }
  }

  // Answers all requests, or those in [first, last), `batch` of them handed in at a time.
  Outputs run(size_t batch, size_t first = 0, size_t last = SIZE_MAX) {
    last = std::min(last, prompts_.size());
    Outputs outputs(prompts_.size());
    for (size_t begin = first; begin < last; begin += batch) {
      std::vector<std::promise<void>> done(std::min(batch, last - begin));
      for (size_t i = 0; i < done.size(); ++i) {
        GenerationRequest request;
        request.request_id = std::to_string(next_id_++);
        request.prompt_token_ids = prompts_[begin + i];
        request.sampling.temperature = 0.0f;
        request.sampling.max_tokens = kMaxTokens;
        auto* output = &outputs[begin + i];
        auto* finished = &done[i];
        const Status status =
            local_->engine().submit(std::move(request), [output, finished](GenerationEvent event) {
              output->insert(output->end(), event.token_ids.begin(), event.token_ids.end());
              if (event.finish_reason) finished->set_value();
            });
        if (!status.ok()) throw std::runtime_error(status.error().message);
      }
      for (auto& promise : done) promise.get_future().wait();
    }
    return outputs;
  }

  ServiceStats stats() const { return local_->engine().stats(); }

 private:
  std::unique_ptr<LocalEngine> local_;
  std::vector<std::vector<int32_t>> prompts_;
  int next_id_ = 0;
};

class GreedyRoads : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(init_logging("warn").ok()); }

  // One request at a time, without prefix cache or overlap: the plainest road. Each half goes to an
  // engine of its own with one thread, which takes less time than two threads on steps this small.
  static const Outputs& alone() {
    static const Outputs outputs = [] {
      const auto run_half = [](size_t first, size_t last) {
        EngineOptions options = base_options();
        options.no_prefix_cache = true;
        options.steps_in_flight = 1;
        options.device.num_threads = 1;
        return Road(options).run(1, first, last);
      };
      const size_t half = num_requests() / 2;
      auto later = std::async(std::launch::async, run_half, half, num_requests());
      Outputs all = run_half(0, half);
      Outputs rest = later.get();
      std::move(rest.begin() + static_cast<ptrdiff_t>(half), rest.end(),
                all.begin() + static_cast<ptrdiff_t>(half));
      return all;
    }();
    return outputs;
  }

  static void expect_same(const Outputs& outputs) {
    ASSERT_EQ(outputs.size(), alone().size());
    for (size_t i = 0; i < outputs.size(); ++i)
      EXPECT_EQ(outputs[i], alone()[i]) << "request " << i;
  }
  static void expect_same_under_preemption(EngineOptions options) {
    options.max_model_len = 1024;
    Road road(options);
    expect_same(road.run(32));
    EXPECT_GT(road.stats().num_preemptions, 10);
  }
};

TEST_F(GreedyRoads, RequestsAreRealWork) {
  ASSERT_EQ(alone().size(), num_requests());
  size_t num_tokens = 0;
  for (const auto& output : alone()) num_tokens += output.size();
  EXPECT_GT(num_tokens, 30 * num_requests());
}

TEST_F(GreedyRoads, BatchedInChunksOfAnySize) {
  const auto run = [](int chunk) {
    EngineOptions options = base_options();
    options.no_prefix_cache = true;
    options.chunk_tokens = chunk;
    options.max_batched_tokens = std::max(64, chunk);
    options.device.num_threads = 1;
    return Road(options).run(32);
  };
  const int chunks[] = {16, 64, 512};
  std::vector<std::future<Outputs>> roads;
  for (const int chunk : chunks) roads.push_back(std::async(std::launch::async, run, chunk));
  for (size_t i = 0; i < roads.size(); ++i) {
    SCOPED_TRACE(chunks[i]);
    expect_same(roads[i].get());
  }
}

TEST_F(GreedyRoads, PrefixCacheColdAndWarm) {
  Road road(base_options());
  expect_same(road.run(32));
  const int64_t cold_hits = road.stats().prefix_hit_tokens;
  expect_same(road.run(32));
  EXPECT_GT(road.stats().prefix_hit_tokens, cold_hits);
}

TEST_F(GreedyRoads, PagesFromTheHost) {
  EngineOptions options = base_options();
  options.max_model_len = 1024;
  constexpr size_t kNumPrompts = 24, kNumQuestions = 10;
  EngineOptions plain = options;
  plain.no_prefix_cache = true;
  const Outputs want = Road(plain, kNumPrompts, kNumQuestions).run(8);
  options.kv_cache_mib = 24;  // too few pages for all prompts
  options.host_kv_cache_mib = 512;
  Road road(options, kNumPrompts, kNumQuestions);
  EXPECT_EQ(road.run(4), want);
  EXPECT_EQ(road.run(4), want);
  EXPECT_GT(road.stats().host_tier.num_loaded_pages, 20);
}

TEST_F(GreedyRoads, AfterForcedPreemption) {
  EngineOptions options = base_options();
  options.kv_cache_mib = 20;  // some 30 pages for 32 sequences of 4 pages and more
  expect_same_under_preemption(options);
}

// Drafts change how many tokens a step gives, not which: with everything above at once.
TEST_F(GreedyRoads, WithDrafts) {
  EngineOptions options = base_options();
  options.mtp.draft_len = 3;
  options.chunk_tokens = 48;
  options.max_batched_tokens = 192;
  Road road(options);
  expect_same(road.run(32));
  EXPECT_GT(road.stats().prefix_hit_tokens, 0);
  EXPECT_GT(road.stats().drafts.tokens_per_row(), 3.7);
}

TEST_F(GreedyRoads, WithDraftsAfterForcedPreemption) {
  EngineOptions options = base_options();
  options.mtp.draft_len = 2;
  options.kv_cache_mib = 25;
  expect_same_under_preemption(options);
}

}  // namespace
}  // namespace deepflight
