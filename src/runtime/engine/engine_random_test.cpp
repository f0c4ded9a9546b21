// 200 random requests give the same greedy output by every road: alone, batched, in chunks of any
// size, with one or two steps in flight, cache cold and warm, through forced preemption, and with
// captured decode steps on a device that runs late. All of it again with drafts.
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

struct Drafts {
  int len;  // per sequence and step
  MtpMode mode = MtpMode::kEagle;
};

class EngineRandomTest : public ::testing::TestWithParam<Drafts> {
 protected:
  static void TearDownTestSuite() { worlds_.clear(); }

  // A model and what it answers without drafts, one request at a time.
  struct World {
    explicit World(std::unique_ptr<TinyModel> with) : model(std::move(with)) {
      SchedulerConfig config = small_scheduler();
      config.enable_prefix_cache = false;
      config.max_steps_in_flight = 1;
      EngineRig rig(*model, config);
      for (int i = 0; i < kNumRequests; ++i) {
        alone.push_back(rig.run_one(random_request(i)).tokens);
      }
      rig.expect_all_returned();
    }
    std::unique_ptr<TinyModel> model;
    std::vector<Tokens> alone;
  };

  static World& world() {
    const bool drafts = GetParam().len > 0;
    auto& world = worlds_[drafts];
    if (world == nullptr) {
      world = std::make_unique<World>(drafts ? std::make_unique<DraftingModel>(3)
                                             : std::make_unique<TinyModel>());
    }
    return *world;
  }
  static TinyModel& model() { return *world().model; }

  // With room for a decode row of every slot in a step.
  static SchedulerConfig scheduler(int num_slots, int chunk = 128) {
    SchedulerConfig config = small_scheduler();
    config.max_num_slots = num_slots;
    config.draft_len = GetParam().len;
    config.max_chunk_tokens = chunk;
    config.max_batched_tokens = std::max(chunk, num_slots * (1 + GetParam().len));
    return config;
  }

  // All requests at once.
  static void expect_same(EngineRig& rig, const char* what) {
    std::vector<Watch> watches;
    for (int i = 0; i < kNumRequests; ++i) watches.push_back(rig.submit(random_request(i)));
    for (int i = 0; i < kNumRequests; ++i) {
      const Output output = watches[i].wait_one();
      ASSERT_EQ(output.tokens, world().alone[i]) << what << ", request " << i;
      EXPECT_EQ(output.num_last_events, 1);
    }
    rig.expect_all_returned();
    if (GetParam().len == 0) return;
    const DraftStats drafts = rig.engine.stats().drafts;
    EXPECT_GT(drafts.num_accepted, 100) << "the test needs drafts that are right";
    EXPECT_LT(drafts.num_accepted, drafts.num_draft_tokens) << "and drafts that are wrong";
  }

  static std::map<bool, std::unique_ptr<World>> worlds_;
};
std::map<bool, std::unique_ptr<EngineRandomTest::World>> EngineRandomTest::worlds_;

INSTANTIATE_TEST_SUITE_P(Drafts, EngineRandomTest,
                         ::testing::Values(Drafts{0}, Drafts{1}, Drafts{3},
                                           Drafts{3, MtpMode::kVanilla}));

TEST_P(EngineRandomTest, OutputsAreNotAllAlike) {
  std::set<Tokens> distinct(world().alone.begin(), world().alone.end());
  EXPECT_GT(distinct.size(), kNumRequests * 9 / 10);
}

TEST_P(EngineRandomTest, ChunksStepsInFlightAndCache) {
  for (const int chunk : {16, 64, 512}) {
    for (const int steps_in_flight : {1, 2}) {
      SCOPED_TRACE(fmt::format("chunk {}, {} steps in flight", chunk, steps_in_flight));
      SchedulerConfig config = scheduler(16, chunk);
      config.max_steps_in_flight = steps_in_flight;
      EngineRig rig(model(), model().backend, config, nullptr, GetParam().mode);
      expect_same(rig, "cold");
      const int64_t hits_when_cold = rig.engine.stats().prefix_hit_tokens;
      expect_same(rig, "warm");
      EXPECT_GT(rig.engine.stats().prefix_hit_tokens, hits_when_cold);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(EngineRandomTest, ForcedPreemption) {
  for (const bool prefix_cache : {true, false}) {
    for (const int steps_in_flight : {1, 2}) {
      for (const int chunk : {16, 512}) {
        SCOPED_TRACE(fmt::format("chunk {}, {} steps in flight", chunk, steps_in_flight));
        SchedulerConfig config = scheduler(8, chunk);
        config.num_pages = 6;
        config.watermark = 0;
        config.max_steps_in_flight = steps_in_flight;
        config.enable_prefix_cache = prefix_cache;
        EngineRig rig(model(), model().backend, config, nullptr, GetParam().mode);
        expect_same(rig, "six pages");
        EXPECT_GT(rig.engine.stats().num_preemptions, 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Captured decode steps of padded sizes, as closures and on a device that does nothing until it is
// waited for, with room and with preemptions.
TEST_P(EngineRandomTest, CapturedDecodeSteps) {
  for (const bool deferred : {false, true}) {
    for (const int num_pages : {64, 6}) {
      for (const std::vector<int32_t>& sizes :
           {std::vector<int32_t>{1, 2, 4, 8, 16}, std::vector<int32_t>{3, 7}}) {
        SCOPED_TRACE(
            fmt::format("{} pages, sizes to {}, deferred {}", num_pages, sizes.back(), deferred));
        SchedulerConfig config = scheduler(13, 64);
        config.num_pages = num_pages;
        config.watermark = 0;
        config.decode_batch_sizes = sizes;
        DeferredBackend device(model().backend);
        EngineRig rig(model(), deferred ? static_cast<Backend&>(device) : model().backend, config,
                      nullptr, GetParam().mode);
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

// The same for draws: seeds, penalties and counts survive drafts and preemptions.
TEST_P(EngineRandomTest, SampledOutputsSurvivePreemption) {
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
  for (const int num_pages : {64, 64, 6}) {
    SchedulerConfig config = scheduler(8);
    config.num_pages = num_pages;
    config.watermark = 0;
    // Draws are those of steps without drafts.
    if (want.empty()) config.draft_len = 0;
    EngineRig rig(model(), model().backend, config, nullptr, GetParam().mode);
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
