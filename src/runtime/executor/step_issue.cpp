// One plan on the device: deltas, inputs, the step, copies of its results. Everything the plan says
// is checked on the host before the device hears of it.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "runtime/executor/executor.h"

namespace deepflight {
namespace {

static_assert(kPageTokens == kKvPageTokens);

constexpr SlotId kPaddingSlot = -1;

// Fills the inputs of a step, in the order of its tokens.
class InputWriter {
 public:
  explicit InputWriter(const StepInputs& host) : host_(host) {
    for (AttentionBatch* batch : {&host_.absorbed, &host_.expanded}) {
      batch->num_sequences = 0;
      batch->query_offsets.data<int32_t>()[0] = 0;
    }
    host_.replay_query_offsets.data<int32_t>()[0] = 0;
  }
  const StepInputs& host() const { return host_; }

  // Its tokens, positions and length are the device's to fill in.
  void add_decode_row(SlotId slot) {
    const auto length = static_cast<int32_t>(1 + host_.draft_len);
    add_sequence(slot, length, 0, &host_.absorbed);
    for (int32_t i = 0; i < length; ++i) {
      sample(num_tokens_, slot);
      add_token(slot, 0, 0);
    }
  }
  // Returns its last token's index.
  int32_t add_chunk(const PrefillChunk& chunk, const std::vector<int32_t>& tokens) {
    const int32_t end = chunk.start + chunk.length;
    for (int32_t position = chunk.start; position < end; ++position) {
      add_token(chunk.slot, tokens[position], position);
    }
    const bool replay = chunk.kind == ChunkKind::kReplay;
    add_sequence(chunk.slot, chunk.length, end, replay ? &host_.absorbed : &host_.expanded);
    if (replay) {
      const int64_t sequence = host_.absorbed.num_sequences - host_.num_decode_rows;
      int32_t* offsets = host_.replay_query_offsets.data<int32_t>();
      offsets[sequence] = offsets[sequence - 1] + chunk.length;
    }
    return num_tokens_ - 1;
  }
  void sample(int32_t token_idx, SlotId slot) {
    host_.sampled_token_idx.data<int32_t>()[num_sampled_] = token_idx;
    host_.sampled_slots.data<int32_t>()[num_sampled_++] = slot;
  }

 private:
  void add_token(SlotId slot, int32_t token_id, int32_t position) {
    host_.token_slots.data<int32_t>()[num_tokens_] = slot;
    host_.token_ids.data<int32_t>()[num_tokens_] = token_id;
    host_.positions.data<int32_t>()[num_tokens_++] = position;
  }
  static void add_sequence(SlotId slot, int32_t length, int32_t kv_len, AttentionBatch* batch) {
    const int64_t sequence = batch->num_sequences++;
    int32_t* offsets = batch->query_offsets.data<int32_t>();
    offsets[sequence + 1] = offsets[sequence] + length;
    batch->kv_lens.data<int32_t>()[sequence] = kv_len;
    batch->slots.data<int32_t>()[sequence] = slot;
  }

