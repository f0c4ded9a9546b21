// Pages from and to the source behind the pool. An arriving page is held and announced like one
// that a running sequence computes, so the sequences that begin with it wait; when it is there it
// is published, and they find it as they find any other.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "runtime/scheduler/scheduler.h"

namespace deepflight {

// Asks for the pages that a waiting sequence lacks next. True: some are on their way.
bool Scheduler::begin_arrival(SequenceState* sequence, const PrefixProbe& probe) {
  if (source_ == nullptr || sequence->asked_source) return false;
  const int32_t num_shareable =
      std::min(sequence->chain.num_pages(), max_matched_pages(sequence->num_tokens()));
  const auto hashes = sequence->chain.hashes();
  const int32_t num_there =
      source_->count(hashes.subspan(probe.num_pages, std::max(num_shareable - probe.num_pages, 0)));
  if (num_there == 0) return false;
  // Once for each admission: what is lost again before it gets there is computed.
  sequence->asked_source = true;
  Arrival arrival;
  arrival.retention = sequence->request.retention;
  arrival.prefix = kv_.lease(kv_.matched_pages(sequence->chain, sequence->num_tokens()));
  const bool allocated = kv_.allocate(num_there, &arrival.pages);
  CHECK(allocated, num_there, kv_.num_available());  // fits() said so
  const auto wanted = hashes.subspan(probe.num_pages, num_there);
  arrival.hashes.assign(wanted.begin(), wanted.end());
  for (const PageHash& hash : arrival.hashes) ++announced_[hash];
  const uint64_t id = source_->fetch(arrival.hashes, arrival.pages);
  arrivals_.emplace(id, std::move(arrival));
  return true;
}

void Scheduler::take_arrivals() {
  if (source_ == nullptr) return;
  for (const PrefixSource::Arrival& told : source_->poll()) {
    const auto entry = arrivals_.find(told.fetch_id);
    CHECK(entry != arrivals_.end(), told.fetch_id);
    const Arrival arrival = std::move(entry->second);
    arrivals_.erase(entry);
    for (size_t i = 0; i < arrival.pages.size(); ++i) {
      const auto announced = announced_.find(arrival.hashes[i]);
      if (--announced->second == 0) announced_.erase(announced);
      if (told.ok) kv_.publish(arrival.pages[i], arrival.hashes[i], arrival.retention);
    }
    kv_.release(arrival.pages);
  }
}

void Scheduler::offer_page(PageId page, const PageHash& hash, Retention retention) {
  if (source_ == nullptr || !source_->wants(hash)) return;
  source_->offer(hash, retention, kv_.lease({&page, 1}));
}

}  // namespace deepflight
