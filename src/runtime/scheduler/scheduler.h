// Scheduler: in-flight batching for one rank. Requests and results in, StepPlans out.
//
//     add() ...                        new sequences, any time
//     plan = plan(now)                 what the next step does; nothing to do if !plan.has_work()
//     updates = apply(result)          what came of the oldest step, in the order of the plans
//
// Up to max_steps_in_flight plans may await their result: with 2, plan n+1 is made before result n
// is read, and a row that turns out to have ended in step n runs once more in n+1 for nothing.
//
// Rules:
// - Decode rows come before prefill chunks; both go oldest sequence first.
// - A sequence is taken in with pages for all of its known tokens and its first drafts, so prefill
//   never runs dry.
// - A decode row has pages for its longest outcome. If pages run out, the latest started sequence
//   is preempted: it gives everything back and waits at the queue's front, its tokens kept, to be
//   computed again (recompute). The senior sequence never gives way, so some sequence always
//   advances. A row without pages that nobody junior can give is left out of the step.
// - A row whose output is held to a grammar is left out of a step until its last token is known,
//   because the mask of the next one depends on it. The rows beside it do not wait.
// - Slots and pages pass on only when no step in flight names them.
// - Full pages enter the prefix cache when a completed step has left their KV (in apply, never in
//   plan), so a failed step has nothing to take back. While a sequence computes a page, others that
//   begin with the same tokens wait for it instead of computing it too.
//
// Not thread-safe: one loop thread owns it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "runtime/kvcache/kv_cache.h"
#include "runtime/kvcache/prefix_source.h"
#include "runtime/request/step_plan.h"
#include "runtime/scheduler/scheduler_config.h"
#include "runtime/scheduler/sequence.h"
#include "runtime/scheduler/sequence_state.h"
#include "runtime/scheduler/waiting_queue.h"

namespace deepflight {

struct SchedulerStats {
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_preemptions = 0;
  int64_t num_steps = 0;         // plans with work
  int64_t num_stalled_rows = 0;  // decode rows left out of a step for want of pages
  int64_t num_dropped_rows = 0;  // results of rows that had ended a step before
  KvCacheStats kv;
  PrefixSourceStats source;
};

class Scheduler {
 public:
  // The config must be valid (SchedulerConfig::validate). `source`, if there is one, outlives the
  // scheduler and is stopped by it.
  explicit Scheduler(SchedulerConfig config, PrefixSource* source = nullptr);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  const SchedulerConfig& config() const { return config_; }
  KvCache& kv_cache() { return kv_; }

  // Whether such a sequence fits the model's length and, alone, the pool. Thread-safe.
  Status can_ever_run(int64_t prompt_len, int64_t max_tokens) const;

  // Takes a sequence into the waiting queue; error as of can_ever_run. The sampling parameters must
  // have been validated.
  Status add(SequenceRequest request);

  // Ends a sequence from outside (cancelled, a stop string found): no more updates of it come. Its
  // computed pages stay as prefix cache. Unknown or ended ids are ignored.
  void finish(uint64_t sequence_id);

  // The next step. May be called while fewer than max_steps_in_flight steps are in flight. A plan
  // without work is empty and expects no result: call again after apply() or add().
  StepPlan plan(int64_t now_us);

  // Takes in the result of the oldest step in flight. A result that does not fit its plan throws
  // and changes nothing; fail_step then clears the step.
  std::vector<SequenceUpdate> apply(StepResult result);

  // The oldest step in flight threw: its sequences end with kStepFailed, all others go on.
  std::vector<SequenceUpdate> fail_step(uint64_t step_id);

  int32_t num_steps_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  // No sequence runs or waits, no result is awaited and no page is being copied.
  bool idle() const {
    return sequences_.empty() && in_flight_.empty() && (source_ == nullptr || !source_->busy());
  }
  SchedulerStats stats() const;

  // CHECKs every invariant of the scheduler and of its cache; O(sequences + pages).
  void check_integrity() const;

 private:
  // One decode row or prefill chunk of a step in flight.
  struct Work {
    SequenceState* sequence = nullptr;
    int32_t chunk_end = 0;       // of a chunk: tokens computed after it; 0: a decode row
    int32_t max_new_tokens = 0;  // 0: a chunk that does not sample

