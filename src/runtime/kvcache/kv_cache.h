// KvCache: the pages of one rank's KV pool, who holds them, and which of them serve as prefix
// cache. Invariants: a shared page is never written (only full pages are published, and a match
// leaves at least one token to compute); a held page is never evicted; a page is reused only after
// its last holder, sequence or transfer, has let go. Used by the scheduler's thread alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kvcache/page.h"
#include "runtime/kvcache/page_hash.h"
#include "runtime/kvcache/page_pool.h"
#include "runtime/kvcache/prefix_index.h"

namespace deepflight {

// Full pages that a match may cover of num_tokens known tokens. The last token is always computed:
// its logits are wanted, and it must not be written into a shared page.
constexpr int32_t max_matched_pages(int32_t num_tokens) { return (num_tokens - 1) / kPageTokens; }

struct KvCacheStats {
  int32_t num_pages = 0;
  int32_t num_free_pages = 0;  // never used, or content worthless
  int32_t num_idle_pages = 0;  // held by nobody, kept as prefix cache, evictable
  int64_t query_tokens = 0;    // tokens that were looked up by match_prefix
  int64_t hit_tokens = 0;      // of those, tokens found
  int64_t num_evictions = 0;   // published pages lost to make room
};

// What a match would give now.
struct PrefixProbe {
  int32_t num_pages = 0;       // leading full pages found
  int32_t num_idle_pages = 0;  // of those, pages that a match takes from the available ones
};

class KvCache;

// Pages held on behalf of something other than a sequence, such as a transfer: they keep their
// content until the lease goes, whatever becomes of the sequence. Movable; must not outlive the
// cache. For a peer that cannot be asked to let go, epochs() says later whether a page was reused.
class PageLease {
 public:
  PageLease() = default;
  PageLease(PageLease&& other) noexcept;
  PageLease& operator=(PageLease&& other) noexcept;
  ~PageLease();

  std::span<const PageId> pages() const { return pages_; }
  std::span<const uint32_t> epochs() const { return epochs_; }

 private:
  friend class KvCache;
  void reset();

  KvCache* cache_ = nullptr;
  std::vector<PageId> pages_;
  std::vector<uint32_t> epochs_;
};

class KvCache {
 public:
  explicit KvCache(int32_t num_pages) : pool_(num_pages), index_(num_pages) {}
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int32_t num_pages() const { return pool_.num_pages(); }
  // Pages that allocate() can give: free ones, and idle ones by eviction.
  int32_t num_available() const { return pool_.num_free() + pool_.num_idle(); }

  // Appends `count` pages, held, to *pages. All or nothing: false leaves everything as it was.
  bool allocate(int32_t count, std::vector<PageId>* pages);
  // Lets go of one hold on each page, last page first, so that of a chain the later pages are
  // evicted before those that they build on.
  void release(std::span<const PageId> pages);
  // One more hold on each page, until the lease goes. The pages must be held or published.
  PageLease lease(std::span<const PageId> pages);

  // The longest run of published pages from the first on, for a sequence of num_tokens known tokens
  // whose full pages `chain` names. At least the last token is left to compute.
  PrefixProbe probe(const PageChain& chain, int32_t num_tokens) const;
  // The pages of that run.
  std::vector<PageId> matched_pages(const PageChain& chain, int32_t num_tokens) const;
  // The page published under a name; kNoPage if there is none.
  PageId find(const PageHash& hash) const { return index_.find(hash); }
  // The same, taken: holds the pages, appends them to *pages, counts query and hit.
  int32_t match_prefix(const PageChain& chain, int32_t num_tokens, std::vector<PageId>* pages);

  // Makes a held, full page findable. Its KV must have been computed by a step that completed.
  // False if another page has that content already; this one then stays private.
  bool publish(PageId page, const PageHash& hash, Retention retention = Retention::kNormal);
  // Takes a page out of the prefix cache, held or not.
  void unpublish(PageId page);
  // Empties the prefix cache (new weights, a benchmark's cold start).
  void unpublish_all();

  bool is_published(PageId page) const { return pool_.is_published(page); }
  int32_t num_holders(PageId page) const { return pool_.num_holders(page); }
  int64_t num_holds() const { return pool_.num_holds(); }
  int64_t num_leased() const { return num_leased_; }  // holds that are leases
  uint32_t epoch(PageId page) const { return pool_.epoch(page); }
  KvCacheStats stats() const;

  // CHECKs every invariant; O(pages).
  void check_integrity() const;

 private:
  friend class PageLease;

  PagePool pool_;
  PrefixIndex index_;
  int64_t num_leased_ = 0;
  int64_t query_tokens_ = 0;
  int64_t hit_tokens_ = 0;
  int64_t num_evictions_ = 0;
};

}  // namespace deepflight
