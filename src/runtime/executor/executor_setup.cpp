// Start: buffers, the largest steps of every kind, the KV pool in what they leave, decode graphs.
//
//     weights | state, buffers | scratch, by running | graphs, by a trial | KV pool: the rest
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "runtime/executor/executor.h"

namespace deepflight {
namespace {

StepLimits make_limits(const ExecutorConfig& config, const DeepseekConfig& model_config,
                       DType activation) {
  const auto& sizes = config.decode_batch_sizes;
  CHECK(std::ranges::is_sorted(sizes) && (sizes.empty() || sizes.front() > 0), sizes.size());
  CHECK(config.num_pages > 0 || config.memory_limit_bytes > 0, config.num_pages);
  return {.max_num_slots = config.max_num_slots,
          .max_pages_per_slot = config.max_pages_per_slot,
          .max_batched_tokens = config.max_batched_tokens,
          .vocab_size = model_config.vocab_size,
          .max_decode_rows = sizes.empty() ? 0 : sizes.back(),
          .draft_len = config.speculative.draft_len,
          .states_width = MtpDrafter::states_width(model_config, config.speculative.num_modules()),
          .num_extra_rows = config.speculative.num_extra_rows(),
          .activation_dtype = activation};
}

KvPool make_pool(const ExecutorConfig& config, const DeepseekConfig& model_config, DType activation,
                 int64_t num_pages, void* memory) {
  const int64_t num_modules = config.speculative.num_modules();
  KvPool pool;
  pool.base = memory;
  pool.format = config.kv_format;
  pool.num_pages = num_pages;
  pool.num_layers = model_config.num_layers + num_modules;
  if (!config.kv_scales.empty()) {
    CHECK(std::ssize(config.kv_scales) == pool.num_layers, config.kv_scales.size(),
          pool.num_layers);
    pool.scales = config.kv_scales.data();
  }
  pool.token_dim = model_config.kv_token_dim();
  pool.rope_dim = model_config.qk_rope_head_dim;
  pool.tail_bytes = MtpDrafter::states_width(model_config, num_modules) * dtype_bytes(activation);
  pool.tail_bytes = (pool.tail_bytes + 15) / 16 * 16;
  return pool;
}

// Pages without which the executor is of no use.
int64_t min_pages(const ExecutorConfig& config) {
  return config.num_pages > 0 ? config.num_pages : config.max_pages_per_slot;
}

int64_t delta_block_bytes(const ExecutorConfig& config, const StepLimits& limits) {
  return std::max(
      config.delta_block_bytes,
      DeltaRounds::min_block_bytes(config.max_pages_per_slot * kPageTokens, limits.mask_words()));
}

// What is known before anything is allocated.
ExecutorMemory plan_memory(const ExecutorConfig& config, const StepLimits& limits,
                           const DeepseekConfig& model_config, const Backend& backend) {
  ExecutorMemory memory;
  memory.weights_bytes = config.weights_bytes;
  memory.state_bytes = state_bytes(limits);
  memory.workspace_bytes =
      DecoderWorkspace::size_bytes(model_config, limits.max_tokens(), limits.max_sampled_rows(),
                                   backend, limits.draft_len > 0) +
      max_inputs_bytes(limits) + sampled_bytes(limits.max_sampled_rows(), limits.max_sequences()) +
      max_drafts_bytes(limits) + delta_block_bytes(config, limits);
  memory.page_bytes =
      make_pool(config, model_config, backend.activation_dtype(), 1, nullptr).size_bytes();
  if (config.memory_limit_bytes > 0) {
    fit_pages(memory, config.memory_limit_bytes - memory.fixed_bytes(), min_pages(config));
  }
  return memory;
}

}  // namespace

Executor::Executor(const ExecutorConfig& config, const DeepseekConfig& model_config,
                   const ModelWeights& weights, Backend& backend)
    : config_(config),
      limits_(make_limits(config, model_config, backend.activation_dtype())),
      model_config_(model_config),
      weights_(weights),
      backend_(backend),
      memory_(plan_memory(config, limits_, model_config, backend)),
      state_(limits_, backend),
      inputs_memory_(backend.allocate(max_inputs_bytes(limits_))),
      sampled_memory_(
          backend.allocate(sampled_bytes(limits_.max_sampled_rows(), limits_.max_sequences()))),
      drafts_memory_(limits_.draft_len > 0 ? backend.allocate(max_drafts_bytes(limits_))
                                           : Buffer()),
      deltas_memory_(backend.allocate(delta_block_bytes(config, limits_))),
      workspace_(model_config, limits_.max_tokens(), limits_.max_sampled_rows(), backend,
                 limits_.draft_len > 0),
      decoder_(model_config, weights, backend, workspace_),
      drafter_(weights, backend, workspace_, decoder_, config.speculative.num_modules()),
      slots_(config.max_num_slots),
      deltas_(delta_block_bytes(config, limits_), limits_.mask_words()) {
  const Status valid = config.speculative.validate();
  CHECK(valid.ok(), valid.error().message);
  staging_.resize(kNumStagingBlocks);
  for (Staging& staging : staging_) {
    staging.inputs = backend.allocate_staging(inputs_memory_.size_bytes());
    staging.deltas = backend.allocate_staging(deltas_memory_.size_bytes());
    staging.sampled = backend.allocate_staging(sampled_memory_.size_bytes());
    free_staging_.push_back(&staging);
  }
  thread_ = std::thread([this] { thread_loop(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_; });
  lock.unlock();
  if (!setup_failure_) return;
  thread_.join();
  std::rethrow_exception(setup_failure_);
}

int64_t Executor::kv_pool_bytes(const ExecutorConfig& config, const DeepseekConfig& model_config,
                                DType activation) {
  return make_pool(config, model_config, activation, config.num_pages, nullptr).size_bytes();
}

void Executor::use_pool(int64_t num_pages) {
  pool_ = {};
  pool_memory_ = Buffer();
  if (num_pages == 0) return;
  pool_memory_ = backend_.allocate(num_pages * memory_.page_bytes);
  pool_ = make_pool(config_, model_config_, backend_.activation_dtype(), num_pages,
                    pool_memory_.data());
}

void Executor::set_up() {
  const bool limited = config_.memory_limit_bytes > 0;
  if (limited || config_.warm_up) {
    use_pool(1);  // every sequence of a trial has page 0 for all of its pages
    backend_.fill_zero(pool_memory_.data(), pool_memory_.size_bytes());
    const int64_t free_bytes = backend_.free_memory_bytes();
    if (config_.warm_up) warm_up();
    memory_.scratch_bytes = std::max<int64_t>(0, free_bytes - backend_.free_memory_bytes());
    if (limited) memory_.graph_bytes = measure_graph_bytes();
    use_pool(0);
  }
  memory_.num_pages = config_.num_pages;
  if (limited) {
    const int64_t most = fit_pages(memory_, available_bytes(), min_pages(config_));
    if (config_.num_pages == 0) {
      memory_.num_pages = config_.max_num_pages > 0 ? std::min(most, config_.max_num_pages) : most;
    }
  }
  use_pool(memory_.num_pages);
  capture_decode_steps();
}

// For the KV pool: within the limit, and really there.
int64_t Executor::available_bytes() const {
  return std::min(config_.memory_limit_bytes - memory_.fixed_bytes(),
                  backend_.free_memory_bytes() - memory_.graph_bytes);
}

// The steps that need the most scratch, of a mixture of sampling options.
std::vector<StepPlan> Executor::warm_up_plans() const {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->top_p = 0.9f;
  sampling->repetition_penalty = 1.1f;
  sampling->num_logprobs = kMaxTopLogprobs;
  const auto admit = [&](SlotId slot, int64_t num_tokens, StepPlan* plan) {
    plan->admissions.push_back(
        {slot, sampling, 1, std::vector<int32_t>(num_tokens), static_cast<int32_t>(num_tokens), 0});
  };
  const auto add_chunk = [](SlotId slot, ChunkKind kind, int64_t start, int64_t length,
                            StepPlan* plan) {
    plan->prefill_chunks.push_back(
        {slot, kind, static_cast<int32_t>(start), static_cast<int32_t>(length), true});
  };
  const int64_t draft_len = config_.speculative.draft_len;
  const int64_t longest =
      std::min(config_.max_pages_per_slot * kPageTokens, weights_.rope.cos_sin.dim(0)) -
      config_.speculative.reach();
  std::vector<StepPlan> plans;
  // A full budget of one kind of chunk, in as few sequences as can have it. Absorbed attention
  // knows no lengths on the host, so its scratch depends on counts alone; expanded attention gets
  // the longest context.
  for (const ChunkKind kind : {ChunkKind::kPrompt, ChunkKind::kReplay}) {
    StepPlan& plan = plans.emplace_back();
    int64_t budget = config_.max_batched_tokens;
    for (SlotId slot = 0; slot < config_.max_num_slots && budget > 0; ++slot) {
      const int64_t length = std::min(budget, longest);
      const int64_t start = kind == ChunkKind::kPrompt ? longest - length : 0;
      admit(slot, start + length, &plan);
      add_chunk(slot, kind, start, length, &plan);
      budget -= length;
    }
    plan.next_draft_len = static_cast<int32_t>(draft_len);
  }
  // Half of the sequences decode, the others have chunks of one length; and all of them decode.
  const int64_t num_sequences =
      std::min(config_.max_num_slots, config_.max_batched_tokens / (1 + draft_len));
  const int64_t num_rows = num_sequences / 2;
  const int64_t length =
      std::min(longest, (config_.max_batched_tokens - num_rows * (1 + draft_len)) /
                            (num_sequences - num_rows));
  StepPlan mixed, decode;
  for (SlotId slot = 0; slot < num_sequences; ++slot) {
    admit(slot, length, &mixed);
    admit(slot, 1, &decode);
    decode.decode_rows.push_back({slot});
    if (slot < num_rows) {
      mixed.decode_rows.push_back({slot});
    } else {
      add_chunk(slot, ChunkKind::kPrompt, 0, length, &mixed);
    }
  }
  for (StepPlan* plan : {&mixed, &decode}) {
    plan->draft_len = plan->next_draft_len = static_cast<int32_t>(draft_len);
    plans.push_back(std::move(*plan));
  }
  return plans;
}

void Executor::warm_up() {
  backend_.prepare_kernels(limits_.max_tokens());
  Staging* staging = &staging_.front();
  for (StepPlan& plan : warm_up_plans()) {
    const IssuedStep step = issue(std::move(plan), staging);
    if (step.failure) std::rethrow_exception(step.failure);
    backend_.wait(step.event);
  }
  // Captured sizes may be larger than any of these. All rows are padding.
  for (const auto& [num_rows, draft_len, next_draft_len] : graph_keys()) {
    const StepCounts counts = StepCounts::decode(num_rows, draft_len);
    run_step(device_views(upload_inputs({}, counts, staging), next_draft_len));
    backend_.wait(backend_.record());
  }
  for (Slot& slot : slots_) slot = {};
  num_issued_ = 0;
  state_.clear();
  std::lock_guard lock(mutex_);
  stats_ = {};
}

// Largest first: the smaller ones find room in what it took.
std::vector<Executor::GraphKey> Executor::graph_keys() const {
  const int64_t draft_len = config_.speculative.draft_len;
  std::vector<GraphKey> keys;
  const auto& sizes = config_.decode_batch_sizes;
  for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
    keys.push_back({*size, draft_len, draft_len});
    if (config_.captures_without_drafts && draft_len > 0) keys.push_back({*size, 0, 0});
  }
  return keys;
}

std::unique_ptr<Executor::DecodeGraph> Executor::capture_decode_step(const GraphKey& key) {
  const auto& [num_rows, draft_len, next_draft_len] = key;
  auto decode = std::make_unique<DecodeGraph>();
  Carver carver(inputs_memory_.data());
  const StepInputs inputs = carve_inputs(StepCounts::decode(num_rows, draft_len), carver);
  decode->views = device_views(inputs, next_draft_len);
  decode->graph = backend_.capture([this, step = decode.get()] { run_step(step->views); });
  return decode;
}

void Executor::capture_decode_steps() {
  const int64_t free_bytes = backend_.free_memory_bytes();
  for (const GraphKey& key : graph_keys()) graphs_.emplace(key, capture_decode_step(key));
  if (graphs_.empty()) return;
  backend_.synchronize();
  memory_.graph_bytes = std::max<int64_t>(0, free_bytes - backend_.free_memory_bytes());
}

// An upper bound, by the largest: the pool's place is not known yet, so it is captured again later.
int64_t Executor::measure_graph_bytes() {
  const std::vector<GraphKey> keys = graph_keys();
  if (keys.empty()) return 0;
  const int64_t free_bytes = backend_.free_memory_bytes();
  const auto trial = capture_decode_step(keys.front());
  backend_.synchronize();
  const int64_t bytes = std::max<int64_t>(0, free_bytes - backend_.free_memory_bytes());
  return bytes * static_cast<int64_t>(keys.size());
}

}  // namespace deepflight
