// 200 random requests give the same greedy output by every road: alone, batched, in chunks of any
// size, with one or two steps in flight, cache cold and warm, through forced preemption, and with
// captured decode steps on a device that runs late.
#include <gtest/gtest.h>

#include <set>

#include "runtime/engine/engine_testing.h"
#include "runtime/executor/deferred_backend_testing.h"

namespace deepflight {
namespace {

constexpr int kNumRequests = 200;

// Prompts of 1 to 180 tokens; every third begins like some others.
GenerationRequest random_request(int index) {
  std::mt19937 random(1000 + index);
  Tokens prompt = make_prompt(1 + static_cast<int>(random() % 120), 5000 + index);
  if (index % 3 == 0) {
    const Tokens common = make_prompt(60 + 20 * (index % 4), index % 5);
    prompt.insert(prompt.begin(), common.begin(), common.end());
    prompt.resize(std::min<size_t>(prompt.size(), 180));
  }
  auto request = greedy_request(std::to_string(index), prompt, 1 + random() % 40);
  request.sampling.ignore_eos = false;
  return request;
}

class EngineRandomTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = new TinyModel;
    alone_ = new std::vector<Tokens>;
    SchedulerConfig config = small_scheduler();
    config.enable_prefix_cache = false;
    config.max_steps_in_flight = 1;
    EngineRig rig(*model_, config);
    for (int i = 0; i < kNumRequests; ++i) {
      alone_->push_back(rig.run_one(random_request(i)).tokens);
    }
    rig.expect_all_returned();
  }
  static void TearDownTestSuite() {
    delete alone_;
    delete model_;
  }

  // All requests at once.
  static void expect_same(EngineRig& rig, const char* what) {
    std::vector<Watch> watches;
    for (int i = 0; i < kNumRequests; ++i) watches.push_back(rig.submit(random_request(i)));
    for (int i = 0; i < kNumRequests; ++i) {
      const Output output = watches[i].wait_one();
      ASSERT_EQ(output.tokens, (*alone_)[i]) << what << ", request " << i;
      EXPECT_EQ(output.num_last_events, 1);
    }
    rig.expect_all_returned();
  }

  static TinyModel* model_;
  static std::vector<Tokens>* alone_;
};
TinyModel* EngineRandomTest::model_ = nullptr;
std::vector<Tokens>* EngineRandomTest::alone_ = nullptr;

TEST_F(EngineRandomTest, OutputsAreNotAllAlike) {
  std::set<Tokens> distinct(alone_->begin(), alone_->end());
  EXPECT_GT(distinct.size(), kNumRequests * 9 / 10);
}

TEST_F(EngineRandomTest, ChunksStepsInFlightAndCache) {
  for (const int chunk : {16, 64, 512}) {
    for (const int steps_in_flight : {1, 2}) {
      SCOPED_TRACE(fmt::format("chunk {}, {} steps in flight", chunk, steps_in_flight));
      SchedulerConfig config = small_scheduler();
      config.max_num_slots = 16;
      config.max_chunk_tokens = chunk;
      config.max_batched_tokens = std::max(chunk, 32);
      config.max_steps_in_flight = steps_in_flight;
      EngineRig rig(*model_, config);
      expect_same(rig, "cold");
      const int64_t hits_when_cold = rig.engine.stats().prefix_hit_tokens;
      expect_same(rig, "warm");
      EXPECT_GT(rig.engine.stats().prefix_hit_tokens, hits_when_cold);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(EngineRandomTest, ForcedPreemption) {
  for (const bool prefix_cache : {true, false}) {
    for (const int steps_in_flight : {1, 2}) {
      for (const int chunk : {16, 512}) {
        SCOPED_TRACE(fmt::format("chunk {}, {} steps in flight", chunk, steps_in_flight));
        SchedulerConfig config = small_scheduler();
        config.num_pages = 6;
        config.watermark = 0;
        config.max_chunk_tokens = chunk;
        config.max_batched_tokens = std::max(chunk, 32);
        config.max_steps_in_flight = steps_in_flight;
        config.enable_prefix_cache = prefix_cache;
        EngineRig rig(*model_, config);
        expect_same(rig, "six pages");
        EXPECT_GT(rig.engine.stats().num_preemptions, 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Captured decode steps of padded sizes, as closures and on a device that does nothing until it is
// waited for, with room and with preemptions.
TEST_F(EngineRandomTest, CapturedDecodeSteps) {
  for (const bool deferred : {false, true}) {
    for (const int num_pages : {64, 6}) {
      for (const std::vector<int32_t>& sizes :
           {std::vector<int32_t>{1, 2, 4, 8, 16}, std::vector<int32_t>{3, 7}}) {
        SCOPED_TRACE(
            fmt::format("{} pages, sizes to {}, deferred {}", num_pages, sizes.back(), deferred));
        SchedulerConfig config = small_scheduler();
        config.max_num_slots = 13;
        config.num_pages = num_pages;
        config.watermark = 0;
        config.max_chunk_tokens = 64;
        config.decode_batch_sizes = sizes;
        DeferredBackend device(model_->backend);
        EngineRig rig(*model_, deferred ? static_cast<Backend&>(device) : model_->backend, config);
        expect_same(rig, "captured");
        const ServiceStats stats = rig.engine.stats();
        EXPECT_GT(stats.num_graph_steps, 0);  // how many depends on when requests arrive
        EXPECT_GT(stats.num_steps, stats.num_graph_steps);
        EXPECT_GT(stats.issue_us_total, 0);
        EXPECT_EQ(stats.num_preemptions > 0, num_pages == 6);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The same for draws: seeds, penalties and counts survive a preemption.
TEST_F(EngineRandomTest, SampledOutputsSurvivePreemption) {
  const auto request = [](int index) {
    GenerationRequest request = random_request(index);
    request.sampling.temperature = 1.1f;
    request.sampling.frequency_penalty = 0.3f;
    request.sampling.repetition_penalty = 1.1f;
    request.sampling.seed = 9000 + index;
    request.sampling.num_choices = 2;
    request.sampling.max_tokens = 40;
    return request;
  };
  std::vector<std::vector<Tokens>> want;
  for (const int num_pages : {64, 6}) {
    SchedulerConfig config = small_scheduler();
    config.num_pages = num_pages;
    config.watermark = 0;
    EngineRig rig(*model_, config);
    std::vector<Watch> watches;
    for (int i = 0; i < 60; ++i) watches.push_back(rig.submit(request(i)));
    std::vector<std::vector<Tokens>> got;
    for (const Watch& watch : watches) {
      auto& tokens = got.emplace_back();
      for (const Output& output : watch.wait()) tokens.push_back(output.tokens);
    }
    if (want.empty()) want = got;
    EXPECT_EQ(got, want) << num_pages << " pages";
    EXPECT_EQ(rig.engine.stats().num_preemptions > 0, num_pages == 6);
    rig.expect_all_returned();
  }
}

}  // namespace
}  // namespace deepflight
