// The cutting of groups into parts: everything once, in order, nothing above the payload, and the
// payloads that the kernel tries suffice.
#include "compute/cuda/kernels/attention/mla_decode/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace deepflight::cuda_mla_decode {
namespace {

// Parts that are needed; checks what is emitted.
int fill(const std::vector<int>& pages, const Filling& f) {
  std::vector<int> cost(f.max_parts + 1);
  int group = 0, page = 0, last_part = 0;
  const auto pages_of = [&](int i) { return pages[i]; };
  const int used = fill_parts(f, pages_of, [&](int part, int g, int first, int end) {
    EXPECT_GE(part, last_part);
    EXPECT_LT(part, f.max_parts);
    last_part = part;
    EXPECT_EQ(g, group);
    EXPECT_EQ(first, page);
    cost[part] += cost_of(end - first, f.group_cost);
    if (end == pages[g]) {
      ++group;
      page = 0;
    } else {
      EXPECT_FALSE(f.whole);
      EXPECT_GT(end, first);
      EXPECT_EQ((end - first) % 2, 0);
      page = end;
    }
  });
  for (const int c : cost) EXPECT_LE(c, f.payload);
  if (used <= f.max_parts) {
    EXPECT_EQ(group, static_cast<int>(pages.size()));
  }
  return used;
}

// With the least payload that does of those that the kernel tries; the last one always does.
Filling tried(const std::vector<int>& pages, int max_parts, PageFormat format, bool whole) {
  Filling f = {static_cast<int>(pages.size()), max_parts, group_cost(format), 0, whole};
  Costs costs;
  for (const int p : pages) costs.add(cost_of(p, f.group_cost));
  const auto fits = [&](int trial) {
    f.payload = trial_payload(costs, max_parts, f.group_cost, whole, trial);
    return fill(pages, f) <= max_parts;
  };
  EXPECT_TRUE(fits(kTrials - 1));
  int best = 0;
  while (!fits(best)) ++best;
  EXPECT_LT(best, kTrials);
  return f;
}

constexpr PageFormat kFormats[] = {PageFormat::kBF16, PageFormat::kF8E4M3};

TEST(MlaDecodeSchedule, Fills) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const int max_parts = std::vector<int>{1, 11, 33, 66, 132}[random() % 5];
    std::vector<int> pages(1 + random() % 200);
    const int longest = 1 + static_cast<int>(random() % 2000);
    for (int& p : pages) {
      p = random() % 4 == 0 ? static_cast<int>(random() % 3) : static_cast<int>(random() % longest);
    }
    for (const PageFormat format : kFormats) {
      for (const bool whole : {false, true}) tried(pages, max_parts, format, whole);
    }
  }
}

// Equal sequences: whole ones, not splits for 3% of balance.
TEST(MlaDecodeSchedule, LeavesEqualSequencesWhole) {
  struct Step {
    int num_sequences, num_parts, pages;
    bool whole;
  };
  for (const PageFormat format : kFormats) {
    for (const Step& step :
         {Step{64, 66, 64, true}, Step{128, 33, 64, true}, Step{128, 33, 128, true},
          Step{128, 66, 256, true}, Step{100, 66, 64, false}, Step{80, 66, 8, false},
          Step{16, 66, 64, false}}) {
      SCOPED_TRACE(::testing::Message() << step.num_sequences << " of " << step.pages);
      const std::vector<int> pages(step.num_sequences, step.pages);
      const Filling cut = tried(pages, step.num_parts, format, false);
      const Filling whole = tried(pages, step.num_parts, format, true);
      EXPECT_EQ(stays_whole(cut.payload, whole.payload), step.whole);
      const int each = (step.num_sequences + step.num_parts - 1) / step.num_parts;
      EXPECT_GE(whole.payload, each * cost_of(step.pages, whole.group_cost));
      EXPECT_EQ(fill(pages, whole), (step.num_sequences + each - 1) / each);
    }
  }
}

// A step takes as long as its longest part: an even share, and at most what two cuts cost.
TEST(MlaDecodeSchedule, SharesUnequalLengthsEvenly) {
  for (const PageFormat format : kFormats) {
    for (const int num_parts : {33, 66, 132}) {
      std::vector<int> pages;
      int cost = 0;
      for (int i = 0; i < 128; ++i) {  // 20 to 32768 tokens
        const double tokens = 20 * std::pow(32768.0 / 20, i / 127.0);
        pages.push_back((static_cast<int>(tokens) + kPageTokens - 1) / kPageTokens);
        cost += cost_of(pages.back(), group_cost(format));
      }
      const Filling f = tried(pages, num_parts, format, false);
      EXPECT_LE(f.payload, cost / num_parts + 2 * f.group_cost + 2) << num_parts;
    }
  }
}

TEST(MlaDecodeSchedule, Visible) {
  EXPECT_EQ(visible_tokens(10, 3, 0), 8);
  EXPECT_EQ(visible_tokens(1, 3, 0), 0);
  EXPECT_EQ(visible_pages(65, 1, 128, 0), 2);
  EXPECT_EQ(visible_pages(65, 2, 128, 0), 1);  // the first token's heads
  EXPECT_EQ(visible_pages(65, 2, 128, 3), 2);
  EXPECT_EQ(visible_pages(65, 2, 16, 0), 2);
  EXPECT_EQ(visible_pages(0, 1, 16, 0), 0);
  EXPECT_EQ(tiles_of(1, 128), 2);
  EXPECT_EQ(tiles_of(6, 16), 2);
}

}  // namespace
}  // namespace deepflight::cuda_mla_decode
