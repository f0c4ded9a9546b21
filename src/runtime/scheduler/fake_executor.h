// For tests: an executor with a toy model whose next token is a hash of all tokens before it, read
// from paged "KV" that remembers what was written where. Whatever the scheduler gets wrong about
// pages, order or lengths shows as a CHECK here or as output that differs from the output alone.
// Steps run as late as possible (when their result is wanted), as on a device that is one behind.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/kvcache/host_tier.h"
#include "runtime/kvcache/kv_cache.h"
#include "runtime/request/step_plan.h"
#include "runtime/scheduler/scheduler_config.h"

namespace deepflight {

inline constexpr int32_t kFakeVocabSize = 64;

// The toy model.
class FakeModel {
 public:
  void feed(int32_t token) {
    state_ = (state_ ^ static_cast<uint64_t>(token + 1)) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 29;
  }
  int32_t next() const { return static_cast<int32_t>((state_ >> 7) % kFakeVocabSize); }

 private:
  uint64_t state_ = 0x2545F4914F6CDD1Du;
};

// What the toy model says under a mask: the first allowed token from the one it wanted on.
inline int32_t masked(const std::vector<uint32_t>& mask, int32_t wanted) {
  const auto count = static_cast<int32_t>(mask.size() * 32);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t token = (wanted * 37 + i) % count;
    if (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1u) return token;
  }
  CHECK(false, "a mask without a token");
  return -1;
}

// Whose salt a sequence has; the low bits of its rng_seed in these tests.
inline uint32_t tenant_of(uint64_t rng_seed) { return static_cast<uint32_t>(rng_seed % 4); }

class FakeExecutor {
 public:
  FakeExecutor(const SchedulerConfig& config, const KvCache& kv, uint32_t seed = 0)
      : config_(config),
        kv_(kv),
        random_(seed),
        memory_(size_t{1} * config.num_pages * kPageTokens),
        slots_(config.max_num_slots),
        tables_(config.max_num_slots) {}

  // Takes a plan, as the host sees it: checks that it names nothing that a step in flight names.
  void launch(StepPlan plan) {
    InFlight step{.plan = std::move(plan)};
    check_deltas(step.plan);
    check_work(step.plan, &step.slots);
    for (const SlotId slot : step.slots) {
      step.pages.insert(tables_[slot].begin(), tables_[slot].end());
    }
    in_flight_.push_back(std::move(step));
  }

  StepResult run_oldest() {
    const StepPlan plan = std::move(in_flight_.front().plan);
    in_flight_.pop_front();
    apply_deltas(plan);
    StepResult result{.step_id = plan.step_id};
    for (const DecodeRow& row : plan.decode_rows) {
      RowResult& out = result.rows.emplace_back();
      out.slot = row.slot;
      out.num_drafts = slots_[row.slot].has_mask() ? 0 : plan.draft_len;
      out.tokens = decode(row.slot, plan.draft_len, plan.next_draft_len);
    }
    for (const PrefillChunk& chunk : plan.prefill_chunks) {
      std::vector<int32_t> tokens = prefill(chunk);
      if (chunk.samples) result.rows.push_back({chunk.slot, std::move(tokens)});
    }
    return result;
  }

  // The oldest step throws: before its deltas, after them, or in the midst of its work. Until it is
  // admitted again, a slot of that step holds rubbish.
  uint64_t fail_oldest() {
    const StepPlan plan = std::move(in_flight_.front().plan);
    in_flight_.pop_front();
    const uint32_t progress = random_() % 3;
    if (progress > 0) apply_deltas(plan);
    if (progress > 1) {
      for (size_t i = 0; i < plan.decode_rows.size() / 2; ++i) {
        decode(plan.decode_rows[i].slot, plan.draft_len, plan.next_draft_len);
      }
      for (size_t i = 0; i < plan.prefill_chunks.size() / 2; ++i) prefill(plan.prefill_chunks[i]);
    }
    for (const DecodeRow& row : plan.decode_rows) slots_[row.slot].broken = true;
    for (const PrefillChunk& chunk : plan.prefill_chunks) slots_[chunk.slot].broken = true;
    return plan.step_id;
  }

  // A copy of the host tier, which reads and writes pages beside the steps.
  void copy_page(const HostTier::Job& job) {
    const auto page = memory_.begin() + int64_t{job.page} * kPageTokens;
    std::vector<KvEntry>& block = host_[job.block];
    if (!job.to_device) {
      CHECK(kv_.is_published(job.page), "a page is saved that may change", job.page);
      block.assign(page, page + kPageTokens);
      return;
    }
    for (const InFlight& step : in_flight_) CHECK(!step.pages.contains(job.page), job.page);
    CHECK(kv_.num_holders(job.page) == 1, "a page arrives that has other holders", job.page);
    std::ranges::copy(block, page);
  }

