// One rank's thread: deltas, inputs, forward pass, sampling, results.
#include "runtime/executor/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.h"

namespace deepflight {
namespace {

static_assert(kPageTokens == kKvPageTokens);

StepLimits make_limits(const ExecutorConfig& config, const DeepseekConfig& model_config) {
  return {config.max_num_slots, config.max_pages_per_slot, config.max_batched_tokens,
          model_config.vocab_size};
}

KvPool make_pool(const ExecutorConfig& config, const DeepseekConfig& model_config, void* memory) {
  return {memory, config.kv_format, config.num_pages, model_config.num_layers,
          model_config.kv_token_dim()};
}

SlotSampling make_slot_sampling(const SlotAdmission& admission) {
  const SamplingParams& params = *admission.sampling;
  SlotSampling sampling{};
  sampling.temperature = params.temperature;
  sampling.top_p = params.top_p;
  sampling.min_p = params.min_p;
  sampling.repetition_penalty = params.repetition_penalty;
  sampling.presence_penalty = params.presence_penalty;
  sampling.frequency_penalty = params.frequency_penalty;
  sampling.top_k = std::max(params.top_k, 0);
  sampling.num_logprobs = params.num_logprobs.value_or(-1);
  sampling.num_biases = static_cast<int32_t>(params.logit_bias.size());
  sampling.min_tokens = params.min_tokens;
  sampling.seed = admission.rng_seed;
  return sampling;
}

}  // namespace

Executor::Executor(const ExecutorConfig& config, const DeepseekConfig& model_config,
                   const ModelWeights& weights, Backend& backend)
    : config_(config),
      model_config_(model_config),
      backend_(backend),
      pool_memory_(backend.allocate(kv_pool_bytes(config, model_config))),
      pool_(make_pool(config, model_config, pool_memory_.data())),
      state_(make_limits(config, model_config), backend),
      inputs_(make_limits(config, model_config), backend),
      workspace_(model_config, config.max_batched_tokens, config.max_num_slots, backend),
      decoder_(model_config, weights, backend, workspace_),
      slots_(config.max_num_slots),
      thread_([this] { thread_loop(); }) {}

Executor::~Executor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int64_t Executor::kv_pool_bytes(const ExecutorConfig& config, const DeepseekConfig& model_config) {
  return make_pool(config, model_config, nullptr).size_bytes();
}

void Executor::launch(StepPlan plan) {
  {
    std::lock_guard lock(mutex_);
    launched_.push_back(std::move(plan));
  }
  changed_.notify_all();
}

StepResult Executor::collect() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !finished_.empty(); });
  auto outcome = std::move(finished_.front());
  finished_.pop_front();
  if (auto* failure = std::get_if<std::exception_ptr>(&outcome)) std::rethrow_exception(*failure);
  return std::get<StepResult>(std::move(outcome));
}

void Executor::thread_loop() {
  backend_.attach_thread();
  while (true) {
    StepPlan plan;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !launched_.empty(); });
      if (launched_.empty()) return;
      plan = std::move(launched_.front());
      launched_.pop_front();
    }
    std::variant<StepResult, std::exception_ptr> outcome;
    try {
      outcome = run(plan);
    } catch (...) {
      outcome = std::current_exception();
    }
    {
      std::lock_guard lock(mutex_);
      finished_.push_back(std::move(outcome));
    }
    changed_.notify_all();
  }
}

StepResult Executor::run(const StepPlan& plan) {
  CHECK(plan.draft_len == 0, plan.draft_len, "draft tokens need an MTP module");
  const int64_t start_us = monotonic_us();
  apply_deltas(plan);
  fill_inputs(plan);
  inputs_.upload();
  const StepInputs inputs = inputs_.device_inputs();
  const SampledTokens sampled = inputs_.sampled();
  backend_.prepare_step(state_.state, inputs);
  const TensorView logits = decoder_.forward(state_.state, inputs, pool_);
  backend_.sample(state_.state, inputs, logits, sampled);
  backend_.update_state(state_.state, inputs, sampled);
  StepResult result = read_results(plan, sampled);
  result.duration_us = monotonic_us() - start_us;
  return result;
}

Executor::Slot& Executor::slot_at(SlotId slot) {
  CHECK(slot >= 0 && slot < config_.max_num_slots, slot, config_.max_num_slots);
  return slots_[slot];
}

Executor::Slot& Executor::running_slot(SlotId slot) {
  Slot& running = slot_at(slot);
  CHECK(!running.tokens.empty(), slot, "the slot is empty");
  return running;
}

