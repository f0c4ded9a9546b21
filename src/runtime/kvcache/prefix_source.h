// PrefixSource: where pages come from that the pool has not (any more): the host's memory
// (host_tier.h), later a remote store. The scheduler asks it before it computes a prompt; pages
// that are on their way are "arriving", and the request is admitted when they are there.
//
// All calls come from the scheduler's thread. Copies run beside them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kvcache/kv_cache.h"

namespace deepflight {

struct PrefixSourceStats {
  int64_t num_blocks = 0;       // pages that it can keep
  int64_t num_used_blocks = 0;  // and keeps
  int64_t num_saved = 0;        // pages copied to it
  int64_t num_loaded = 0;       // and from it
  int64_t num_dropped = 0;      // offers that it had no room or no time for
};

class PrefixSource {
 public:
  virtual ~PrefixSource() = default;

  // How many of these pages it can bring, from the first on.
  virtual int32_t count(std::span<const PageHash> hashes) const = 0;

  // Starts to bring hashes[i], which count() has counted, into pages[i]. The caller holds the
  // pages, and nobody reads or writes them until the arrival is told. Returns a number for it.
  virtual uint64_t fetch(std::span<const PageHash> hashes, std::span<const PageId> pages) = 0;

  struct Arrival {
    uint64_t fetch_id = 0;
    bool ok = false;  // false: the pages hold nothing of use
  };
  // What has come since the last call. Also lets go of leases that are not needed any more.
  virtual std::vector<Arrival> poll() = 0;

  // A page that was published just now. A source that wants a copy says so, and then is given the
  // page until it has one.
  virtual bool wants(const PageHash& hash) const = 0;
  virtual void offer(const PageHash& hash, Retention retention, PageLease page) = 0;

  // Whether poll() has something to tell sooner or later.
  virtual bool busy() const = 0;
  // Ends what runs and lets go of all leases. Before the cache goes.
  virtual void stop() = 0;

  virtual PrefixSourceStats stats() const = 0;
};

}  // namespace deepflight
