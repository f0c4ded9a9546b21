// The engine with a host tier behind a pool that is too small: the same outputs, pages that come
// back from the host, and nothing that is left over.
#include <gtest/gtest.h>

#include "runtime/engine/engine_testing.h"
#include "runtime/executor/deferred_backend_testing.h"
#include "runtime/kvcache/host_tier.h"

namespace deepflight {
namespace {

constexpr int kNumRequests = 40;

// Prompts of two to three pages, each several times over the test.
GenerationRequest request(int index, int round) {
  const int content = index % 10;
  return greedy_request(fmt::format("{}-{}", index, round),
                        make_prompt(140 + 4 * content, 300 + content), 6);
}

struct TieredRig {
  TieredRig(TinyModel& model, Backend& backend, const SchedulerConfig& scheduler, int num_blocks)
      : executor(EngineRig::executor_config(scheduler, MtpMode::kEagle), model.config,
                 model.weights, backend),
        memory(backend.allocate_staging(num_blocks * executor.memory().page_bytes)),
        tier({.num_blocks = num_blocks},
             [this](const HostTier::Job& job) {
               char* block =
                   static_cast<char*>(memory.data()) + job.block * executor.memory().page_bytes;
               job.to_device ? executor.load_page(job.page, block)
                             : executor.save_page(job.page, block);
               return true;
             }),
        engine(EngineConfig{{"tiny",
                             static_cast<int32_t>(model.config.vocab_size),
                             scheduler.max_model_len,
                             {kTinyEos}},
                            scheduler},
               executor, nullptr, &tier) {}

  std::vector<Tokens> run(int round) {
    std::vector<Watch> watches(kNumRequests);
    std::vector<Tokens> outputs;
    for (int i = 0; i < kNumRequests; ++i) {
      EXPECT_TRUE(engine.submit(request(i, round), watches[i].callback()).ok());
    }
    for (const Watch& watch : watches) outputs.push_back(watch.wait_one().tokens);
    EXPECT_TRUE(engine.wait_until_idle(60'000'000));
    return outputs;
  }

  Executor executor;
  Buffer memory;
  HostTier tier;
  Engine engine;
};

// With drafts a page that comes back brings the modules' KV and states too.
class EngineHostTier : public ::testing::TestWithParam<int> {};

TEST_P(EngineHostTier, SameTokensAndPagesThatComeBack) {
  DraftingModel model;
  SchedulerConfig config = small_scheduler();
  config.enable_prefix_cache = false;
  config.num_pages = 200;
  std::vector<Tokens> want;
  {
    EngineRig plain(model, config);
    for (int i = 0; i < kNumRequests; ++i) want.push_back(plain.run_one(request(i, 0)).tokens);
  }
  config.enable_prefix_cache = true;
  config.draft_len = GetParam();
  config.num_pages = 12;  // for two or three prompts
  DeferredBackend late(model.backend);
  for (Backend* backend : {static_cast<Backend*>(&model.backend), static_cast<Backend*>(&late)}) {
    for (const int num_blocks : {5, 64}) {
      SCOPED_TRACE(num_blocks);
      TieredRig rig(model, *backend, config, num_blocks);
      EXPECT_EQ(rig.run(1), want);
      EXPECT_EQ(rig.run(2), want);
      // Copies go on for a moment after the last answer.
      ServiceStats stats = rig.engine.stats();
      for (int i = 0; i < 5000 && stats.num_free_pages < stats.num_pages; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        stats = rig.engine.stats();
      }
      EXPECT_EQ(stats.num_free_pages, stats.num_pages);
      EXPECT_EQ(stats.host_tier.num_pages, num_blocks);
      EXPECT_GT(stats.host_tier.num_saved_pages, 0);
      EXPECT_GE(stats.host_tier.num_loaded_pages, num_blocks == 64 ? 10 : 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Drafts, EngineHostTier, ::testing::Values(0, 2));

}  // namespace
}  // namespace deepflight
