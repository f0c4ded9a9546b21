// HostTier: the prefix cache's second tier, blocks of host memory behind the page pool. Every page
// that is published is copied to it, so that losing the page from the pool costs nothing; blocks
// leave by retention, then least recently used. Copies run on a thread of their own, beside the
// steps.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime/kvcache/prefix_source.h"

namespace deepflight {

class HostTier final : public PrefixSource {
 public:
  struct Job {
    bool to_device = false;
    int32_t block = 0;  // of host memory, in [0, num_blocks)
    PageId page = 0;
  };
  // Copies a page; returns when it is done. False: it failed.
  using Copy = std::function<bool(const Job& job)>;

  struct Config {
    int32_t num_blocks = 0;
    int32_t max_saves = 64;  // pages held for copies to the host; further offers are dropped
    bool own_thread = true;  // else run_one() does the copies
  };

  HostTier(const Config& config, Copy copy);
  ~HostTier() override;

  int32_t count(std::span<const PageHash> hashes) const override;
  uint64_t fetch(std::span<const PageHash> hashes, std::span<const PageId> pages) override;
  std::vector<Arrival> poll() override;
  bool wants(const PageHash& hash) const override;
  void offer(const PageHash& hash, Retention retention, PageLease page) override;
  bool busy() const override { return num_unfinished_ > 0; }
  void stop() override;
  PrefixSourceStats stats() const override;

  // Does the oldest copy that waits, if any.
  bool run_one();
  // CHECKs what must hold between calls; O(blocks).
  void check_integrity() const;

 private:
  struct Save {
    PageHash hash;
    Retention retention = Retention::kNormal;
    PageLease page;
    PageId block = kNoPage;
  };
  struct Fetch {
    PageLease blocks;
    int32_t num_left = 0;
    bool ok = true;
  };
  struct Ticket {
    uint64_t id = 0;  // of the save or fetch
    Job job;
    bool ok = false;
  };

  void start(uint64_t id, const Job& job);
  void finish(const Ticket& ticket, std::vector<Arrival>* arrivals);

  const Config config_;
  const Copy copy_;
  // Of the scheduler's thread. The blocks are kept like pages: held while a copy uses them.
  KvCache blocks_;
  std::unordered_map<uint64_t, Save> saves_;
  std::unordered_map<uint64_t, Fetch> fetches_;
  std::unordered_set<PageHash, PageHashHasher> saving_;
  uint64_t next_id_ = 1;
  int64_t num_unfinished_ = 0;  // jobs not yet seen by poll()
  PrefixSourceStats stats_;

  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::deque<Ticket> waiting_;
  std::vector<Ticket> finished_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace deepflight
