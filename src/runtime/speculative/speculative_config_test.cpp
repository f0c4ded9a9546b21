// Ranges, the text of --mtp-relaxed, and the sums of what became of drafts.
#include "runtime/speculative/speculative_config.h"

#include <gtest/gtest.h>

#include "runtime/speculative/draft_policy.h"
#include "runtime/speculative/draft_stats.h"

namespace deepflight {
namespace {

TEST(SpeculativeConfig, RelaxedText) {
  SpeculativeConfig config;
  ASSERT_TRUE(parse_relaxed("topn=10,delta=0.6", &config).ok());
  EXPECT_EQ(config.relaxed_topn, 10);
  EXPECT_EQ(config.relaxed_delta, 0.6f);
  ASSERT_TRUE(parse_relaxed("delta=0.25", &config).ok());
  EXPECT_EQ(config.relaxed_topn, 10) << "the default";
  EXPECT_EQ(config.relaxed_delta, 0.25f);
  ASSERT_TRUE(parse_relaxed("topn=3", &config).ok());
  EXPECT_EQ(config.relaxed_topn, 3);
  for (const char* text :
       {"topn", "topn=", "topn=0", "topn=2.5", "topn=101", "topn=-1", "topn=x", "topn=5x",
        "delta=1.5", "delta=-0.1", "delta=nan", "top=5", "topn=5;delta=1", "topn=5,,delta=1", ",",
        "=", "topn=99999999999999999999"}) {
    const Status status = parse_relaxed(text, &config);
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.error().message.find("--mtp-relaxed"), 0u) << status.error().message;
  }
}

TEST(SpeculativeConfig, Modules) {
  SpeculativeConfig config;
  EXPECT_EQ(config.num_modules(), 0);
  config.draft_len = 3;
  EXPECT_EQ(config.num_modules(), 1);
  config.mode = MtpMode::kVanilla;
  EXPECT_EQ(config.num_modules(), 3);
  EXPECT_TRUE(config.validate().ok());
  config.draft_len = 6;
  EXPECT_FALSE(config.validate().ok());
}

TEST(DraftPolicy, AlwaysInSmallBatches) {
  DraftPolicy always({}, 3);
  DraftPolicy policy({.max_rows = 8, .min_tokens = 2.0}, 3);
  for (int i = 0; i < 100; ++i) {
    for (DraftPolicy* each : {&always, &policy}) each->note(3, 0);
    EXPECT_EQ(always.choose(1000), 3);
    EXPECT_EQ(policy.choose(8), 3);
  }
  EXPECT_EQ(policy.choose(9), 0);
  EXPECT_EQ(policy.choose(8), 3);
}

TEST(DraftPolicy, InLargeBatchesWhileTheyAreAccepted) {
  DraftPolicy policy({.max_rows = 8, .min_tokens = 2.0}, 3);
  EXPECT_EQ(policy.choose(9), 3) << "nothing is known yet";
  for (int i = 0; i < 10000; ++i) policy.note(3, i % 3);  // 2 tokens a row and step
  EXPECT_NEAR(policy.tokens_per_row(), 2.0, 0.01);
  for (int i = 0; i < 10; ++i) policy.note(3, 3);
  EXPECT_EQ(policy.choose(9), 3);
  for (int i = 0; i < 50; ++i) policy.note(3, 0);
  EXPECT_EQ(policy.choose(9), 0);
}

// Off for long, then tried again until enough rows have shown what they are worth.
TEST(DraftPolicy, Probes) {
  DraftPolicy policy({.max_rows = 8, .min_tokens = 2.0}, 3);
  const auto step = [&](int accepted) {  // of ten rows
    const int32_t draft_len = policy.choose(10);
    for (int i = 0; i < 10 && draft_len > 0; ++i) policy.note(draft_len, accepted);
    return draft_len;
  };
  for (int i = 0; i < 100; ++i) policy.note(3, 0);
  for (const int accepted : {0, 0, 3}) {
    int num_off = 0, num_on = 1;
    while (step(accepted) == 0) ++num_off;
    EXPECT_GE(num_off, DraftPolicy::kProbeEvery - 1);
    EXPECT_LE(num_off, DraftPolicy::kProbeEvery);
    while (num_on < 1000 && step(accepted) == 3) ++num_on;
    EXPECT_EQ(num_on, accepted == 3 ? 1000 : 7);
  }
}

TEST(DraftStats, ByPlace) {
  DraftStats stats;
  EXPECT_EQ(stats.tokens_per_row(), 1.0);
  stats.add(0, 0);  // a row without drafts
  stats.add(3, 3);
  stats.add(3, 1);
  stats.add(3, 0);
  stats.add(2, 2);
  EXPECT_EQ(stats.num_rows, 4);
  EXPECT_EQ(stats.num_draft_tokens, 11);
  EXPECT_EQ(stats.num_accepted, 6);
  EXPECT_EQ(stats.num_accepted_at, (std::array<int64_t, kMaxDraftLen>{3, 2, 1, 0, 0}));
  EXPECT_EQ(stats.tokens_per_row(), 2.5);
}

}  // namespace
}  // namespace deepflight