  int64_t num_prefill_tokens() const { return num_prefill_tokens_; }

 private:
  struct KvEntry {
    int32_t token = -1;
    int32_t position = -1;
    uint32_t tenant = 0;
    bool is_output = false;  // the road it was computed by

    bool operator==(const KvEntry&) const = default;
  };
  struct Slot {
    bool broken = false;
    std::vector<int32_t> tokens;
    int32_t prompt_len = 0;
    int32_t num_kv = 0;
    uint32_t tenant = 0;
    std::vector<PageId> pages;
    MaskStart mask_start;
    SharedTokenMask mask;
    int32_t last_sampled = -1;

    bool has_mask() const { return mask_start.kind != MaskStart::Kind::kNever; }  // no drafts then
  };
  struct InFlight {
    StepPlan plan;
    std::set<SlotId> slots;
    std::set<PageId> pages;
  };

  void check_deltas(const StepPlan& plan) {
    const auto slot_is_free = [&](SlotId slot) {
      return std::ranges::none_of(in_flight_,
                                  [&](const InFlight& step) { return step.slots.contains(slot); });
    };
    for (const SlotId slot : plan.retired_slots) {
      CHECK(slot_is_free(slot), slot);
      tables_[slot].clear();
    }
    std::vector<int32_t> num_shared(config_.max_num_slots, 0);
    for (const SlotAdmission& admission : plan.admissions) {
      CHECK(slot_is_free(admission.slot), admission.slot);
      CHECK(tables_[admission.slot].empty(), "the slot was not retired", admission.slot);
      CHECK(admission.num_cached_tokens % kPageTokens == 0, admission.num_cached_tokens);
      CHECK(admission.num_cached_tokens < std::ssize(admission.tokens));
      num_shared[admission.slot] = admission.num_cached_tokens / kPageTokens;
    }
    for (const PageGrant& grant : plan.page_grants) {
      std::vector<PageId>& table = tables_[grant.slot];
      CHECK(grant.first_page_idx == std::ssize(table), grant.first_page_idx, table.size());
      for (const PageId page : grant.pages) {
        const bool shared = std::ssize(table) < num_shared[grant.slot];
        for (const InFlight& step : in_flight_) {
          CHECK(shared || !step.pages.contains(page), "a page in flight was given away", page);
        }
        for (const auto& other : tables_) {
          CHECK(shared || std::ranges::find(other, page) == other.end(), "page has an owner", page);
        }
        table.push_back(page);
      }
      CHECK(std::ssize(table) <= config_.max_pages_per_slot(), table.size());
    }
  }

  void check_work(const StepPlan& plan, std::set<SlotId>* slots) const {
    auto num_tokens = std::ssize(plan.decode_rows) * (1 + plan.draft_len);
    for (const DecodeRow& row : plan.decode_rows) CHECK(slots->insert(row.slot).second, row.slot);
    for (const PrefillChunk& chunk : plan.prefill_chunks) {
      CHECK(slots->insert(chunk.slot).second, chunk.slot);
      CHECK(chunk.length >= 1 && chunk.length <= config_.max_chunk_tokens, chunk.length);
      num_tokens += chunk.length;
    }
    CHECK(num_tokens <= config_.max_batched_tokens, num_tokens);
    CHECK(plan.padded_num_decode_rows >= std::ssize(plan.decode_rows));
    for (const SlotId slot : *slots) CHECK(!tables_[slot].empty(), slot);
  }

  void apply_deltas(const StepPlan& plan) {
    for (const SlotId slot : plan.retired_slots) slots_[slot] = Slot();
    for (const SlotAdmission& admission : plan.admissions) {
      slots_[admission.slot] = {.tokens = admission.tokens,
                                .prompt_len = admission.prompt_len,
                                .num_kv = admission.num_cached_tokens,
                                .tenant = tenant_of(admission.rng_seed),
                                .mask_start = admission.mask_start};
    }
    for (const TokenMaskUpdate& update : plan.mask_updates) {
      slots_[update.slot].mask_start = update.start;
      slots_[update.slot].mask = update.mask;
    }
    for (const PageGrant& grant : plan.page_grants) {
      auto& pages = slots_[grant.slot].pages;
      pages.insert(pages.end(), grant.pages.begin(), grant.pages.end());
    }
  }

  KvEntry& entry_at(const Slot& slot, int32_t position) {
    const PageId page = slot.pages.at(position / kPageTokens);
    return memory_[size_t{1} * page * kPageTokens + position % kPageTokens];
  }

