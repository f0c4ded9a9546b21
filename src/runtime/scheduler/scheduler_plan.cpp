// One step's plan: decode rows, then chunks of running prompts, then sequences taken in.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "runtime/scheduler/scheduler.h"

namespace deepflight {

namespace {

int32_t num_shareable_pages(const SequenceState& sequence) {
  return std::min(sequence.chain.num_pages(), max_matched_pages(sequence.num_tokens()));
}

}  // namespace

struct Scheduler::StepBuilder {
  StepPlan plan;
  std::vector<Work> work;
  int32_t budget = 0;             // query tokens left
  int32_t num_missing_pages = 0;  // of the rows left out so far
};

StepPlan Scheduler::plan(int64_t now_us) {
  CHECK(num_steps_in_flight() < config_.max_steps_in_flight, in_flight_.size());
  take_arrivals();
  StepBuilder builder{.budget = config_.max_batched_tokens};
  plan_decode_rows(&builder);
  plan_running_chunks(&builder);
  admit_waiting(&builder, now_us);
  if (builder.work.empty()) return {};

  StepPlan& plan = builder.plan;
  plan.step_id = next_step_id_++;
  plan.retired_slots = std::exchange(retired_slots_, {});
  plan.draft_len = next_draft_len_;
  next_draft_len_ = draft_policy_.choose(static_cast<int32_t>(plan.decode_rows.size()));
  plan.next_draft_len = next_draft_len_;
  plan.padded_num_decode_rows =
      config_.padded_decode_rows(static_cast<int32_t>(plan.decode_rows.size()));
  in_flight_.push_back({plan.step_id, std::move(builder.work), plan.retired_slots});
  ++num_steps_;
  return std::move(plan);
}

void Scheduler::plan_decode_rows(StepBuilder* builder) {
  const int32_t max_new_tokens = 1 + next_draft_len_;
  // NOTE: preemption shortens running_ at its end, past the row that asks for pages.
  for (size_t i = 0; i < running_.size(); ++i) {
    SequenceState* sequence = running_[i];
    if (!sequence->can_decode() || sequence->awaits_token()) continue;
    const int32_t max_written_len = sequence->max_len_in_flight() + config_.draft_reach();
    if (!reserve_pages(sequence, max_written_len, builder)) {
      ++num_stalled_rows_;
      continue;
    }
    if (sequence->constraint) update_mask(sequence, builder);
    builder->plan.decode_rows.push_back({sequence->slot});
    builder->budget -= max_new_tokens;
    add_work({.sequence = sequence, .max_new_tokens = sequence->constraint ? 1 : max_new_tokens},
             builder);
  }
}

void Scheduler::plan_running_chunks(StepBuilder* builder) {
  for (SequenceState* sequence : running_) {
    if (builder->budget == 0) return;
    if (sequence->prefilling()) plan_chunk(sequence, builder);
  }
}

void Scheduler::admit_waiting(StepBuilder* builder, int64_t now_us) {
  if (builder->num_missing_pages > 0) return;
  for (auto entry = waiting_.begin(); entry != waiting_.end();) {
    if (builder->budget == 0 || free_slots_.empty()) return;
    SequenceState* sequence = entry->sequence;
    if (awaits_its_copy(*sequence)) {
      ++entry;
      continue;
    }
    const PrefixProbe probe = kv_.probe(sequence->chain, sequence->num_tokens());
    if (awaits_shared_page(*sequence, probe)) {
      ++entry;
      continue;
    }
    // The queue's first does not fit: nobody behind it may take the pages it waits for.
    if (!fits(*sequence, probe)) return;
    if (begin_arrival(sequence, probe)) {
      ++entry;
      continue;
    }
    entry = waiting_.erase(entry);
    admit(sequence, builder, now_us);
  }
}

void Scheduler::admit(SequenceState* sequence, StepBuilder* builder, int64_t now_us) {
  const int32_t num_tokens = sequence->num_tokens();
  extend_chain(sequence, num_tokens);
  const int32_t num_matched = kv_.match_prefix(sequence->chain, num_tokens, &sequence->pages);
  const bool allocated =
      kv_.allocate(num_admission_pages(*sequence) - num_matched, &sequence->pages);
  CHECK(allocated, num_tokens, num_matched, kv_.num_available());

  sequence->status = SequenceStatus::kRunning;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  sequence->prefill_end = num_tokens;
  sequence->num_published_pages = num_matched;
  sequence->num_computed = sequence->num_planned = num_matched * kPageTokens;
  if (sequence->start_order == kNotStarted) {
    sequence->start_order = next_start_order_++;
    sequence->num_cached_tokens = sequence->num_computed;
    sequence->queued_us = now_us - sequence->request.arrival_us;
  }
  const auto position =
      std::ranges::lower_bound(running_, sequence->start_order, {}, &SequenceState::start_order);
  running_.insert(position, sequence);

  if (config_.enable_prefix_cache) {
    sequence->num_announced_pages = num_tokens / kPageTokens;
    for (int32_t i = num_matched; i < sequence->num_announced_pages; ++i) {
      ++announced_[sequence->chain.hashes()[i]];
    }
  }
  const MaskStart mask_start = admit_mask(sequence, builder);
  builder->plan.admissions.push_back({.slot = sequence->slot,
                                      .sampling = sequence->request.sampling,
                                      .rng_seed = sequence->request.rng_seed,
                                      .tokens = sequence->tokens,
                                      .prompt_len = sequence->prompt_len,
                                      .num_cached_tokens = sequence->num_computed,
                                      .mask_start = mask_start});
  builder->plan.page_grants.push_back({sequence->slot, 0, sequence->pages});
  plan_chunk(sequence, builder);
}

void Scheduler::plan_chunk(SequenceState* sequence, StepBuilder* builder) {
  const int32_t start = sequence->num_planned;
  const bool is_prompt = start < sequence->prompt_len;
  const int32_t end_of_kind = is_prompt ? sequence->prompt_len : sequence->prefill_end;
  const int32_t length = std::min({builder->budget, config_.max_chunk_tokens, end_of_kind - start});
  const int32_t end = start + length;
  const bool samples = end == sequence->prefill_end;
  builder->plan.prefill_chunks.push_back(
      {.slot = sequence->slot,
       .kind = is_prompt ? ChunkKind::kPrompt : ChunkKind::kReplay,
       .start = start,
       .length = length,
       .samples = samples});
  builder->budget -= length;
  sequence->num_planned = end;
  add_work({.sequence = sequence, .chunk_end = end, .max_new_tokens = samples ? 1 : 0}, builder);
}

void Scheduler::add_work(const Work& work, StepBuilder* builder) {
  SequenceState::InFlight& in_flight = work.sequence->in_flight;
  ++in_flight.num_steps;
  in_flight.num_samples += work.samples();
  in_flight.max_new_tokens += work.max_new_tokens;
  builder->work.push_back(work);
}

// The mask that a slot starts with, if its sequence has a constraint.
MaskStart Scheduler::admit_mask(SequenceState* sequence, StepBuilder* builder) {
  if (!sequence->constraint) return {};
  ConstraintState& constraint = *sequence->constraint;
  const OutputConstraint& wanted = constraint.constraint();
  MaskStart start{.kind = MaskStart::Kind::kNow};
  if (!constraint.active()) {
    start = {MaskStart::Kind::kAfterToken, wanted.after_token, wanted.is_required};
  }
  sequence->sent_mask = constraint.mask();
  sequence->sent_mask_is_on = constraint.active();
  builder->plan.mask_updates.push_back({sequence->slot, start, sequence->sent_mask});
  return start;
}

// Tells a slot the mask of the token that its row will sample, unless it has it.
void Scheduler::update_mask(SequenceState* sequence, StepBuilder* builder) {
  ConstraintState& constraint = *sequence->constraint;
  if (!constraint.active()) return;
  SharedTokenMask mask = constraint.mask();
  if (sequence->sent_mask_is_on && mask == sequence->sent_mask) return;
  builder->plan.mask_updates.push_back({sequence->slot, {.kind = MaskStart::Kind::kNow}, mask});
  sequence->sent_mask = std::move(mask);
  sequence->sent_mask_is_on = true;
}

// Gives a running sequence pages for num_tokens tokens, at the cost of its juniors if need be.
// False if it has to sit this step out, until steps in flight give pages back.
bool Scheduler::reserve_pages(SequenceState* sequence, int32_t num_tokens, StepBuilder* builder) {
  const auto first_page_idx = static_cast<int32_t>(sequence->pages.size());
  const int32_t num_needed = pages_for(num_tokens) - first_page_idx;
  if (num_needed <= 0) return true;
  while (!kv_.allocate(num_needed, &sequence->pages)) {
    const bool coming_back = num_pages_coming_back() >= builder->num_missing_pages + num_needed;
    if (coming_back || running_.back() == sequence) {
      builder->num_missing_pages += num_needed;
      return false;
    }
    preempt(running_.back());
  }
  builder->plan.page_grants.push_back(
      {sequence->slot,
       first_page_idx,
       {sequence->pages.begin() + first_page_idx, sequence->pages.end()}});
  return true;
}

// True while a running sequence computes the page that this one lacks next: sharing it is cheaper.
bool Scheduler::awaits_shared_page(const SequenceState& sequence, const PrefixProbe& probe) const {
  const int32_t num_shareable = num_shareable_pages(sequence);
  return probe.num_pages < num_shareable &&
         announced_.contains(sequence.chain.hashes()[probe.num_pages]);
}

// The same for a full copy of a running prompt (a request's n choices), told without a probe.
bool Scheduler::awaits_its_copy(const SequenceState& sequence) const {
  const int32_t num_shareable = num_shareable_pages(sequence);
  return num_shareable > 0 && announced_.contains(sequence.chain.hashes()[num_shareable - 1]);
}

bool Scheduler::fits(const SequenceState& sequence, const PrefixProbe& probe) const {
  const int32_t num_needed = num_admission_pages(sequence) - probe.num_pages;
  const int32_t num_left = kv_.num_available() - probe.num_idle_pages - num_needed;
  return num_left >= (running_.empty() ? 0 : config_.watermark_pages());
}

// For all known tokens, and for the drafts that the last chunk makes.
int32_t Scheduler::num_admission_pages(const SequenceState& sequence) const {
  return pages_for(sequence.num_tokens() + config_.draft_len);
}

// Pages that become available without further ado once the steps in flight are read.
int32_t Scheduler::num_pages_coming_back() const {
  int32_t count = 0;
  for (const SequenceState* sequence : leaving_) {
    count += static_cast<int32_t>(std::ranges::count_if(
        sequence->pages, [&](PageId page) { return kv_.num_holders(page) == 1; }));
  }
  return count;
}

void Scheduler::preempt(SequenceState* sequence) {
  ++num_preemptions_;
  stop_running(sequence, SequenceStatus::kPreempting);
  leave_if_landed(sequence);
}

}  // namespace deepflight
