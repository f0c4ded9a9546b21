// The life of a generation: submit, events in, chunks or one response out.
#include "server/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "net/sse.h"

namespace deepflight {

InFlight::Ticket::Ticket(InFlight& in_flight) : in_flight_(in_flight) {
  const std::lock_guard lock(in_flight_.mutex_);
  ++in_flight_.num_tickets_;
}

InFlight::Ticket::~Ticket() {
  const std::lock_guard lock(in_flight_.mutex_);
  if (--in_flight_.num_tickets_ == 0) in_flight_.empty_.notify_all();
}

void InFlight::add(const std::shared_ptr<Generation>& generation) {
  const std::lock_guard lock(mutex_);
  generations_[generation.get()] = generation;
}

void InFlight::remove(Generation* generation) {
  const std::lock_guard lock(mutex_);
  generations_.erase(generation);
}

int InFlight::count() const {
  const std::lock_guard lock(mutex_);
  return num_tickets_;
}

bool InFlight::wait_until_empty(std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  empty_.wait_for(lock, deadline, [this] { return num_tickets_ == 0 || given_up_; });
  return num_tickets_ == 0 && !given_up_;
}

void InFlight::give_up() {
  const std::lock_guard lock(mutex_);
  given_up_ = true;
  empty_.notify_all();
}

// For use without the lock: the last owner of one may go there.
std::vector<std::shared_ptr<Generation>> InFlight::living() {
  std::vector<std::shared_ptr<Generation>> generations;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, weak] : generations_) {
    if (auto generation = weak.lock()) generations.push_back(std::move(generation));
  }
  return generations;
}

void InFlight::cancel_all() {
  for (const auto& generation : living()) generation->cancel();
}

void InFlight::time_out_started_before(int64_t monotonic_us) {
  for (const auto& generation : living()) {
    if (generation->start_us() < monotonic_us) generation->time_out();
  }
}

std::string random_request_id(Endpoint endpoint) {
  thread_local std::mt19937_64 random([] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }());
  return fmt::format("{}-{:016x}{:016x}", endpoint == Endpoint::kChat ? "chatcmpl" : "cmpl",
                     random(), random());
}

HttpResponse error_response(const ApiError& error, const std::string& x_request_id) {
  HttpResponse response{error.status, {{"Content-Type", "application/json"}}, to_json(error)};
  if (!x_request_id.empty()) response.headers.emplace_back("X-Request-Id", x_request_id);
  return response;
}

Generation::Generation(std::shared_ptr<GenerationContext> context, ApiRequest request,
                       ResponseInfo info, std::vector<PreparedPrompt> prompts,
                       ResponseWriter writer, std::shared_ptr<InFlight::Ticket> ticket)
    : context_(std::move(context)),
      request_(std::move(request)),
      info_(std::move(info)),
      writer_(std::move(writer)),
      ticket_(std::move(ticket)),
      start_us_(monotonic_us()),
      num_cached_tokens_(prompts.size()) {
  for (PreparedPrompt& prompt : prompts) {
    num_prompt_tokens_ += static_cast<int64_t>(prompt.token_ids.size());
    for (int i = 0; i < request_.sampling.num_choices; ++i) {
      outputs_.emplace_back(static_cast<int>(outputs_.size()), request_, prompt,
                            context_->tokenizer);
    }
    PromptInfo shown{std::move(prompt.text), {}};
    if (request_.output.return_token_ids) shown.token_ids = prompt.token_ids;
    prompts_.push_back(std::move(shown));
    prompt_token_ids_.push_back(std::move(prompt.token_ids));
    constraints_.push_back(std::move(prompt.constraint));
  }
  choices_.resize(outputs_.size());
  measured_.resize(outputs_.size());
  cursors_.resize(outputs_.size());
  num_unfinished_ = outputs_.size();
}

Generation::~Generation() { context_->in_flight.remove(this); }

