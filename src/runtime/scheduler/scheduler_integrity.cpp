// What must hold between any two calls of the scheduler.
#include <algorithm>
#include <set>
#include <unordered_map>

#include "base/check.h"
#include "runtime/scheduler/scheduler.h"

namespace deepflight {
namespace {

void check_lengths(const SequenceState& sequence, const SchedulerConfig& config) {
  const uint64_t id = sequence.request.sequence_id;
  CHECK(sequence.prompt_len >= 1 && sequence.prompt_len <= sequence.num_tokens(), id);
  CHECK(sequence.max_len <= config.max_model_len && sequence.num_tokens() <= sequence.max_len, id);
  CHECK(sequence.chain.num_pages() * kPageTokens <= sequence.num_tokens(), id);
  CHECK(sequence.num_computed < sequence.num_tokens(), id, sequence.num_computed);
  CHECK(sequence.num_computed <= sequence.num_planned || !sequence.prefilling(), id);
  CHECK(sequence.num_published_pages * kPageTokens <= sequence.num_computed, id);
}

}  // namespace

void Scheduler::check_integrity() const {
  kv_.check_integrity();
  check_places();
  check_ownership();
  check_in_flight();
}

// Each sequence is in the one place that its status names.
void Scheduler::check_places() const {
  size_t num_placed = 0;
  for (const WaitingQueue::Entry& entry : waiting_) {
    const SequenceState& sequence = *entry.sequence;
    CHECK(sequence.status == SequenceStatus::kWaiting, sequence.request.sequence_id);
    CHECK(sequence.slot == kNoSlot && sequence.pages.empty(), sequence.request.sequence_id);
    CHECK(sequence.in_flight.num_steps == 0, sequence.request.sequence_id);
    ++num_placed;
  }
  for (size_t i = 0; i < running_.size(); ++i) {
    const SequenceState& sequence = *running_[i];
    CHECK(sequence.status == SequenceStatus::kRunning, sequence.request.sequence_id);
    CHECK(i == 0 || running_[i - 1]->start_order < sequence.start_order, i);
    CHECK(sequence.num_tokens() < sequence.max_len, sequence.request.sequence_id);
    ++num_placed;
  }
  for (const SequenceState* sequence : leaving_) {
    CHECK(sequence->status == SequenceStatus::kPreempting ||
              sequence->status == SequenceStatus::kFinished,
          sequence->request.sequence_id);
    CHECK(sequence->in_flight.num_steps > 0, sequence->request.sequence_id);
    ++num_placed;
  }
  CHECK(num_placed == sequences_.size(), num_placed, sequences_.size());
}

// Slots are free or owned by one sequence; pages are held exactly as often as sequences list them.
void Scheduler::check_ownership() const {
  std::set<SlotId> slots(free_slots_.begin(), free_slots_.end());
  CHECK(slots.size() == free_slots_.size(), "a slot is free twice");
  for (const SlotId slot : retired_slots_) CHECK(slots.contains(slot), slot);
  std::unordered_map<PageId, int32_t> num_holders;
  std::unordered_map<PageHash, int32_t, PageHashHasher> announced;
  int64_t num_holds = 0;
  for (const auto& [id, owned] : sequences_) {
    const SequenceState& sequence = *owned;
    check_lengths(sequence, config_);
    if (sequence.status == SequenceStatus::kWaiting) continue;
    CHECK(sequence.slot >= 0 && sequence.slot < config_.max_num_slots, id, sequence.slot);
    CHECK(slots.insert(sequence.slot).second, id, sequence.slot);
    CHECK(std::ssize(sequence.pages) <= config_.max_pages_per_slot(), id, sequence.pages.size());
    CHECK(std::ssize(sequence.pages) >= pages_for(sequence.num_computed), id);
    for (const PageId page : sequence.pages) ++num_holders[page];
    num_holds += std::ssize(sequence.pages);
    for (int32_t i = sequence.num_published_pages; i < sequence.num_announced_pages; ++i) {
      ++announced[sequence.chain.hashes()[i]];
    }
  }
  for (const auto& [id, arrival] : arrivals_) {
    CHECK(!arrival.pages.empty() && arrival.pages.size() == arrival.hashes.size(), id);
    for (const PageId page : arrival.pages) {
      CHECK(kv_.num_holders(page) == 1 && !kv_.is_published(page), id, page);
    }
    num_holds += std::ssize(arrival.pages);
    for (const PageHash& hash : arrival.hashes) ++announced[hash];
  }
  CHECK(std::ssize(slots) == config_.max_num_slots, slots.size());
  for (const auto& [page, count] : num_holders) {
    CHECK(kv_.num_holders(page) >= count, page, kv_.num_holders(page), count);
  }
  CHECK(num_holds + kv_.num_leased() == kv_.num_holds(), num_holds, kv_.num_holds());
  CHECK(announced == announced_, announced.size(), announced_.size());
}

// Each sequence's account of steps in flight is the sum of its works, and what they may write lies
// in pages that were granted.
void Scheduler::check_in_flight() const {
  CHECK(num_steps_in_flight() <= config_.max_steps_in_flight, in_flight_.size());
  std::unordered_map<const SequenceState*, SequenceState::InFlight> accounts;
  for (const Step& step : in_flight_) {
    for (const Work& work : step.work) {
      SequenceState::InFlight& account = accounts[work.sequence];
      ++account.num_steps;
      account.num_samples += work.samples();
      account.max_new_tokens += work.max_new_tokens;
    }
  }
  for (const auto& [id, owned] : sequences_) {
    const SequenceState::InFlight expected = accounts[owned.get()];
    const SequenceState::InFlight& actual = owned->in_flight;
    CHECK(actual.num_steps == expected.num_steps, id, actual.num_steps, expected.num_steps);
    CHECK(actual.num_samples == expected.num_samples, id);
    CHECK(actual.max_new_tokens == expected.max_new_tokens, id);
    if (owned->constraint && owned->status == SequenceStatus::kRunning) {
      // All known output is taken in, and nothing that depends on an unknown token is in flight.
      const bool active = owned->constraint->active();
      CHECK(actual.num_samples <= (active && owned->sent_mask_is_on ? 1 : 2), id,
            actual.num_samples);
      CHECK(actual.max_new_tokens == actual.num_samples, id, actual.max_new_tokens);
    }
    if (owned->slot == kNoSlot || owned->prefilling()) continue;
    // Its last work in flight may write so far; without any, so far did the last one.
    int32_t max_written_len = std::max(owned->max_len_in_flight() - 1, owned->num_planned);
    if (owned->in_flight.num_steps > 0) max_written_len += config_.draft_len;
    CHECK(std::ssize(owned->pages) >= pages_for(max_written_len), id, owned->pages.size());
  }
  CHECK(accounts.size() <= sequences_.size(), accounts.size(), sequences_.size());
}

}  // namespace deepflight
