// The cutting of groups into parts: everything once, in order, nothing above the payload, and the
// payloads that the kernel tries suffice.
#include "compute/cuda/kernels/attention/mla_decode/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace deepflight::cuda_mla_decode {
namespace {

// Parts that a payload needs; checks what is emitted.
int fill(const std::vector<int>& pages, int max_parts, int payload, bool whole = false) {
  std::vector<int> cost(max_parts + 1);
  int group = 0, page = 0, last_part = 0;
  const auto pages_of = [&](int i) { return pages[i]; };
  const int used = fill_parts(static_cast<int>(pages.size()), max_parts, payload, whole, pages_of,
                              [&](int part, int g, int first, int end) {
                                EXPECT_GE(part, last_part);
                                EXPECT_LT(part, max_parts);
                                last_part = part;
                                EXPECT_EQ(g, group);
                                EXPECT_EQ(first, page);
                                cost[part] += cost_of(end - first);
                                if (end == pages[g]) {
                                  ++group;
                                  page = 0;
                                } else {
                                  EXPECT_FALSE(whole);
                                  EXPECT_GT(end, first);
                                  EXPECT_EQ((end - first) % 2, 0);
                                  page = end;
                                }
                              });
  for (const int c : cost) EXPECT_LE(c, payload);
  if (used <= max_parts) {
    EXPECT_EQ(group, static_cast<int>(pages.size()));
  }
  return used;
}

// The least payload that does of those that the kernel tries; the last one always does.
int tried_payload(const std::vector<int>& pages, int num_parts, bool whole) {
  int64_t total = 0;
  for (const int p : pages) total += cost_of(p);
  const int largest = cost_of(*std::max_element(pages.begin(), pages.end()));
  const auto payload = [&](int trial) {
    return trial_payload(total, num_parts, largest, whole, trial);
  };
  EXPECT_LE(fill(pages, num_parts, payload(kTrials - 1), whole), num_parts);
  int best = 0;
  while (fill(pages, num_parts, payload(best), whole) > num_parts) ++best;
  EXPECT_LT(best, kTrials);
  return payload(best);
}

TEST(MlaDecodeSchedule, Fills) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const int max_parts = std::vector<int>{1, 11, 33, 66, 132}[random() % 5];
    std::vector<int> pages(1 + random() % 200);
    const int longest = 1 + static_cast<int>(random() % 2000);
    for (int& p : pages) {
      p = random() % 4 == 0 ? static_cast<int>(random() % 3) : static_cast<int>(random() % longest);
    }
    for (const bool whole : {false, true}) tried_payload(pages, max_parts, whole);
  }
}

// Equal sequences: whole ones, not splits for 3% of balance.
TEST(MlaDecodeSchedule, LeavesEqualSequencesWhole) {
  struct Step {
    int num_sequences, num_parts, pages;
    bool whole;
  };
  for (const Step& step :
       {Step{64, 66, 64, true}, Step{128, 33, 64, true}, Step{128, 33, 128, true},
        Step{128, 66, 256, true}, Step{100, 66, 64, false}, Step{80, 66, 8, false},
        Step{16, 66, 64, false}}) {
    SCOPED_TRACE(::testing::Message() << step.num_sequences << " of " << step.pages);
    const std::vector<int> pages(step.num_sequences, step.pages);
    const int cut = tried_payload(pages, step.num_parts, false);
    const int whole = tried_payload(pages, step.num_parts, true);
    EXPECT_EQ(stays_whole(cut, whole), step.whole);
    const int each = (step.num_sequences + step.num_parts - 1) / step.num_parts;
    EXPECT_GE(whole, each * cost_of(step.pages));
    EXPECT_EQ(fill(pages, step.num_parts, whole, true), (step.num_sequences + each - 1) / each);
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