std::string Generation::engine_request_id(size_t prompt_idx) const {
  return prompts_.size() == 1 ? info_.id : fmt::format("{}-{}", info_.id, prompt_idx);
}

void Generation::start() {
  context_->in_flight.add(shared_from_this());
  writer_.on_disconnect([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->cancel();
  });
  for (size_t i = 0; i < prompts_.size(); ++i) {
    if (cancelled_) {
      Item gone{i, {}};
      gone.event.error = make_error(ErrorCode::kUnavailable, "the server is shutting down");
      return enqueue(std::move(gone));
    }
    GenerationRequest engine_request{.request_id = engine_request_id(i),
                                     .prompt_token_ids = std::move(prompt_token_ids_[i]),
                                     .sampling = request_.sampling,
                                     .cache_salt = request_.cache_salt,
                                     .constraint = std::move(constraints_[i])};
    const auto num_tokens = static_cast<int64_t>(engine_request.prompt_token_ids.size());
    const Status status = context_->service.submit(
        std::move(engine_request), [self = shared_from_this(), i](GenerationEvent event) {
          self->enqueue({i, std::move(event)});
        });
    if (!status.ok()) {
      Item refused{i, {}};
      refused.event.error = status.error();
      return enqueue(std::move(refused));
    }
    context_->metrics.take_prompt(num_tokens);
    // A cancel() that came before the engine knew the request did nothing.
    if (cancelled_) context_->service.cancel(engine_request_id(i));
  }
}

void Generation::cancel() {
  cancelled_ = true;
  for (size_t i = 0; i < prompts_.size(); ++i) context_->service.cancel(engine_request_id(i));
}

void Generation::time_out() {
  if (timed_out_.exchange(true)) return;
  cancel();
}

void Generation::enqueue(Item item) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(item));
  if (scheduled_) return;
  scheduled_ = context_->events.post([self = shared_from_this()] { self->work(); });
}

void Generation::work() {
  std::vector<Item> items;
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      items.clear();
      items.swap(queue_);
      if (items.empty()) {
        scheduled_ = false;
        return;
      }
    }
    try {
      for (Item& item : items) take(std::move(item));
      flush();
    } catch (const std::exception& failure) {
      fail(make_error(ErrorCode::kInternal, "answering {}: {}", info_.id, failure.what()));
    }
  }
}

void Generation::take(Item item) {
  if (ended_) return;
  GenerationEvent& event = item.event;
  const auto num_choices = static_cast<size_t>(request_.sampling.num_choices);
  const auto choice_idx = static_cast<size_t>(event.choice_idx);
  CHECK(choice_idx < num_choices, choice_idx, num_choices);
  const size_t choice = item.prompt_idx * num_choices + choice_idx;
  context_->metrics.take(event, &measured_[choice]);
  if (event.error || event.finish_reason == FinishReason::kError) {
    return fail(event.error.value_or(make_error(ErrorCode::kInternal, "no reason was given")));
  }
  if (timed_out_ && event.finish_reason == FinishReason::kAbort) {
    return fail(
        make_error(ErrorCode::kTimedOut, "the request took longer than this server allows"));
  }
  CHECK(!outputs_[choice].finished(), choice);
  num_drafts_ += event.num_drafts;
  num_accepted_drafts_ += event.num_accepted_drafts;
  int64_t& num_cached = num_cached_tokens_[item.prompt_idx];
  num_cached = std::max<int64_t>(num_cached, event.num_cached_tokens);
  ChoiceDelta delta = outputs_[choice].take(std::move(event));
  if (delta.finish_reason) --num_unfinished_;
  if (request_.output.stream) {
    stream(delta, choice);
  } else {
    choices_[choice].append(std::move(delta));
  }
  if (num_unfinished_ == 0) finish();
}

