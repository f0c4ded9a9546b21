// Blocks by a KvCache of their own; jobs to the copying thread and back.
#include "runtime/kvcache/host_tier.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace deepflight {

HostTier::HostTier(const Config& config, Copy copy)
    : config_(config), copy_(std::move(copy)), blocks_(config.num_blocks) {
  if (!config_.own_thread) return;
  thread_ = std::thread([this] {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
      }
      run_one();
    }
  });
}

HostTier::~HostTier() { stop(); }

void HostTier::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    waiting_.clear();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  // Blocks of unfinished saves stay held: the tier is not used again.
  saves_.clear();
  fetches_.clear();
  num_unfinished_ = 0;
}

bool HostTier::run_one() {
  Ticket ticket;
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty()) return false;
    ticket = waiting_.front();
    waiting_.pop_front();
  }
  ticket.ok = copy_(ticket.job);
  const std::lock_guard lock(mutex_);
  finished_.push_back(ticket);
  return true;
}

void HostTier::start(uint64_t id, const Job& job) {
  ++num_unfinished_;
  {
    const std::lock_guard lock(mutex_);
    // A request waits for what goes to the device, nobody for the rest.
    const auto position =
        job.to_device ? std::ranges::find_if(
                            waiting_, [](const Ticket& ticket) { return !ticket.job.to_device; })
                      : waiting_.end();
    waiting_.insert(position, {id, job});
  }
  changed_.notify_all();
}

int32_t HostTier::count(std::span<const PageHash> hashes) const {
  int32_t num_found = 0;
  for (const PageHash& hash : hashes) {
    if (blocks_.find(hash) == kNoPage) break;
    ++num_found;
  }
  return num_found;
}

uint64_t HostTier::fetch(std::span<const PageHash> hashes, std::span<const PageId> pages) {
  CHECK(hashes.size() == pages.size() && !pages.empty(), hashes.size(), pages.size());
  std::vector<PageId> blocks;
  for (const PageHash& hash : hashes) {
    blocks.push_back(blocks_.find(hash));
    CHECK(blocks.back() != kNoPage, "a page that was not counted");
  }
  const uint64_t id = next_id_++;
  Fetch& fetch = fetches_[id];
  fetch.blocks = blocks_.lease(blocks);
  fetch.num_left = static_cast<int32_t>(pages.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    start(id, {.to_device = true, .block = blocks[i], .page = pages[i]});
  }
  return id;
}

bool HostTier::wants(const PageHash& hash) const {
  return blocks_.find(hash) == kNoPage && !saving_.contains(hash);
}

void HostTier::offer(const PageHash& hash, Retention retention, PageLease page) {
  CHECK(page.pages().size() == 1, page.pages().size());
  std::vector<PageId> block;
  if (std::ssize(saves_) >= config_.max_saves || !wants(hash) || !blocks_.allocate(1, &block)) {
    ++stats_.num_dropped;
    return;
  }
  const uint64_t id = next_id_++;
  const PageId source = page.pages()[0];
  saving_.insert(hash);
  saves_[id] = {hash, retention, std::move(page), block[0]};
  start(id, {.to_device = false, .block = block[0], .page = source});
}

std::vector<PrefixSource::Arrival> HostTier::poll() {
  if (num_unfinished_ == 0) return {};
  std::vector<Ticket> finished;
  {
    const std::lock_guard lock(mutex_);
    finished.swap(finished_);
  }
  std::vector<Arrival> arrivals;
  for (const Ticket& ticket : finished) finish(ticket, &arrivals);
  return arrivals;
}

void HostTier::finish(const Ticket& ticket, std::vector<Arrival>* arrivals) {
  --num_unfinished_;
  if (const auto entry = saves_.find(ticket.id); entry != saves_.end()) {
    Save& save = entry->second;
    if (ticket.ok) {
      blocks_.publish(save.block, save.hash, save.retention);
      ++stats_.num_saved;
    }
    blocks_.release({&save.block, 1});
    saving_.erase(save.hash);
    saves_.erase(entry);
    return;
  }
  const auto entry = fetches_.find(ticket.id);
  CHECK(entry != fetches_.end(), ticket.id);
  Fetch& fetch = entry->second;
  fetch.ok = fetch.ok && ticket.ok;
  stats_.num_loaded += ticket.ok;
  if (--fetch.num_left > 0) return;
  arrivals->push_back({ticket.id, fetch.ok});
  fetches_.erase(entry);
}

PrefixSourceStats HostTier::stats() const {
  PrefixSourceStats stats = stats_;
  stats.num_blocks = blocks_.num_pages();
  stats.num_used_blocks = blocks_.num_pages() - blocks_.stats().num_free_pages;
  return stats;
}

void HostTier::check_integrity() const {
  blocks_.check_integrity();
  CHECK(saving_.size() == saves_.size(), saving_.size(), saves_.size());
  int64_t num_jobs = std::ssize(saves_);
  for (const auto& [id, fetch] : fetches_) {
    CHECK(fetch.num_left > 0, id);
    num_jobs += fetch.num_left;
  }
  CHECK(num_jobs == num_unfinished_, num_jobs, num_unfinished_);
  CHECK(blocks_.num_holds() == blocks_.num_leased() + std::ssize(saves_), blocks_.num_holds());
}

}  // namespace deepflight
