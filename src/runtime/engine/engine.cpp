// The engine's loop.
#include "runtime/engine/engine.h"

#include <chrono>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace deepflight {
namespace {

constexpr std::chrono::microseconds kCopyPollTime{100};

// Seeds of a request's choices: the first is the request's own, the others are spread from it
// (SplitMix64, Steele et al. 2014).
uint64_t choice_seed(uint64_t seed, int choice_idx) {
  if (choice_idx == 0) return seed;
  uint64_t z = seed + 0x9E3779B97F4A7C15ull * static_cast<uint64_t>(choice_idx);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

FinishReason finish_reason(StopCause cause) {
  switch (cause) {
    case StopCause::kEndOfSequence:
    case StopCause::kStopToken:
      return FinishReason::kStop;
    case StopCause::kMaxTokens:
    case StopCause::kMaxModelLen:
      return FinishReason::kLength;
    case StopCause::kStepFailed:
      break;
  }
  return FinishReason::kError;
}

}  // namespace

Engine::Engine(EngineConfig config, Executor& executor, const Tokenizer* tokenizer,
               PrefixSource* source)
    : config_(std::move(config)),
      executor_(executor),
      tokenizer_(tokenizer),
      scheduler_(config_.scheduler, source),
      seeds_(std::random_device{}()) {
  publish_stats();
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Status Engine::check(const GenerationRequest& request) const {
  RETURN_IF_ERROR(request.sampling.validate(config_.model.vocab_size));
  if (tokenizer_ == nullptr && !request.sampling.stop.empty()) {
    return invalid_argument("stop: this model has no tokenizer, so strings cannot be matched");
  }
  if (request.constraint &&
      request.constraint.grammar->vocabulary().vocab_size() != config_.model.vocab_size) {
    return invalid_argument("the output's grammar is of another vocabulary");
  }
  if (request.prompt_token_ids.empty()) return invalid_argument("prompt: must not be empty");
  for (const int32_t token : request.prompt_token_ids) {
    if (token < 0 || token >= config_.model.vocab_size) {
      return invalid_argument("prompt: token id {} is not in [0, {})", token,
                              config_.model.vocab_size);
    }
  }
  return scheduler_.can_ever_run(static_cast<int64_t>(request.prompt_token_ids.size()),
                                 request.sampling.max_tokens);
}

Status Engine::submit(GenerationRequest request, EventCallback on_event) {
  RETURN_IF_ERROR(check(request));
  {
    std::lock_guard lock(mutex_);
    if (draining_ || stopping_) {
      return make_error(ErrorCode::kUnavailable, "the server is shutting down");
    }
    if (!live_ids_.emplace(request.request_id, request.sampling.num_choices).second) {
      return invalid_argument("request id '{}' is in use", request.request_id);
    }
    submissions_.push_back({std::move(request), std::move(on_event), monotonic_us()});
  }
  wake_.notify_all();
  return ok_status();
}

void Engine::cancel(const std::string& request_id) {
  {
    std::lock_guard lock(mutex_);
    if (!live_ids_.contains(request_id)) return;
    cancellations_.push_back(request_id);
  }
  wake_.notify_all();
}

ServiceStats Engine::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Engine::begin_drain() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

bool Engine::wait_until_idle(int64_t timeout_us) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, std::chrono::microseconds(timeout_us),
                        [this] { return live_ids_.empty(); });
}

void Engine::loop() {
  while (take_notes()) {
    launch_steps();
    if (!launched_steps_.empty()) {
      collect_step();
    } else if (!scheduler_.idle()) {
      // Nothing can run until pages have been copied.
      std::this_thread::sleep_for(kCopyPollTime);
    }
    publish_stats();
    if (scheduler_.idle()) scheduler_.check_integrity();
  }
  while (!launched_steps_.empty()) collect_step();
  std::deque<Submission> submissions;
  {
    std::lock_guard lock(mutex_);
    submissions.swap(submissions_);
  }
  for (auto& submission : submissions) start(std::move(submission));
  for (const auto& [request_id, sequences] : std::unordered_map(sequences_)) abort(request_id);
}

// Takes in submissions and cancellations; sleeps while there is nothing to do. False: stop.
bool Engine::take_notes() {
  std::deque<Submission> submissions;
  std::vector<std::string> cancellations;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] {
      return stopping_ || !submissions_.empty() || !cancellations_.empty() || !scheduler_.idle() ||
             !launched_steps_.empty();
    });
    if (stopping_) return false;
    submissions.swap(submissions_);
    cancellations.swap(cancellations_);
  }
  for (auto& submission : submissions) start(std::move(submission));
  for (const auto& request_id : cancellations) abort(request_id);
  return true;
}

void Engine::start(Submission submission) {
  auto& [request, on_event, arrival_us] = submission;
  auto sampling = std::make_shared<SamplingParams>(std::move(request.sampling));
  auto shared = std::make_shared<Request>(Request{request.request_id, sampling, std::move(on_event),
                                                  sampling->num_choices, arrival_us});
  const uint64_t seed = sampling->seed.value_or(seeds_());
  for (int i = 0; i < sampling->num_choices; ++i) {
    SequenceRequest sequence;
    sequence.sequence_id = next_sequence_id_++;
    sequence.prompt = request.prompt_token_ids;
    sequence.sampling = sampling;
    sequence.rng_seed = choice_seed(seed, i);
    sequence.eos_token_ids = config_.model.eos_token_ids;
    sequence.cache_salt = request.cache_salt;
    sequence.arrival_us = arrival_us;
    sequence.constraint = request.constraint;
    choices_.emplace(sequence.sequence_id, Choice{shared, i, TextOutput(tokenizer_, *sampling)});
    sequences_[shared->id].push_back(sequence.sequence_id);
    const Status added = scheduler_.add(std::move(sequence));
    CHECK(added.ok(), added.error().message);  // check() asked can_ever_run before
  }
}