  void write(const Slot& slot, int32_t position, int32_t token) {
    CHECK(!kv_.is_published(slot.pages.at(position / kPageTokens)), "write to a shared page");
    const bool is_output = config_.exact_prefix_reuse && position >= slot.prompt_len;
    entry_at(slot, position) = {token, position, slot.tenant, is_output};
  }

  // Attention: reads all KV of the slot, and finds there what the slot's tokens should have left.
  FakeModel read(const Slot& slot) {
    FakeModel model;
    for (int32_t position = 0; position < slot.num_kv; ++position) {
      const KvEntry& entry = entry_at(slot, position);
      const bool is_output = config_.exact_prefix_reuse && position >= slot.prompt_len;
      const KvEntry expected = {slot.tokens[position], position, slot.tenant, is_output};
      CHECK(entry == expected, position, entry.token, entry.position, expected.token);
      model.feed(entry.token);
    }
    return model;
  }

  int32_t sample(Slot& slot, const FakeModel& model) {
    using Kind = MaskStart::Kind;
    const MaskStart& start = slot.mask_start;
    const bool is_on = start.kind == Kind::kNow ||
                       (start.kind == Kind::kAfterToken && slot.last_sampled == start.token);
    slot.last_sampled = is_on ? masked(*slot.mask, model.next()) : model.next();
    return slot.last_sampled;
  }

  std::vector<int32_t> decode(SlotId slot_id, int32_t draft_len, int32_t next_draft_len) {
    Slot& slot = slots_[slot_id];
    if (slot.broken) return {1};
    const auto fed = static_cast<int32_t>(slot.tokens.size()) - 1;
    CHECK(slot.num_kv == fed, slot.num_kv, fed);
    FakeModel model = read(slot);
    const int32_t num_accepted =
        slot.has_mask() ? 1 : 1 + static_cast<int32_t>(random_() % (draft_len + 1));
    for (int32_t i = 0; i <= draft_len; ++i) {
      const bool accepted = i < num_accepted;
      write(slot, fed + i, accepted ? slot.tokens.back() : -2);
      if (!accepted) continue;
      model.feed(slot.tokens.back());
      slot.tokens.push_back(sample(slot, model));
    }
    slot.num_kv = static_cast<int32_t>(slot.tokens.size()) - 1;
    // Modules write behind every token fed, then behind the accepted ones.
    if (config_.draft_len > 0) {
      check_draft_pages(slot, fed + 1,
                        std::max(fed + draft_len + 1, slot.num_kv + next_draft_len - 1));
    }
    return {slot.tokens.end() - num_accepted, slot.tokens.end()};
  }

  // The slot may write at positions [first, last].
  void check_draft_pages(const Slot& slot, int32_t first, int32_t last) const {
    for (int32_t position = first; position <= last; ++position) {
      CHECK(!kv_.is_published(slot.pages.at(position / kPageTokens)), "draft in a shared page");
    }
  }

  std::vector<int32_t> prefill(const PrefillChunk& chunk) {
    Slot& slot = slots_[chunk.slot];
    if (slot.broken) return {1};
    const int32_t end = chunk.start + chunk.length;
    CHECK(chunk.start == slot.num_kv, chunk.start, slot.num_kv);
    CHECK(end <= std::ssize(slot.tokens), end, slot.tokens.size());
    CHECK(chunk.samples == (end == std::ssize(slot.tokens)), end);
    const bool is_prompt = chunk.kind == ChunkKind::kPrompt;
    CHECK(is_prompt ? end <= slot.prompt_len : chunk.start >= slot.prompt_len, chunk.start, end);
    for (int32_t i = chunk.start; i < end; ++i) write(slot, i, slot.tokens[i]);
    slot.num_kv = end;
    num_prefill_tokens_ += chunk.length;
    const FakeModel model = read(slot);
    if (!chunk.samples) return {};
    if (config_.draft_len > 0) check_draft_pages(slot, end, end + config_.draft_len - 1);
    slot.tokens.push_back(sample(slot, model));
    return {slot.tokens.back()};
  }

  const SchedulerConfig& config_;
  const KvCache& kv_;
  std::mt19937 random_;
  std::vector<KvEntry> memory_;                   // [page][kPageTokens]
  std::map<int32_t, std::vector<KvEntry>> host_;  // by block
  std::vector<Slot> slots_;                       // as the device has them, at the step that runs
  std::vector<std::vector<PageId>> tables_;       // by slot, as of the latest plan
  std::deque<InFlight> in_flight_;
  int64_t num_prefill_tokens_ = 0;
};

}  // namespace deepflight