void Executor::apply_deltas(const StepPlan& plan) {
  try {
    for (const SlotId slot : plan.retired_slots) slot_at(slot).tokens.clear();
    for (const auto& admission : plan.admissions) admit(admission);
    for (const auto& grant : plan.page_grants) {
      running_slot(grant.slot);
      CHECK(grant.first_page_idx >= 0 &&
                grant.first_page_idx + static_cast<int64_t>(grant.pages.size()) <=
                    config_.max_pages_per_slot,
            grant.first_page_idx, grant.pages.size(), config_.max_pages_per_slot);
      int32_t* row = state_.state.page_table.row<int32_t>(grant.slot);
      backend_.copy_in(row + grant.first_page_idx, grant.pages.data(),
                       static_cast<int64_t>(grant.pages.size() * sizeof(PageId)));
    }
  } catch (...) {
    // The next plan may be launched already. It must not run these slots on what their page table
    // rows held before, pages that may be another sequence's by now: empty slots are refused.
    const auto clear = [this](SlotId slot) {
      if (slot >= 0 && slot < config_.max_num_slots) slots_[slot].tokens.clear();
    };
    for (const auto& admission : plan.admissions) clear(admission.slot);
    for (const auto& grant : plan.page_grants) clear(grant.slot);
    throw;
  }
}

void Executor::admit(const SlotAdmission& admission) {
  const SlotId slot = admission.slot;
  slot_at(slot);
  const auto num_tokens = static_cast<int64_t>(admission.tokens.size());
  CHECK(admission.prompt_len > 0 && admission.prompt_len <= num_tokens &&
            admission.num_cached_tokens >= 0 && admission.num_cached_tokens < num_tokens,
        num_tokens, admission.prompt_len, admission.num_cached_tokens);
  const StepState& state = state_.state;
  const SamplingParams& params = *admission.sampling;
  SlotSampling sampling = make_slot_sampling(admission);

  std::vector<int32_t> counts(model_config_.vocab_size, 0);
  std::vector<uint8_t> seen(model_config_.vocab_size, 0);
  for (size_t i = 0; i < admission.tokens.size(); ++i) {
    const int32_t token = admission.tokens[i];
    CHECK(token >= 0 && token < model_config_.vocab_size, token);
    if (static_cast<int32_t>(i) < admission.prompt_len) {
      seen[token] = 1;
    } else {
      ++counts[token];
    }
  }
  std::vector<int32_t> bias_ids, banned_ids;
  std::vector<float> bias_values;
  for (const auto& [token, bias] : params.logit_bias) {
    bias_ids.push_back(token);
    bias_values.push_back(bias);
  }
  if (params.min_tokens > 0) {
    banned_ids = params.stop_token_ids;
    if (!params.ignore_eos) {
      banned_ids.insert(banned_ids.end(), model_config_.eos_token_ids.begin(),
                        model_config_.eos_token_ids.end());
    }
    CHECK(static_cast<int64_t>(banned_ids.size()) <= state.banned_ids.dim(1), banned_ids.size());
    sampling.num_banned = static_cast<int32_t>(banned_ids.size());
  }

  const auto copy_row = [&](void* row, const auto& values) {
    backend_.copy_in(row, values.data(), static_cast<int64_t>(values.size() * sizeof(values[0])));
  };
  copy_row(state.output_counts.row<int32_t>(slot), counts);
  copy_row(state.prompt_seen.row<uint8_t>(slot), seen);
  copy_row(state.bias_ids.row<int32_t>(slot), bias_ids);
  copy_row(state.bias_values.row<float>(slot), bias_values);
  copy_row(state.banned_ids.row<int32_t>(slot), banned_ids);
  const auto num_outputs = static_cast<int32_t>(admission.tokens.size()) - admission.prompt_len;
  backend_.copy_in(state.num_outputs.data<int32_t>() + slot, &num_outputs, sizeof(int32_t));
  backend_.copy_in(state.kv_lens.data<int32_t>() + slot, &admission.num_cached_tokens,
                   sizeof(int32_t));
  backend_.copy_in(state.sampling + slot, &sampling, sizeof(sampling));
  slots_[slot] = {admission.tokens, sampling.num_logprobs};
}

