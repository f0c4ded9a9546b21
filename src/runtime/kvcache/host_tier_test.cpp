// The host tier by itself: copies in their order, blocks by retention and age, leases that end, and
// random histories against a plain memory.
#include "runtime/kvcache/host_tier.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/check.h"

namespace deepflight {
namespace {

PageHash hash_of(int content) {
  PageHash hash;
  hash.bytes[0] = static_cast<uint8_t>(content);
  hash.bytes[9] = static_cast<uint8_t>(content / 256);
  return hash;
}

// A pool whose pages hold numbers, and a tier behind it.
class TierRig {
 public:
  TierRig(int num_pages, int num_blocks, bool own_thread = false, int max_saves = 64)
      : cache(num_pages),
        device(num_pages, -1),
        host(num_blocks, -1),
        tier({num_blocks, max_saves, own_thread}, [this](const HostTier::Job& job) {
          if (job.to_device) {
            device[job.page] = host[job.block];
          } else {
            host[job.block] = device[job.page];
          }
          return !fails;
        }) {}

  // A page with this content is computed, published, offered and let go of.
  void compute(int content, Retention retention = Retention::kNormal) {
    std::vector<PageId> page;
    CHECK(cache.allocate(1, &page));
    device[page[0]] = content;
    if (cache.publish(page[0], hash_of(content), retention) && tier.wants(hash_of(content))) {
      tier.offer(hash_of(content), retention, cache.lease(page));
    }
    cache.release(page);
  }
  void run_all() {
    while (tier.run_one()) {
    }
    (void)tier.poll();
    tier.check_integrity();
  }
  // What arrives for these contents.
  std::vector<int> fetch(const std::vector<int>& contents) {
    std::vector<PageHash> hashes;
    for (const int content : contents) hashes.push_back(hash_of(content));
    hashes.resize(static_cast<size_t>(tier.count(hashes)));
    if (hashes.empty()) return {};
    std::vector<PageId> pages;
    CHECK(cache.allocate(static_cast<int32_t>(hashes.size()), &pages));
    const uint64_t id = tier.fetch(hashes, pages);
    std::vector<PrefixSource::Arrival> arrivals;
    while (arrivals.empty()) {
      tier.run_one();
      arrivals = tier.poll();
      tier.check_integrity();
    }
    EXPECT_EQ(arrivals[0].fetch_id, id);
    std::vector<int> got;
    for (const PageId page : pages) got.push_back(arrivals[0].ok ? device[page] : -2);
    cache.release(pages);
    return got;
  }

  KvCache cache;
  std::vector<int> device, host;
  bool fails = false;
  HostTier tier;
};

TEST(HostTier, BringsBackWhatThePoolLost) {
  TierRig rig(3, 8);
  for (int i = 0; i < 6; ++i) {
    rig.compute(i);
    rig.run_all();
  }
  EXPECT_EQ(rig.fetch({0, 1, 2}), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(rig.fetch({4, 9, 5}), (std::vector<int>{4}));
  EXPECT_EQ(rig.tier.stats().num_saved, 6);
  EXPECT_EQ(rig.tier.stats().num_loaded, 4);
  EXPECT_EQ(rig.tier.stats().num_used_blocks, 6);
}

TEST(HostTier, ThePageIsHeldUntilTheCopyIsThere) {
  TierRig rig(2, 4);
  rig.compute(1);
  EXPECT_EQ(rig.cache.num_available(), 1);
  EXPECT_TRUE(rig.tier.busy());
  EXPECT_FALSE(rig.tier.wants(hash_of(1)));  // on its way
  EXPECT_EQ(rig.tier.count({{hash_of(1)}}), 0);
  rig.run_all();
  EXPECT_EQ(rig.cache.num_available(), 2);
  EXPECT_FALSE(rig.tier.busy());
  EXPECT_EQ(rig.tier.count({{hash_of(1)}}), 1);
}

TEST(HostTier, BlocksLeaveByRetentionThenAge) {
  TierRig rig(8, 3);
  rig.compute(1, Retention::kHigh);
  rig.compute(2);
  rig.compute(3);
  rig.run_all();
  EXPECT_EQ(rig.fetch({2}), (std::vector<int>{2}));  // younger than 3 now
  rig.compute(4);
  rig.run_all();
  const auto has = [&](int content) { return rig.tier.count({{hash_of(content)}}) == 1; };
  EXPECT_TRUE(has(1) && has(2) && !has(3) && has(4));
  rig.compute(5);
  rig.run_all();
  EXPECT_TRUE(has(1) && !has(2) && has(4) && has(5));
}

TEST(HostTier, OffersBeyondTheBoundAreDropped) {
  TierRig rig(8, 8, false, 2);
  for (int i = 0; i < 5; ++i) rig.compute(i);
  EXPECT_EQ(rig.tier.stats().num_dropped, 3);
  EXPECT_EQ(rig.cache.num_available(), 6);
  rig.run_all();
  EXPECT_EQ(rig.tier.stats().num_saved, 2);
}

TEST(HostTier, FailedCopiesAreTold) {
  TierRig rig(4, 4);
  rig.fails = true;
  rig.compute(1);
  rig.run_all();
  EXPECT_EQ(rig.tier.count({{hash_of(1)}}), 0);
  EXPECT_TRUE(rig.tier.wants(hash_of(1)));
  rig.fails = false;
  rig.compute(2);
  rig.run_all();
  rig.fails = true;
  EXPECT_EQ(rig.fetch({2}), (std::vector<int>{-2}));
}

TEST(HostTier, StopLetsGoOfEverything) {
  TierRig rig(4, 4, true);
  for (int i = 0; i < 4; ++i) rig.compute(i);
  rig.tier.stop();
  EXPECT_EQ(rig.cache.num_available(), 4);
  EXPECT_FALSE(rig.tier.busy());
}

TEST(HostTier, RandomHistoriesWithItsThread) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    TierRig rig(6, 10, true);
    int64_t num_found = 0;
    for (int i = 0; i < 300; ++i) {
      const int content = static_cast<int>(random() % 16);
      if (random() % 3 == 0) {
        const auto got = rig.fetch({content, content + 1});
        for (size_t k = 0; k < got.size(); ++k) ASSERT_EQ(got[k], content + static_cast<int>(k));
        num_found += std::ssize(got);
      } else if (rig.cache.num_available() > 2) {
        rig.compute(content, static_cast<Retention>(random() % 3));
      }
      // Now and then all copies are there before it goes on.
      do {
        (void)rig.tier.poll();
        rig.tier.check_integrity();
      } while (random() % 4 == 0 && rig.tier.busy());
      while (i % 8 == 0 && rig.tier.busy()) (void)rig.tier.poll();
      rig.cache.check_integrity();
    }
    EXPECT_GT(num_found, 10);
  }
}

}  // namespace
}  // namespace deepflight