void Generation::stream(const ChoiceDelta& delta, size_t choice) {
  if (writer_.disconnected()) return;
  const size_t prompt = choice / static_cast<size_t>(request_.sampling.num_choices);
  const Usage so_far = request_.output.continuous_usage_stats ? usage() : Usage{};
  pending_ +=
      sse_event(chunk_json(info_, prompts_[prompt], delta, context_->tokenizer, cursors_[choice],
                           request_.output.continuous_usage_stats ? &so_far : nullptr));
}

// The headers go with the first chunk, so that an error before it still has its status.
void Generation::flush() {
  if (pending_.empty()) return;
  if (!writer_.started()) {
    writer_.start_stream(200, {{"Content-Type", "text/event-stream; charset=utf-8"},
                               {"Cache-Control", "no-cache"},
                               {"X-Accel-Buffering", "no"},
                               {"X-Request-Id", info_.x_request_id}});
  }
  writer_.write(pending_);
  pending_.clear();
}

void Generation::finish() {
  if (request_.output.stream) {
    if (request_.output.include_usage) pending_ += sse_event(usage_chunk_json(info_, usage()));
    pending_ += sse_event("[DONE]");
    flush();
    writer_.finish();
  } else if (!writer_.disconnected()) {
    std::vector<const PromptInfo*> shown;
    for (size_t i = 0; i < choices_.size(); ++i) {
      shown.push_back(&prompts_[i / static_cast<size_t>(request_.sampling.num_choices)]);
    }
    writer_.send({200,
                  {{"Content-Type", "application/json"}, {"X-Request-Id", info_.x_request_id}},
                  response_json(info_, shown, choices_, context_->tokenizer, usage())});
  }
  end(200);
}

void Generation::fail(const Error& error) {
  if (ended_) return;
  const ApiError shown = api_error(error);
  if (!pending_.empty() || writer_.started()) {
    pending_ += sse_event(to_json(shown)) + sse_event("[DONE]");
    flush();
    writer_.finish();
  } else {
    writer_.send(error_response(shown, info_.x_request_id));
  }
  end(shown.status);
  cancel();  // the other choices and prompts
}

void Generation::end(int status) {
  if (context_->access_log) log(writer_.disconnected() ? 499 : status);
  ended_ = true;
  choices_.clear();
  ticket_.reset();
}

// What the request cost, and nothing of what it said.
void Generation::log(int status) const {
  int64_t first_token_us = 0;
  for (const ServerMetrics::Choice& choice : measured_) {
    if (choice.num_tokens == 0) continue;
    first_token_us = first_token_us == 0 ? choice.first_token_us
                                         : std::min(first_token_us, choice.first_token_us);
  }
  const Usage total = usage();
  spdlog::info(
      "request id={} path={} status={} stream={} prompts={} choices={} prompt_tokens={} "
      "cached_tokens={} output_tokens={} accepted_drafts={} first_token_ms={:.1f} total_ms={:.1f}",
      info_.x_request_id,
      info_.endpoint == Endpoint::kChat ? "/v1/chat/completions" : "/v1/completions", status,
      request_.output.stream, prompts_.size(), outputs_.size(), total.num_prompt_tokens,
      total.num_cached_tokens, total.num_completion_tokens, total.num_accepted_drafts,
      static_cast<double>(first_token_us) * 1e-3,
      static_cast<double>(monotonic_us() - start_us_) * 1e-3);
}

Usage Generation::usage() const {
  Usage usage{.num_prompt_tokens = num_prompt_tokens_};
  const ModelInfo& model = context_->service.model_info();
  usage.has_drafts = model.draft_len > 0;
  usage.num_drafts = num_drafts_;
  usage.num_accepted_drafts = num_accepted_drafts_;
  usage.simulated_acceptance = model.simulated_acceptance;
  for (const int64_t num_cached : num_cached_tokens_) usage.num_cached_tokens += num_cached;
  for (const ChoiceOutput& output : outputs_) {
    usage.num_completion_tokens += output.num_tokens();
    usage.num_reasoning_tokens += output.num_reasoning_tokens();
  }
  return usage;
}

}  // namespace deepflight