// Tokens of the batch: decode rows, replayed chunks, prompt chunks. Sampled rows: in plan order.
void Executor::fill_inputs(const StepPlan& plan) {
  StepInputs& host = inputs_.host;
  host.num_decode_rows = static_cast<int64_t>(plan.decode_rows.size());
  host.num_tokens = 0;
  host.num_sampled_rows = 0;
  host.absorbed.num_sequences = 0;
  host.expanded.num_sequences = 0;
  host.absorbed.query_offsets.data<int32_t>()[0] = 0;
  host.expanded.query_offsets.data<int32_t>()[0] = 0;

  const auto sample_token = [&](int64_t token_idx, SlotId slot) {
    const int64_t row = host.num_sampled_rows++;
    CHECK(row < config_.max_num_slots, row);
    host.sampled_token_idx.data<int32_t>()[row] = static_cast<int32_t>(token_idx);
    host.sampled_slots.data<int32_t>()[row] = slot;
  };
  CHECK(host.num_decode_rows <= config_.max_num_slots &&
            host.num_decode_rows <= config_.max_batched_tokens,
        host.num_decode_rows);
  for (const auto& row : plan.decode_rows) {
    running_slot(row.slot);
    const int64_t token = host.num_tokens++;
    const int64_t sequence = host.absorbed.num_sequences++;
    host.token_slots.data<int32_t>()[token] = row.slot;
    host.absorbed.slots.data<int32_t>()[sequence] = row.slot;
    host.absorbed.query_offsets.data<int32_t>()[sequence + 1] = static_cast<int32_t>(token + 1);
    sample_token(token, row.slot);
  }
  std::vector<int64_t> last_token_of_chunk(plan.prefill_chunks.size());
  for (const ChunkKind kind : {ChunkKind::kReplay, ChunkKind::kPrompt}) {
    for (size_t i = 0; i < plan.prefill_chunks.size(); ++i) {
      const PrefillChunk& chunk = plan.prefill_chunks[i];
      if (chunk.kind != kind) continue;
      add_tokens(chunk, kind == ChunkKind::kReplay ? &host.absorbed : &host.expanded);
      last_token_of_chunk[i] = host.num_tokens - 1;
    }
    if (kind == ChunkKind::kReplay) host.num_absorbed_tokens = host.num_tokens;
  }
  for (size_t i = 0; i < plan.prefill_chunks.size(); ++i) {
    if (plan.prefill_chunks[i].samples) {
      sample_token(last_token_of_chunk[i], plan.prefill_chunks[i].slot);
    }
  }
}

void Executor::add_tokens(const PrefillChunk& chunk, AttentionBatch* batch) {
  StepInputs& host = inputs_.host;
  const auto& tokens = running_slot(chunk.slot).tokens;
  CHECK(chunk.start >= 0 && chunk.length > 0 &&
            int64_t{chunk.start} + chunk.length <= static_cast<int64_t>(tokens.size()),
        chunk.slot, chunk.start, chunk.length, tokens.size());
  CHECK(host.num_tokens + chunk.length <= config_.max_batched_tokens, host.num_tokens,
        chunk.length);
  for (int32_t i = 0; i < chunk.length; ++i) {
    const int64_t token = host.num_tokens++;
    host.token_ids.data<int32_t>()[token] = tokens[chunk.start + i];
    host.positions.data<int32_t>()[token] = chunk.start + i;
    host.token_slots.data<int32_t>()[token] = chunk.slot;
  }
  const int64_t sequence = batch->num_sequences++;
  CHECK(sequence < config_.max_num_slots, sequence);
  batch->slots.data<int32_t>()[sequence] = chunk.slot;
  batch->kv_lens.data<int32_t>()[sequence] = chunk.start + chunk.length;
  int32_t* offsets = batch->query_offsets.data<int32_t>();
  offsets[sequence + 1] = offsets[sequence] + chunk.length;
}

StepResult Executor::read_results(const StepPlan& plan, const SampledTokens& sampled) {
  StepResult result;
  result.step_id = plan.step_id;
  const int64_t num_rows = inputs_.host.num_sampled_rows;
  int32_t first_bad_row = -1;
  backend_.copy_out(&first_bad_row, sampled.first_bad_row.raw(), sizeof(first_bad_row));
  CHECK(first_bad_row < 0, first_bad_row, "the row's logits are not finite: broken weights?");
  std::vector<int32_t> tokens(num_rows);
  backend_.copy_out(tokens.data(), sampled.tokens.raw(), num_rows * 4);
  std::vector<float> logprobs(num_rows), top_logprobs(num_rows * sampled.max_logprobs);
  std::vector<int32_t> top_ids(num_rows * sampled.max_logprobs);
  backend_.copy_out(logprobs.data(), sampled.logprobs.raw(), num_rows * 4);
  backend_.copy_out(top_ids.data(), sampled.top_ids.raw(), top_ids.size() * 4);
  backend_.copy_out(top_logprobs.data(), sampled.top_logprobs.raw(), top_logprobs.size() * 4);
  for (int64_t row = 0; row < num_rows; ++row) {
    RowResult row_result;
    row_result.slot = inputs_.host.sampled_slots.data<int32_t>()[row];
    row_result.tokens = {tokens[row]};
    const int32_t num_logprobs = slots_[row_result.slot].num_logprobs;
    if (num_logprobs >= 0) {
      TokenLogprobs entry;
      entry.logprob = logprobs[row];
      const int64_t count = std::min<int64_t>(num_logprobs, model_config_.vocab_size);
      for (int64_t i = row * sampled.max_logprobs; i < row * sampled.max_logprobs + count; ++i) {
        entry.top.emplace_back(top_ids[i], top_logprobs[i]);
      }
      row_result.logprobs.push_back(std::move(entry));
    }
    result.rows.push_back(std::move(row_result));
  }
  return result;
}

}  // namespace deepflight