  StepInputs host_;
  int32_t num_tokens_ = 0;
  int64_t num_sampled_ = 0;
};

}  // namespace

Executor::IssuedStep Executor::issue(StepPlan plan, Staging* staging) {
  IssuedStep step{.step_id = plan.step_id, .start_us = monotonic_us(), .staging = staging};
  ++num_issued_;
  bool captured = false;
  try {
    take_deltas(&plan);
    upload_deltas(plan, staging);
    StepCounts counts = count_work(plan);
    list_result_rows(plan, &step);
    const auto graph =
        plan.prefill_chunks.empty()
            ? graphs_.find({plan.padded_num_decode_rows, plan.draft_len, plan.next_draft_len})
            : graphs_.end();
    captured = graph != graphs_.end() && graph->first[0] >= counts.num_decode_rows;
    if (captured) counts = StepCounts::decode(graph->first[0], plan.draft_len);
    step.counts = counts;
    const StepInputs inputs = upload_inputs(plan, counts, staging);
    if (captured) {
      backend_.launch(graph->second->graph);
    } else {
      run_step(device_views(inputs, plan.next_draft_len));
    }
    copy_results(step);
    step.event = backend_.record();
  } catch (...) {
    step.failure = std::current_exception();
    synchronize_quietly();
  }
  std::lock_guard lock(mutex_);
  ++stats_.num_steps;
  stats_.num_graph_steps += captured;
  stats_.issue_us_total += monotonic_us() - step.start_us;
  return step;
}

Executor::Slot& Executor::slot_at(SlotId slot) {
  CHECK(slot >= 0 && slot < config_.max_num_slots, slot, config_.max_num_slots);
  return slots_[slot];
}

// CHECKs that the slot holds a sequence.
Executor::Slot& Executor::running_slot(SlotId slot) {
  Slot& running = slot_at(slot);
  CHECK(!running.tokens.empty(), slot, "the slot is empty");
  return running;
}

// The host's side of the deltas. The admissions' tokens move to their slots.
void Executor::take_deltas(StepPlan* plan) {
  deltas_.clear();
  try {
    const int32_t max_draft_len = config_.speculative.draft_len;
    CHECK(plan->draft_len >= 0 && plan->draft_len <= max_draft_len && plan->next_draft_len >= 0 &&
              plan->next_draft_len <= max_draft_len,
          plan->draft_len, plan->next_draft_len, max_draft_len);
    for (const SlotId slot : plan->retired_slots) slot_at(slot).tokens.clear();
    for (auto& admission : plan->admissions) take_admission(&admission);
    for (const auto& grant : plan->page_grants) check_grant(grant);
    for (const auto& mask : plan->mask_updates) check_mask(mask);
  } catch (...) {
    // The next plan may be launched already. It must not run these slots on what their page table
    // rows held before, pages that may be another sequence's by now: empty slots are refused.
    const auto clear = [this](SlotId slot) {
      if (slot >= 0 && slot < config_.max_num_slots) slots_[slot].tokens.clear();
    };
    for (const auto& admission : plan->admissions) clear(admission.slot);
    for (const auto& grant : plan->page_grants) clear(grant.slot);
    throw;
  }
}

void Executor::take_admission(SlotAdmission* admission) {
  Slot& slot = slot_at(admission->slot);
  CHECK(std::exchange(slot.admitted_in, num_issued_) != num_issued_, admission->slot);
  const auto num_tokens = static_cast<int64_t>(admission->tokens.size());
  CHECK(admission->prompt_len > 0 && admission->prompt_len <= num_tokens &&
            admission->num_cached_tokens >= 0 && admission->num_cached_tokens < num_tokens &&
            num_tokens <= config_.max_pages_per_slot * kPageTokens,
        num_tokens, admission->prompt_len, admission->num_cached_tokens);
  for (const int32_t token : admission->tokens) {
    CHECK(token >= 0 && token < model_config_.vocab_size, token);
  }
  const SamplingParams& params = *admission->sampling;
  for (const auto& [token, bias] : params.logit_bias) {
    CHECK(token >= 0 && token < model_config_.vocab_size, token, bias);
  }
  for (const int32_t token : params.stop_token_ids) {
    CHECK(token >= 0 && token < model_config_.vocab_size, token);
  }
  CHECK(params.logit_bias.size() <= kMaxLogitBiases, params.logit_bias.size());
  PendingAdmission pending = make_admission(*admission, admission->tokens,
                                            model_config_.eos_token_ids, config_.speculative);
  CHECK(static_cast<int64_t>(pending.banned_ids.size()) <= kMaxBannedIds,
        pending.banned_ids.size());
  // A vector's elements stay where they are when it is moved, so `pending` keeps seeing them.
  slot.tokens = std::move(admission->tokens);
  slot.num_logprobs = params.num_logprobs.value_or(-1);
  slot.max_drafts = pending.delta.sampling.max_drafts;
  deltas_.add(std::move(pending));
}

void Executor::check_grant(const PageGrant& grant) {
  running_slot(grant.slot);
  CHECK(grant.first_page_idx >= 0 &&
            grant.first_page_idx + static_cast<int64_t>(grant.pages.size()) <=
                config_.max_pages_per_slot,
        grant.first_page_idx, grant.pages.size(), config_.max_pages_per_slot);
  for (const PageId page : grant.pages) {
    CHECK(page >= 0 && page < pool_.num_pages, page, pool_.num_pages);
  }
  deltas_.add(grant);
}

void Executor::check_mask(const TokenMaskUpdate& update) {
  running_slot(update.slot);
  CHECK(update.mask != nullptr && std::ssize(*update.mask) == limits_.mask_words(), update.slot);
  const bool is_empty = std::ranges::all_of(*update.mask, [](uint32_t word) { return word == 0; });
  CHECK(!is_empty, update.slot, "a mask without a token");
  deltas_.add(update);
}

void Executor::upload_deltas(const StepPlan& plan, Staging* staging) {
  if (plan.admissions.empty() && plan.page_grants.empty() && plan.mask_updates.empty()) return;
  bool first = true;
  while (!deltas_.done()) {
    // The staging block still holds the round before.
    if (!std::exchange(first, false)) backend_.wait(backend_.record());
    const auto round = deltas_.next(staging->deltas.data(), deltas_memory_.data());
    backend_.copy_in_async(deltas_memory_.data(), staging->deltas.data(), round.size_bytes);
    backend_.apply_deltas(state_.state, round.deltas);
  }
}

// CHECKs the plan's work against slots and limits.
StepCounts Executor::count_work(const StepPlan& plan) {
  const auto num_rows = static_cast<int64_t>(plan.decode_rows.size());
  CHECK(num_rows <= config_.max_num_slots, num_rows);
  StepCounts counts = StepCounts::decode(num_rows, plan.draft_len);
  for (const auto& row : plan.decode_rows) running_slot(row.slot);
  for (const auto& chunk : plan.prefill_chunks) {
    const auto num_known = static_cast<int64_t>(running_slot(chunk.slot).tokens.size());
    CHECK(chunk.start >= 0 && chunk.length > 0 && int64_t{chunk.start} + chunk.length <= num_known,
          chunk.slot, chunk.start, chunk.length, num_known);
    counts.num_tokens += chunk.length;
    counts.num_sampled_rows += chunk.samples;
    if (chunk.kind == ChunkKind::kReplay) {
      counts.num_absorbed_tokens += chunk.length;
      ++counts.num_absorbed_sequences;
    } else {
      ++counts.num_expanded_sequences;
    }
  }
  CHECK(counts.num_tokens > 0 && counts.num_tokens <= config_.max_batched_tokens,
        counts.num_tokens);
  const int64_t num_sequences = counts.num_absorbed_sequences + counts.num_expanded_sequences;
  CHECK(num_sequences <= config_.max_num_slots, num_sequences);
  return counts;
}

// Tokens of the batch: decode rows and their padding, replayed chunks, prompt chunks. Sampled rows:
// in plan order.
StepInputs Executor::upload_inputs(const StepPlan& plan, const StepCounts& counts,
                                   Staging* staging) {
  Carver host_carver(staging->inputs.data());
  InputWriter writer(carve_inputs(counts, host_carver));
  for (int64_t row = 0; row < counts.num_decode_rows; ++row) {
    const bool padding = row >= static_cast<int64_t>(plan.decode_rows.size());
    writer.add_decode_row(padding ? kPaddingSlot : plan.decode_rows[row].slot);
  }
  std::vector<int32_t> last_token_of_chunk(plan.prefill_chunks.size());
  for (const ChunkKind kind : {ChunkKind::kReplay, ChunkKind::kPrompt}) {
    for (size_t i = 0; i < plan.prefill_chunks.size(); ++i) {
      const PrefillChunk& chunk = plan.prefill_chunks[i];
      if (chunk.kind == kind)
        last_token_of_chunk[i] = writer.add_chunk(chunk, slots_[chunk.slot].tokens);
    }
  }
  for (size_t i = 0; i < plan.prefill_chunks.size(); ++i) {
    const PrefillChunk& chunk = plan.prefill_chunks[i];
    if (chunk.samples) writer.sample(last_token_of_chunk[i], chunk.slot);
  }

  backend_.copy_in_async(inputs_memory_.data(), staging->inputs.data(), host_carver.used_bytes());
  Carver device_carver(inputs_memory_.data());
  StepInputs inputs = carve_inputs(counts, device_carver);
  inputs.expanded.host_query_offsets = writer.host().expanded.query_offsets.data<int32_t>();
  inputs.expanded.host_kv_lens = writer.host().expanded.kv_lens.data<int32_t>();
  return inputs;
}

void Executor::list_result_rows(const StepPlan& plan, IssuedStep* step) const {
  const auto add = [&](SlotId slot, int32_t draft_len) {
    step->rows.push_back(
        {slot, slots_[slot].num_logprobs, std::min(draft_len, slots_[slot].max_drafts)});
  };
  for (const auto& row : plan.decode_rows) add(row.slot, plan.draft_len);
  for (const auto& chunk : plan.prefill_chunks) {
    if (chunk.samples) add(chunk.slot, 0);
  }
}

Executor::StepViews Executor::device_views(const StepInputs& inputs, int64_t next_draft_len) const {
  StepViews views{.inputs = inputs, .sampled = {}, .drafts = {}, .next_draft_len = next_draft_len};
  Carver sampled_carver(sampled_memory_.data());
  views.sampled = carve_sampled(inputs.num_sampled_rows, inputs.num_results(), sampled_carver);
  if (config_.speculative.draft_len == 0) return views;
  Carver drafts_carver(drafts_memory_.data());
  views.drafts = carve_drafts(inputs, views.sampled, limits_.num_extra_rows, drafts_carver);
  return views;
}

// Target, verification, state and drafts: what one graph holds.
void Executor::run_step(const StepViews& views) {
  const StepState& state = state_.state;
  const StepInputs& inputs = views.inputs;
  const bool has_mtp = config_.speculative.draft_len > 0;
  backend_.prepare_step(state, inputs);
  const TensorView logits = decoder_.forward(state, inputs, pool_);
  if (has_mtp) drafter_.follow_chunks(state, inputs, pool_);
  if (inputs.num_sampled_rows > 0) backend_.sample(state, inputs, logits, views.sampled);
  backend_.update_state(state, inputs, views.sampled);
  if (!has_mtp || inputs.num_sampled_rows == 0) return;
  backend_.begin_drafts(state, inputs, views.sampled, views.drafts);
  drafter_.draft(state, views.drafts, views.next_draft_len, pool_);
}

// Tokens; log-probabilities only if a row asks for them.
void Executor::copy_results(const IssuedStep& step) {
  const int64_t num_rows = step.counts.num_sampled_rows;
  const int64_t num_results = step.counts.num_results();
  if (num_rows == 0) return;
  const bool logprobs =
      std::ranges::any_of(step.rows, [](const ResultRow& row) { return row.num_logprobs >= 0; });
  backend_.copy_out_async(step.staging->sampled.data(), sampled_memory_.data(),
                          logprobs ? sampled_bytes(num_rows, num_results)
                                   : sampled_tokens_bytes(num_rows, num_results));
}

}  // namespace deepflight