void Engine::abort(const std::string& request_id) {
  const auto it = sequences_.find(request_id);
  if (it == sequences_.end()) return;
  for (const uint64_t sequence_id : std::vector(it->second)) {
    scheduler_.finish(sequence_id);
    GenerationEvent event;
    event.text = choices_.at(sequence_id).output.push({}, false, /*final=*/true).text;
    event.finish_reason = FinishReason::kAbort;
    finish_choice(sequence_id, std::move(event));
  }
}

void Engine::launch_steps() {
  while (scheduler_.num_steps_in_flight() < config_.scheduler.max_steps_in_flight) {
    StepPlan plan = scheduler_.plan(monotonic_us());
    if (!plan.has_work()) return;
    launched_steps_.push_back(plan.step_id);
    executor_.launch(std::move(plan));
  }
}

void Engine::collect_step() {
  const uint64_t step_id = launched_steps_.front();
  launched_steps_.pop_front();
  std::vector<SequenceUpdate> updates;
  try {
    updates = scheduler_.apply(executor_.collect());
  } catch (const std::exception& failure) {
    spdlog::error("step {} failed: {}", step_id, failure.what());
    updates = scheduler_.fail_step(step_id);
  }
  for (auto& update : updates) deliver(std::move(update));
}

void Engine::deliver(SequenceUpdate update) {
  drafts_.add(update.num_drafts, update.num_accepted_drafts);
  const auto it = choices_.find(update.sequence_id);
  if (it == choices_.end()) return;
  Choice& choice = it->second;
  const auto cause = update.stop_cause;
  const bool stop_token = cause == StopCause::kEndOfSequence || cause == StopCause::kStopToken;
  auto delta = choice.output.push(update.tokens, stop_token, cause.has_value());

  GenerationEvent event;
  event.choice_idx = choice.choice_idx;
  event.text = std::move(delta.text);
  event.num_cached_tokens = update.num_cached_tokens;
  event.num_drafts = update.num_drafts;
  event.num_accepted_drafts = update.num_accepted_drafts;
  event.queued_us = update.queued_us;
  event.elapsed_us = monotonic_us() - choice.request->arrival_us;
  update.tokens.resize(delta.num_tokens);
  event.token_ids = std::move(update.tokens);
  for (size_t i = 0; i < std::min(update.logprobs.size(), event.token_ids.size()); ++i) {
    event.logprobs.push_back(
        {event.token_ids[i], update.logprobs[i].logprob, std::move(update.logprobs[i].top)});
  }
  if (delta.matched_stop) {
    if (!cause) scheduler_.finish(update.sequence_id);
    event.matched_stop = std::move(*delta.matched_stop);
    event.finish_reason = FinishReason::kStop;
  } else if (cause) {
    event.finish_reason = finish_reason(*cause);
    if (cause == StopCause::kStepFailed) {
      event.error = make_error(ErrorCode::kInternal, "the step that computed this request failed");
    }
  }
  if (event.finish_reason) {
    finish_choice(update.sequence_id, std::move(event));
  } else {
    choice.request->on_event(std::move(event));
  }
}

void Engine::finish_choice(uint64_t sequence_id, GenerationEvent event) {
  auto node = choices_.extract(sequence_id);
  CHECK(!node.empty(), sequence_id);
  Choice& choice = node.mapped();
  const auto request = choice.request;
  event.choice_idx = choice.choice_idx;
  event.elapsed_us = monotonic_us() - request->arrival_us;
  std::erase(sequences_[request->id], sequence_id);
  request->on_event(std::move(event));
  if (--request->num_unfinished > 0) return;
  sequences_.erase(request->id);
  {
    std::lock_guard lock(mutex_);
    live_ids_.erase(request->id);
    // A cancellation that came too late must not meet the id's next request.
    std::erase(cancellations_, request->id);
  }
  idle_.notify_all();
}

void Engine::publish_stats() {
  const SchedulerStats from = scheduler_.stats();
  ServiceStats to;
  to.num_running = from.num_running;
  to.num_waiting = from.num_waiting;
  to.num_pages = from.kv.num_pages;
  to.num_free_pages = from.kv.num_free_pages + from.kv.num_idle_pages;
  to.num_cached_pages = from.kv.num_idle_pages;
  to.num_preemptions = from.num_preemptions;
  to.prefix_query_tokens = from.kv.query_tokens;
  to.prefix_hit_tokens = from.kv.hit_tokens;
  to.host_tier = {from.source.num_blocks, from.source.num_used_blocks, from.source.num_saved,
                  from.source.num_loaded};
  const ExecutorStats steps = executor_.stats();
  to.num_steps = steps.num_steps;
  to.num_graph_steps = steps.num_graph_steps;
  to.issue_us_total = steps.issue_us_total;
  to.wait_us_total = steps.wait_us_total;
  to.drafts = drafts_;
  to.simulated_acceptance = config_.model.simulated_acceptance;
  const ExecutorMemory& memory = executor_.memory();
  to.memory = {memory.weights_bytes, memory.state_bytes, memory.workspace_bytes,
               memory.scratch_bytes, memory.graph_bytes, memory.kv_pool_bytes()};
  std::lock_guard lock(mutex_);
  stats_ = to;
}

}  // namespace deepflight