    bool samples() const { return max_new_tokens > 0; }
  };
  struct Step {
    uint64_t step_id = 0;
    std::vector<Work> work;  // in plan order
    std::vector<SlotId> retired_slots;
  };
  struct StepBuilder;
  // Pages on their way from the source.
  struct Arrival {
    std::vector<PageHash> hashes;
    std::vector<PageId> pages;  // held
    PageLease prefix;           // the pages before them, which they are of no use without
    Retention retention = Retention::kNormal;
  };

  // Pages from and to the source (scheduler_arrivals.cpp).
  bool begin_arrival(SequenceState* sequence, const PrefixProbe& probe);
  void take_arrivals();
  void offer_page(PageId page, const PageHash& hash, Retention retention);

  // Planning (scheduler_plan.cpp).
  void plan_decode_rows(StepBuilder* builder);
  void plan_running_chunks(StepBuilder* builder);
  void admit_waiting(StepBuilder* builder, int64_t now_us);
  void admit(SequenceState* sequence, StepBuilder* builder, int64_t now_us);
  void plan_chunk(SequenceState* sequence, StepBuilder* builder);
  void add_work(const Work& work, StepBuilder* builder);
  MaskStart admit_mask(SequenceState* sequence, StepBuilder* builder);
  void update_mask(SequenceState* sequence, StepBuilder* builder);
  bool reserve_pages(SequenceState* sequence, int32_t num_tokens, StepBuilder* builder);
  bool awaits_its_copy(const SequenceState& sequence) const;
  bool awaits_shared_page(const SequenceState& sequence, const PrefixProbe& probe) const;
  bool fits(const SequenceState& sequence, const PrefixProbe& probe) const;
  int32_t num_admission_pages(const SequenceState& sequence) const;
  int32_t num_pages_coming_back() const;
  void preempt(SequenceState* sequence);

  // Results and ends (scheduler.cpp).
  void check_result(const Step& step, const StepResult& result) const;
  SequenceUpdate accept_tokens(SequenceState* sequence, RowResult* row);
  std::optional<StopCause> stop_cause(const SequenceState& sequence) const;
  void land(const Work& work);
  void stop_running(SequenceState* sequence, SequenceStatus status);
  void mark_finished(SequenceState* sequence);
  void leave_if_landed(SequenceState* sequence);
  void give_back(SequenceState* sequence);
  void publish_pages(SequenceState* sequence);
  void extend_chain(SequenceState* sequence, int32_t num_tokens);
  void withdraw_announcements(SequenceState* sequence);
  SequenceUpdate make_update(const SequenceState& sequence) const;

  // Parts of check_integrity (scheduler_integrity.cpp).
  void check_places() const;
  void check_ownership() const;
  void check_in_flight() const;

  const SchedulerConfig config_;
  KvCache kv_;
  PrefixSource* const source_;
  std::unordered_map<uint64_t, Arrival> arrivals_;  // by the source's number
  std::unordered_map<uint64_t, std::unique_ptr<SequenceState>> sequences_;
  WaitingQueue waiting_;
  std::vector<SequenceState*> running_;  // by start order
  std::vector<SequenceState*> leaving_;  // preempting or finished, named by steps in flight
  std::deque<Step> in_flight_;           // oldest first

  DraftPolicy draft_policy_;
  int32_t next_draft_len_ = 0;  // drafts that the last plan makes: what the next one verifies

  std::vector<SlotId> free_slots_;
  std::vector<SlotId> retired_slots_;  // free, and the executor is yet to be told

  // Pages that running sequences are computing or that arrive, by content, with their number.
  std::unordered_map<PageHash, int32_t, PageHashHasher> announced_;

  uint64_t next_step_id_ = 1;
  uint64_t next_start_order_ = 0;
  int64_t num_preemptions_ = 0;
  int64_t num_steps_ = 0;
  int64_t num_stalled_rows_ = 0;
  int64_t num_dropped_rows_ = 0;
};

}  // namespace deepflight
