// Ranges, the text of --mtp-relaxed, and the sums of what became of drafts.
#include "runtime/speculative/speculative_config.h"

#include <gtest/gtest.h>

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
  for (const char* text : {"topn", "topn=", "topn=0", "topn=101", "topn=-1", "topn=x", "topn=5x",
                           "delta=1.5", "delta=-0.1", "delta=nan", "top=5", "topn=5;delta=1",
                           "topn=5,,delta=1", ",", "=", "topn=99999999999999999999"}) {
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
