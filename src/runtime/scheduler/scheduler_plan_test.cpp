// The rules of planning, one by one: order, budget, admission, sharing, preemption.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/check.h"
#include "runtime/scheduler/test_rig.h"

namespace deepflight {
namespace {

using testing::ElementsAre;

std::vector<int32_t> chunk_lengths(const StepPlan& plan) {
  std::vector<int32_t> lengths;
  for (const PrefillChunk& chunk : plan.prefill_chunks) lengths.push_back(chunk.length);
  return lengths;
}

TEST(SchedulerConfig, RangesAreChecked) {
  EXPECT_TRUE(calm_config().validate().ok());
  const auto error_of = [](auto change) {
    SchedulerConfig config = calm_config();
    change(config);
    const Status status = config.validate();
    return status.ok() ? std::string() : status.error().message;
  };
  EXPECT_THAT(error_of([](auto& config) { config.num_pages = 0; }),
              testing::HasSubstr("num_pages"));
  EXPECT_THAT(error_of([](auto& config) { config.max_batched_tokens = 3; }),
              testing::HasSubstr("max_batched_tokens"));
  EXPECT_THAT(error_of([](auto& config) { config.max_steps_in_flight = 3; }),
              testing::HasSubstr("max_steps_in_flight"));
  EXPECT_THAT(error_of([](auto& config) { config.watermark = 1; }),
              testing::HasSubstr("watermark"));
  EXPECT_THAT(error_of([](auto& config) {
                config.decode_batch_sizes = {4, 2};
              }),
              testing::HasSubstr("decode_batch_sizes"));
  SchedulerConfig bad = calm_config();
  bad.max_num_slots = 0;
  EXPECT_THROW(Scheduler{bad}, CheckFailure);
}

TEST(SchedulerPlan, WhatCanNeverRunIsRefused) {
  SchedulerConfig config = calm_config();
  config.num_pages = 4;
  Scheduler scheduler(config);
  EXPECT_TRUE(scheduler.can_ever_run(200, 56).ok());
  EXPECT_FALSE(scheduler.can_ever_run(200, 57).ok()) << "five pages";
  EXPECT_FALSE(scheduler.can_ever_run(0, 1).ok());
  EXPECT_FALSE(scheduler.can_ever_run(1, 0).ok());
  EXPECT_FALSE(scheduler.can_ever_run(1024, 1).ok()) << "no room for output";
  EXPECT_FALSE(scheduler.can_ever_run(int64_t{1} << 40, int64_t{1} << 40).ok());
  EXPECT_FALSE(scheduler.add(make_request(1, 200, 57)).ok());
  EXPECT_TRUE(scheduler.idle());
}

TEST(SchedulerPlan, DecodeRowsComeFirstAndChunksShareTheRest) {
  SchedulerConfig config = calm_config();
  config.max_batched_tokens = 20;
  config.max_chunk_tokens = 12;
  config.decode_batch_sizes = {2, 4};
  TestRig rig(config);
  rig.add(make_request(1, 5, 100));
  StepPlan plan = rig.launch();
  EXPECT_EQ(plan.padded_num_decode_rows, 0);
  ASSERT_EQ(plan.prefill_chunks.size(), 1u);
  EXPECT_TRUE(plan.prefill_chunks[0].samples);
  rig.read();
  rig.add(make_request(2, 30, 100));
  rig.add(make_request(3, 40, 100));
  plan = rig.launch();
  EXPECT_EQ(plan.decode_rows.size(), 1u);
  EXPECT_EQ(plan.padded_num_decode_rows, 2);
  EXPECT_THAT(chunk_lengths(plan), ElementsAre(12, 7)) << "19 tokens are left of the budget";
  EXPECT_FALSE(plan.prefill_chunks[0].samples);
  rig.read();
  plan = rig.launch();
  EXPECT_THAT(chunk_lengths(plan), ElementsAre(12, 7));
  EXPECT_EQ(plan.prefill_chunks[0].start, 12);
  rig.read();
  rig.run_all();
  EXPECT_EQ(rig.outputs.size(), 3u);
}

TEST(SchedulerPlan, PagesComeWithTheAdmissionAndThenOneByOne) {
  TestRig rig(calm_config());
  rig.add(make_request(1, 64, 100));
  StepPlan plan = rig.launch();
  ASSERT_EQ(plan.page_grants.size(), 1u);
  EXPECT_EQ(plan.page_grants[0].pages.size(), 1u);
  rig.read();
  plan = rig.launch();
  ASSERT_EQ(plan.page_grants.size(), 1u) << "token 65 opens the second page";
  EXPECT_EQ(plan.page_grants[0].first_page_idx, 1);
  rig.read();
  EXPECT_TRUE(rig.launch().page_grants.empty());
}

TEST(SchedulerPlan, ShortestOfThoseThatArrivedTogetherGoesFirst) {
  SchedulerConfig config = calm_config();
  config.max_num_slots = 1;
  TestRig rig(config);
  rig.add(make_request(1, 300, 1));
  rig.add(make_request(2, 200, 1));
  rig.add(make_request(3, 100, 1));
  rig.add(make_request(4, 100, 1));
  rig.run_all();
  EXPECT_THAT(rig.start_order, ElementsAre(3, 4, 2, 1));
}

TEST(SchedulerPlan, OnlyUncachedTokensCountForTheOrder) {
  SchedulerConfig config = calm_config();
  config.max_num_slots = 1;
  TestRig rig(config);
  rig.add(make_request(1, 300, 1, 0, 7));
  rig.run_all();
  rig.add(make_request(2, 100, 1));
  rig.add(make_request(3, 300, 1, 0, 7));
  rig.run_all();
  EXPECT_THAT(rig.start_order, ElementsAre(1, 3, 2)) << "44 tokens of 300 are left to compute";
}

TEST(SchedulerPlan, PriorityIsAHeadStart) {
  SchedulerConfig config = calm_config();
  config.max_num_slots = 1;
  TestRig rig(config);
  rig.add(make_request(1, 10, 1, 0));
  SequenceRequest urgent = make_request(2, 10, 1, config.priority_us - 1);
  urgent.priority = 1;
  rig.add(std::move(urgent));
  SequenceRequest later = make_request(3, 10, 1, config.priority_us + 1);
  later.priority = 1;
  rig.add(std::move(later));
  rig.run_all();
  EXPECT_THAT(rig.start_order, ElementsAre(2, 1, 3));
}

// The bound of WaitingQueue: over an endless rush of short prompts a long one waits only for those
// that arrived at most max_overtake_us after it. Checked for every pair.
TEST(SchedulerPlan, NobodyStarves) {
  std::mt19937 random(7);
  SchedulerConfig config = calm_config();
  config.max_num_slots = 1;
  config.enable_prefix_cache = false;
  config.max_overtake_us = 50'000;
  TestRig rig(config);
  constexpr int64_t kStepUs = 1'000;
  std::map<uint64_t, int64_t> arrival_us;
  int64_t now_us = 0;
  // Work arrives as fast as it is done, on top of a backlog: without ageing the long ones would
  // wait to the end.
  for (uint64_t id = 1; id <= 2000; ++id) {
    arrival_us[id] = now_us;
    const bool is_long = id % 20 == 0;
    rig.add(make_request(id, is_long ? 900 : 1 + static_cast<int32_t>(random() % 30), 1, now_us));
    if (id <= 100) continue;
    if (rig.launch(now_us).has_work()) rig.read();
    now_us += kStepUs;
  }
  rig.run_all();
  ASSERT_EQ(rig.start_order.size(), 2000u);
  int64_t latest_before_us = 0;  // latest arrival among those that started earlier
  int num_overtakes = 0;
  for (const uint64_t id : rig.start_order) {
    EXPECT_LE(latest_before_us, arrival_us[id] + config.max_overtake_us) << id;
    num_overtakes += latest_before_us > arrival_us[id];
    latest_before_us = std::max(latest_before_us, arrival_us[id]);
  }
  EXPECT_GT(num_overtakes, 50) << "the bound is tested only if there is overtaking";
}

TEST(SchedulerPlan, NobodyTakesThePagesThatTheFirstWaitsFor) {
  SchedulerConfig config = calm_config();
  config.num_pages = 16;
  TestRig rig(config);
  rig.add(make_request(1, 600, 300));
  rig.launch();
  rig.read();
  rig.add(make_request(2, 500, 10, 0));
  rig.add(make_request(3, 10, 10, 2'000'000));
  StepPlan plan = rig.launch();
  EXPECT_TRUE(plan.admissions.empty()) << "2 does not fit, and 3 is behind it";
  rig.read();
  rig.run_all();
  EXPECT_THAT(rig.start_order, ElementsAre(1, 2, 3));
}

TEST(SchedulerPlan, WatermarkKeepsRoomForTheRunning) {
  SchedulerConfig config = calm_config();
  config.num_pages = 20;
  config.watermark = 0.1;
  TestRig rig(config);
  rig.add(make_request(1, 1000, 10));
  EXPECT_EQ(rig.launch().admissions.size(), 1u);
  rig.read();
  rig.add(make_request(2, 150, 10));
  EXPECT_TRUE(rig.launch().admissions.empty()) << "1 of 20 pages would be left";
  rig.read();
  rig.scheduler.finish(2);
  rig.add(make_request(3, 100, 10));
  EXPECT_EQ(rig.launch().admissions.size(), 1u) << "2 of 20 pages are left";
}

TEST(SchedulerPlan, ALoneSequenceIgnoresTheWatermark) {
  SchedulerConfig config = calm_config();
  config.num_pages = 16;
  config.watermark = 0.5;
  TestRig rig(config);
  rig.add(make_request(1, 1000, 24));
  rig.run_all();
  EXPECT_EQ(rig.outputs[1].size(), 24u);
}

TEST(SchedulerPlan, CopiesWaitForThePagesOfTheFirst) {
  TestRig rig(calm_config());
  for (uint64_t id = 1; id <= 4; ++id) rig.add(make_request(id, 300, 5, 0, 7));
  StepPlan plan = rig.launch();
  EXPECT_EQ(plan.admissions.size(), 1u);
  rig.read();
  plan = rig.launch();
  EXPECT_EQ(plan.admissions.size(), 3u);
  for (const SlotAdmission& admission : plan.admissions) {
    EXPECT_EQ(admission.num_cached_tokens, 256);
  }
  rig.read();
  rig.run_all();
  EXPECT_EQ(rig.executor.num_prefill_tokens(), 300 + 3 * 44);
  EXPECT_EQ(rig.outputs[1], rig.outputs[4]);
}

TEST(SchedulerPlan, CommonBeginningsAreComputedOnce) {
  TestRig rig(calm_config());
  for (uint64_t id = 1; id <= 3; ++id) {
    SequenceRequest request = make_request(id, 300, 5, 0, 7);
    request.prompt[200 + id] = -1;
    rig.add(std::move(request));
  }
  EXPECT_EQ(rig.launch().admissions.size(), 1u);
  rig.read();
  rig.run_all();
  EXPECT_EQ(rig.executor.num_prefill_tokens(), 300 + 2 * 108) << "three pages are common";
}

TEST(SchedulerPlan, CopiesDoNotWaitForOneThatLeft) {
  SchedulerConfig config = calm_config();
  config.max_chunk_tokens = 100;
  TestRig rig(config);
  rig.add(make_request(1, 300, 5, 0, 7));
  rig.add(make_request(2, 300, 5, 0, 7));
  rig.add(make_request(3, 50, 5));
  StepPlan plan = rig.launch();
  EXPECT_THAT(rig.start_order, ElementsAre(3, 1)) << "others pass the one that waits for a page";
  rig.read();
  rig.scheduler.finish(1);
  plan = rig.launch();
  ASSERT_EQ(plan.admissions.size(), 1u);
  EXPECT_EQ(plan.admissions[0].num_cached_tokens, 64) << "what 1 had computed";
}

TEST(SchedulerPlan, OtherSaltsShareNothing) {
  TestRig rig(calm_config());
  SequenceRequest first = make_request(1, 300, 5, 0, 7), second = make_request(2, 300, 5, 0, 7);
  second.cache_salt = "tenant";
  second.rng_seed += 1;
  rig.add(std::move(first));
  rig.add(std::move(second));
  EXPECT_EQ(rig.launch().admissions.size(), 2u);
  rig.read();
  rig.run_all();
  EXPECT_EQ(rig.executor.num_prefill_tokens(), 600);
}

TEST(SchedulerPlan, AnswersAreReusedUnlessReuseIsExact) {
  for (const bool exact : {false, true}) {
    SchedulerConfig config = calm_config();
    config.exact_prefix_reuse = exact;
    TestRig rig(config);
    rig.add(make_request(1, 100, 200));
    rig.run_all();
    SequenceRequest next_turn = make_request(2, 100, 1, 0, 1001);
    for (const int32_t token : rig.outputs[1]) next_turn.prompt.push_back(token);
    rig.add(std::move(next_turn));
    EXPECT_EQ(rig.launch().admissions.at(0).num_cached_tokens, exact ? 64 : 256) << exact;
  }
}

// Two sequences grow until the pool is full.
TEST(SchedulerPlan, TheLatestStartedIsPreemptedAndComputedAgain) {
  SchedulerConfig config = calm_config();
  config.num_pages = 6;
  config.max_model_len = 384;
  TestRig rig(config);
  rig.add(make_request(1, 100, 200));
  rig.launch();
  rig.read();
  rig.add(make_request(2, 100, 150));
  rig.launch();
  rig.read();
  SequenceRequest urgent = make_request(3, 100, 10);
  urgent.priority = 1000;
  std::vector<PrefillChunk> replays;
  int32_t prompt_len_again = 0;
  while (!rig.scheduler.idle()) {
    if (rig.scheduler.stats().num_preemptions == 1 && urgent.sampling)
      rig.add(std::exchange(urgent, {}));
    const StepPlan plan = rig.launch();
    for (const SlotAdmission& admission : plan.admissions) prompt_len_again = admission.prompt_len;
    for (const PrefillChunk& chunk : plan.prefill_chunks) {
      EXPECT_EQ(chunk.kind, chunk.start < 100 ? ChunkKind::kPrompt : ChunkKind::kReplay);
      EXPECT_TRUE(chunk.start >= 100 || chunk.start + chunk.length <= 100);
      if (chunk.kind == ChunkKind::kReplay) replays.push_back(chunk);
    }
    rig.read();
  }
  EXPECT_GE(rig.scheduler.stats().num_preemptions, 1);
  EXPECT_EQ(rig.start_order.front(), 1u);
  EXPECT_EQ(std::ranges::count(rig.start_order, 1u), 1) << "the senior one never gives way";
  EXPECT_GE(std::ranges::count(rig.start_order, 2u), 2);
  EXPECT_EQ(rig.start_order.back(), 3u) << "the queue's front is for the preempted";
  ASSERT_FALSE(replays.empty());
  EXPECT_TRUE(replays.back().samples);
  EXPECT_EQ(prompt_len_again, 100);

  TestRig alone(config);
  alone.add(make_request(2, 100, 150));
  alone.run_all();
  EXPECT_EQ(rig.outputs[2], alone.outputs[2]);
}

TEST(SchedulerPlan, AJuniorWaitsRatherThanPreemptASenior) {
  SchedulerConfig config = calm_config();
  config.num_pages = 6;
  config.max_model_len = 384;
  TestRig rig(config);
  rig.add(make_request(1, 190, 40));
  rig.launch();
  rig.read();
  rig.add(make_request(2, 180, 60));  // needs its fourth page when none is left
  while (!rig.scheduler.idle()) {
    rig.launch();
    rig.read();
  }
  EXPECT_GT(rig.scheduler.stats().num_stalled_rows + rig.scheduler.stats().num_preemptions, 0);
  EXPECT_EQ(std::ranges::count(rig.start_order, 1u), 1);
  EXPECT_EQ(rig.outputs[1].size(), 40u);
  EXPECT_EQ(rig.outputs[2].size(), 60u);
}

TEST(SchedulerPlan, NobodyIsPreemptedForPagesThatComeBackAnyway) {
  SchedulerConfig config = calm_config();
  config.num_pages = 6;
  config.max_model_len = 384;
  config.max_steps_in_flight = 2;
  TestRig rig(config);
  rig.add(make_request(1, 126, 100));
  rig.add(make_request(2, 100, 100, 1'000'000));
  rig.add(make_request(3, 100, 100, 2'000'000));
  rig.launch();
  rig.read();
  rig.launch();
  rig.launch();
  rig.scheduler.finish(3);
  rig.read();
  StepPlan plan = rig.launch();
  EXPECT_EQ(plan.decode_rows.size(), 1u) << "1 needs a third page, and 3 is in flight with two";
  EXPECT_EQ(rig.sequence_in_slot[plan.decode_rows.at(0).slot], 2u);
  rig.read();
  plan = rig.launch();
  EXPECT_EQ(plan.decode_rows.size(), 2u);
  EXPECT_EQ(rig.scheduler.stats().num_preemptions, 0);
  EXPECT_EQ(rig.scheduler.stats().num_stalled_rows, 1);
}

TEST(SchedulerPlan, RowsHavePagesForEveryDraftOfTwoSteps) {
  SchedulerConfig config = calm_config();
  config.draft_len = 3;
  config.max_steps_in_flight = 2;
  TestRig rig(config);
  rig.add(make_request(1, 57, 100));
  rig.launch();
  EXPECT_TRUE(rig.launch().page_grants.empty()) << "feeds positions 57 to 60, drafts at 61 to 63";
  rig.read();
  const StepPlan plan = rig.launch();
  ASSERT_EQ(plan.page_grants.size(), 1u) << "step 2 may end at 62 tokens, step 3 feed 61 to 64";
  EXPECT_EQ(plan.draft_len, 3);
}

}  // namespace
}  // namespace deepflight
