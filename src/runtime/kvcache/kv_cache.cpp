// The pool and the index kept in step.
#include "runtime/kvcache/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace deepflight {
namespace {

std::span<const PageHash> matchable(const PageChain& chain, int32_t num_tokens) {
  return chain.hashes().first(std::min(chain.num_pages(), max_matched_pages(num_tokens)));
}

}  // namespace

PageLease::PageLease(PageLease&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      pages_(std::move(other.pages_)),
      epochs_(std::move(other.epochs_)) {}

PageLease& PageLease::operator=(PageLease&& other) noexcept {
  if (this == &other) return *this;
  reset();
  cache_ = std::exchange(other.cache_, nullptr);
  pages_ = std::move(other.pages_);
  epochs_ = std::move(other.epochs_);
  return *this;
}

PageLease::~PageLease() { reset(); }

void PageLease::reset() {
  if (cache_ == nullptr) return;
  cache_->num_leased_ -= static_cast<int64_t>(pages_.size());
  cache_->release(pages_);
  cache_ = nullptr;
}

bool KvCache::allocate(int32_t count, std::vector<PageId>* pages) {
  if (count > num_available()) return false;
  for (int32_t i = 0; i < count; ++i) {
    bool evicted = false;
    const PageId page = pool_.take(&evicted);
    CHECK(page != kNoPage, count, num_available());
    if (evicted) {
      index_.erase(page);
      ++num_evictions_;
    }
    pages->push_back(page);
  }
  return true;
}

void KvCache::release(std::span<const PageId> pages) {
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) pool_.release(*page);
}

PageLease KvCache::lease(std::span<const PageId> pages) {
  PageLease lease;
  lease.pages_.assign(pages.begin(), pages.end());
  for (const PageId page : pages) {
    pool_.hold(page);
    lease.epochs_.push_back(pool_.epoch(page));
  }
  lease.cache_ = this;
  num_leased_ += static_cast<int64_t>(pages.size());
  return lease;
}

PrefixProbe KvCache::probe(const PageChain& chain, int32_t num_tokens) const {
  PrefixProbe probe;
  for (const PageHash& hash : matchable(chain, num_tokens)) {
    const PageId page = index_.find(hash);
    if (page == kNoPage) break;
    ++probe.num_pages;
    probe.num_idle_pages += pool_.num_holders(page) == 0;
  }
  return probe;
}

std::vector<PageId> KvCache::matched_pages(const PageChain& chain, int32_t num_tokens) const {
  std::vector<PageId> pages;
  for (const PageHash& hash : matchable(chain, num_tokens)) {
    const PageId page = index_.find(hash);
    if (page == kNoPage) break;
    pages.push_back(page);
  }
  return pages;
}

int32_t KvCache::match_prefix(const PageChain& chain, int32_t num_tokens,
                              std::vector<PageId>* pages) {
  int32_t num_matched = 0;
  for (const PageHash& hash : matchable(chain, num_tokens)) {
    const PageId page = index_.find(hash);
    if (page == kNoPage) break;
    pool_.hold(page);
    pages->push_back(page);
    ++num_matched;
  }
  query_tokens_ += num_tokens;
  hit_tokens_ += static_cast<int64_t>(num_matched) * kPageTokens;
  return num_matched;
}

bool KvCache::publish(PageId page, const PageHash& hash, Retention retention) {
  CHECK(num_holders(page) > 0 && !is_published(page), page);
  if (!index_.insert(hash, page)) return false;
  pool_.set_published(page, retention);
  return true;
}

void KvCache::unpublish(PageId page) {
  pool_.clear_published(page);
  index_.erase(page);
}

void KvCache::unpublish_all() {
  for (PageId page = 0; page < num_pages(); ++page) {
    if (is_published(page)) unpublish(page);
  }
}

KvCacheStats KvCache::stats() const {
  return {.num_pages = pool_.num_pages(),
          .num_free_pages = pool_.num_free(),
          .num_idle_pages = pool_.num_idle(),
          .query_tokens = query_tokens_,
          .hit_tokens = hit_tokens_,
          .num_evictions = num_evictions_};
}

void KvCache::check_integrity() const {
  pool_.check_integrity();
  int32_t num_published = 0;
  for (PageId page = 0; page < num_pages(); ++page) {
    index_.check_page(page, is_published(page));
    num_published += is_published(page);
  }
  CHECK(num_published == index_.size(), num_published, index_.size());
  CHECK(num_leased_ >= 0 && num_leased_ <= num_holds(), num_leased_, num_holds());
}

}  // namespace deepflight
