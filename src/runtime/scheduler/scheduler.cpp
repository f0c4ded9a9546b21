// Sequences in, results in, sequences out. Planning is in scheduler_plan.cpp.
#include "runtime/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace deepflight {

Scheduler::Scheduler(SchedulerConfig config, PrefixSource* source)
    : config_(std::move(config)),
      kv_(config_.num_pages),
      source_(config_.enable_prefix_cache ? source : nullptr),
      waiting_(config_),
      draft_policy_(config_.draft_policy, config_.draft_len),
      next_draft_len_(config_.draft_len) {
  const Status valid = config_.validate();
  CHECK(valid.ok(), valid.error().message);
  for (SlotId slot = config_.max_num_slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Scheduler::~Scheduler() {
  if (source_ != nullptr) source_->stop();
}

Status Scheduler::can_ever_run(int64_t prompt_len, int64_t max_tokens) const {
  if (prompt_len < 1) return invalid_argument("the prompt is empty");
  if (max_tokens < 1) return invalid_argument("max_tokens is {}, must be at least 1", max_tokens);
  if (prompt_len >= config_.max_model_len) {
    return invalid_argument("the prompt has {} tokens; the model's context is {} with the output",
                            prompt_len, config_.max_model_len);
  }
  const int64_t max_len = std::min<int64_t>(prompt_len + max_tokens, config_.max_model_len);
  const int64_t num_pages = pages_for(max_len + config_.max_overshoot());
  if (num_pages > config_.num_pages) {
    return invalid_argument("{} tokens of prompt and output need {} KV pages; the server has {}",
                            max_len, num_pages, config_.num_pages);
  }
  return ok_status();
}

Status Scheduler::add(SequenceRequest request) {
  CHECK(request.sampling != nullptr, request.sequence_id);
  CHECK(!sequences_.contains(request.sequence_id), request.sequence_id);
  const auto prompt_len = static_cast<int64_t>(request.prompt.size());
  RETURN_IF_ERROR(can_ever_run(prompt_len, request.sampling->max_tokens));

  auto owned = std::make_unique<SequenceState>();
  SequenceState* sequence = owned.get();
  sequence->tokens = std::move(request.prompt);
  sequence->prompt_len = static_cast<int32_t>(prompt_len);
  sequence->max_len = static_cast<int32_t>(
      std::min<int64_t>(prompt_len + request.sampling->max_tokens, config_.max_model_len));
  sequence->chain = PageChain(request.cache_salt);
  if (request.constraint) sequence->constraint.emplace(request.constraint);
  sequence->request = std::move(request);
  extend_chain(sequence, sequence->num_tokens());
  const PrefixProbe probe = kv_.probe(sequence->chain, sequence->num_tokens());
  waiting_.push_new(sequence, sequence->num_tokens() - probe.num_pages * kPageTokens);
  sequences_.emplace(sequence->request.sequence_id, std::move(owned));
  return ok_status();
}

void Scheduler::finish(uint64_t sequence_id) {
  const auto found = sequences_.find(sequence_id);
  if (found == sequences_.end()) return;
  SequenceState* sequence = found->second.get();
  if (sequence->status == SequenceStatus::kWaiting) {
    waiting_.erase(sequence);
    sequences_.erase(found);
    return;
  }
  mark_finished(sequence);
  leave_if_landed(sequence);
}

std::vector<SequenceUpdate> Scheduler::apply(StepResult result) {
  CHECK(!in_flight_.empty(), result.step_id);
  check_result(in_flight_.front(), result);
  const Step step = std::move(in_flight_.front());
  in_flight_.pop_front();

  std::vector<SequenceUpdate> updates;
  auto row = result.rows.begin();
  for (const Work& work : step.work) {
    SequenceState* sequence = work.sequence;
    land(work);
    RowResult* sampled = work.samples() ? &*row++ : nullptr;
    if (sequence->status == SequenceStatus::kFinished) {
      num_dropped_rows_ += sampled != nullptr;
    } else {
      if (work.chunk_end > 0) sequence->num_computed = work.chunk_end;
      if (sampled) {
        updates.push_back(accept_tokens(sequence, sampled));
        sequence->num_computed = sequence->num_tokens() - 1;
      }
      publish_pages(sequence);
      if (sampled && updates.back().stop_cause) mark_finished(sequence);
    }
    leave_if_landed(sequence);
  }
  return updates;
}

std::vector<SequenceUpdate> Scheduler::fail_step(uint64_t step_id) {
  CHECK(!in_flight_.empty() && in_flight_.front().step_id == step_id, step_id);
  const Step step = std::move(in_flight_.front());
  in_flight_.pop_front();

  std::vector<SequenceUpdate> updates;
  for (const Work& work : step.work) {
    SequenceState* sequence = work.sequence;
    land(work);
    if (sequence->status != SequenceStatus::kFinished) {
      updates.push_back(make_update(*sequence));
      updates.back().stop_cause = StopCause::kStepFailed;
      mark_finished(sequence);
    }
    leave_if_landed(sequence);
  }
  // The executor may not have come to the plan's deltas. Admissions and page grants went with the
  // sequences above; retirements are told again, unless a later plan has given the slot away.
  for (const SlotId slot : step.retired_slots) {
    const bool is_free = std::ranges::find(free_slots_, slot) != free_slots_.end();
    const bool is_told = std::ranges::find(retired_slots_, slot) == retired_slots_.end();
    if (is_free && is_told) retired_slots_.push_back(slot);
  }
  return updates;
}

SchedulerStats Scheduler::stats() const {
  return {.num_running = static_cast<int64_t>(running_.size()),
          .num_waiting = waiting_.size(),
          .num_preemptions = num_preemptions_,
          .num_steps = num_steps_,
          .num_stalled_rows = num_stalled_rows_,
          .num_dropped_rows = num_dropped_rows_,
          .kv = kv_.stats(),
          .source = source_ == nullptr ? PrefixSourceStats() : source_->stats()};
}

// Everything is checked before anything is changed, so that a bad result fails its step cleanly.
void Scheduler::check_result(const Step& step, const StepResult& result) const {
  CHECK(result.step_id == step.step_id, result.step_id, step.step_id);
  const auto num_rows = std::ranges::count_if(step.work, &Work::samples);
  CHECK(std::ssize(result.rows) == num_rows, result.rows.size(), num_rows);
  auto row = result.rows.begin();
  for (const Work& work : step.work) {
    if (!work.samples()) continue;
    CHECK(row->slot == work.sequence->slot, row->slot, work.sequence->slot);
    const auto num_tokens = std::ssize(row->tokens);
    CHECK(num_tokens >= 1 && num_tokens <= work.max_new_tokens, num_tokens, work.max_new_tokens);
    CHECK(row->logprobs.empty() || std::ssize(row->logprobs) == num_tokens, row->logprobs.size());
    ++row;
  }
}

// Appends a row's tokens up to the one that ends the sequence; drafts accepted past it are dropped.
SequenceUpdate Scheduler::accept_tokens(SequenceState* sequence, RowResult* row) {
  SequenceUpdate update = make_update(*sequence);
  size_t num_kept = 0;
  while (num_kept < row->tokens.size() && !update.stop_cause) {
    const int32_t token = row->tokens[num_kept++];
    sequence->tokens.push_back(token);
    const bool fits = !sequence->constraint || sequence->constraint->take(token);
    update.stop_cause = fits ? stop_cause(*sequence) : StopCause::kStepFailed;
  }
  if (row->num_drafts > 0) {
    update.num_drafts = row->num_drafts;
    update.num_accepted_drafts = static_cast<int32_t>(row->tokens.size()) - 1;
    draft_policy_.note(update.num_drafts, update.num_accepted_drafts);
  }
  row->tokens.resize(num_kept);
  if (row->logprobs.size() > num_kept) row->logprobs.resize(num_kept);
  update.tokens = std::move(row->tokens);
  update.logprobs = std::move(row->logprobs);
  return update;
}

// Whether the newest token ends the sequence. The executor masks ends before min_tokens; should one
// come all the same, it is output like any other.
std::optional<StopCause> Scheduler::stop_cause(const SequenceState& sequence) const {
  const SequenceRequest& request = sequence.request;
  const int32_t token = sequence.tokens.back();
  // A grammar's end comes before min_tokens and in spite of ignore_eos.
  if (sequence.constraint && sequence.constraint->ended()) return StopCause::kEndOfSequence;
  if (sequence.num_output_tokens() > request.sampling->min_tokens) {
    const auto& stop_tokens = request.sampling->stop_token_ids;
    if (std::ranges::find(stop_tokens, token) != stop_tokens.end()) return StopCause::kStopToken;
    const auto& eos_tokens = request.eos_token_ids;
    const bool is_eos = std::ranges::find(eos_tokens, token) != eos_tokens.end();
    if (is_eos && !request.sampling->ignore_eos) return StopCause::kEndOfSequence;
  }
  if (sequence.num_output_tokens() >= request.sampling->max_tokens) return StopCause::kMaxTokens;
  if (sequence.num_tokens() >= sequence.max_len) return StopCause::kMaxModelLen;
  return std::nullopt;
}

// Takes a work of a step that has come back out of the sequence's account.
void Scheduler::land(const Work& work) {
  SequenceState::InFlight& in_flight = work.sequence->in_flight;
  --in_flight.num_steps;
  in_flight.num_samples -= work.samples();
  in_flight.max_new_tokens -= work.max_new_tokens;
  CHECK(in_flight.num_steps >= 0 && in_flight.num_samples >= 0 && in_flight.max_new_tokens >= 0);
}

// From now on no step names the sequence; leave_if_landed does the rest when none does.
void Scheduler::stop_running(SequenceState* sequence, SequenceStatus status) {
  const auto position =
      std::ranges::lower_bound(running_, sequence->start_order, {}, &SequenceState::start_order);
  CHECK(position != running_.end() && *position == sequence, sequence->request.sequence_id);
  running_.erase(position);
  leaving_.push_back(sequence);
  sequence->status = status;
  withdraw_announcements(sequence);
}

void Scheduler::mark_finished(SequenceState* sequence) {
  if (sequence->status == SequenceStatus::kRunning) {
    stop_running(sequence, SequenceStatus::kFinished);
  } else {
    sequence->status = SequenceStatus::kFinished;
  }
}

void Scheduler::leave_if_landed(SequenceState* sequence) {
  const bool is_leaving = sequence->status == SequenceStatus::kFinished ||
                          sequence->status == SequenceStatus::kPreempting;
  if (!is_leaving || sequence->in_flight.num_steps > 0) return;
  std::erase(leaving_, sequence);
  give_back(sequence);
  if (sequence->status == SequenceStatus::kFinished) {
    sequences_.erase(sequence->request.sequence_id);
  } else {
    sequence->status = SequenceStatus::kWaiting;
    waiting_.push_preempted(sequence);
  }
}

void Scheduler::give_back(SequenceState* sequence) {
  kv_.release(sequence->pages);
  sequence->pages.clear();
  sequence->num_computed = sequence->num_published_pages = 0;
  sequence->prefill_end = sequence->num_planned = 0;
  free_slots_.push_back(sequence->slot);
  retired_slots_.push_back(sequence->slot);
  sequence->slot = kNoSlot;
  sequence->asked_source = false;
}

void Scheduler::publish_pages(SequenceState* sequence) {
  if (!config_.enable_prefix_cache) return;
  const int32_t num_full_pages = sequence->num_computed / kPageTokens;
  extend_chain(sequence, sequence->num_computed);
  for (int32_t i = sequence->num_published_pages; i < num_full_pages; ++i) {
    const PageHash& hash = sequence->chain.hashes()[i];
    if (kv_.publish(sequence->pages[i], hash, sequence->request.retention)) {
      offer_page(sequence->pages[i], hash, sequence->request.retention);
    }
    if (i >= sequence->num_announced_pages) continue;
    const auto announced = announced_.find(hash);
    if (--announced->second == 0) announced_.erase(announced);
  }
  sequence->num_published_pages = std::max(sequence->num_published_pages, num_full_pages);
}

// Names the full pages of the first num_tokens tokens.
void Scheduler::extend_chain(SequenceState* sequence, int32_t num_tokens) {
  if (!config_.enable_prefix_cache) return;
  for (int32_t i = sequence->chain.num_pages(); (i + 1) * kPageTokens <= num_tokens; ++i) {
    const int32_t start = i * kPageTokens;
    const int32_t num_prompt_tokens = config_.exact_prefix_reuse
                                          ? std::clamp(sequence->prompt_len - start, 0, kPageTokens)
                                          : kPageTokens;
    sequence->chain.append(std::span<const int32_t, kPageTokens>(&sequence->tokens[start], 64),
                           num_prompt_tokens);
  }
}

void Scheduler::withdraw_announcements(SequenceState* sequence) {
  for (int32_t i = sequence->num_published_pages; i < sequence->num_announced_pages; ++i) {
    const auto announced = announced_.find(sequence->chain.hashes()[i]);
    CHECK(announced != announced_.end(), sequence->request.sequence_id, i);
    if (--announced->second == 0) announced_.erase(announced);
  }
  sequence->num_announced_pages = 0;
}

SequenceUpdate Scheduler::make_update(const SequenceState& sequence) const {
  return {.sequence_id = sequence.request.sequence_id,
          .num_cached_tokens = sequence.num_cached_tokens,
          .queued_us = sequence.queued_us};
}

}  // namespace deepflight
