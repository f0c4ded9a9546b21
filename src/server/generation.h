// One HTTP request's generation: submits its prompts to the engine, turns the engine's events into
// a response or a stream, and cancels what is left when the client goes away. Events are queued on
// the engine's thread and worked on by a TaskQueue, so the engine never formats JSON.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "net/http_server.h"
#include "runtime/engine/inference_service.h"
#include "server/api_request.h"
#include "server/choice_output.h"
#include "server/metrics.h"
#include "server/prompt_builder.h"
#include "server/response_json.h"
#include "server/task_queue.h"
#include "text/tokenizer.h"

namespace deepflight {

class Generation;

// The requests that are being answered: counted for a drain, cancelled at its end.
class InFlight {
 public:
  // Held by a request from the moment it is accepted until its answer is complete.
  class Ticket {
   public:
    explicit Ticket(InFlight& in_flight);
    ~Ticket();
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

   private:
    InFlight& in_flight_;
  };

  // A generation can be cancelled from add() on.
  void add(const std::shared_ptr<Generation>& generation);
  void remove(Generation* generation);
  void cancel_all();
  void time_out_started_before(int64_t monotonic_us);

  int count() const;

  // True if no ticket is left before the deadline and before give_up().
  bool wait_until_empty(std::chrono::milliseconds deadline);
  void give_up();

 private:
  std::vector<std::shared_ptr<Generation>> living();

  mutable std::mutex mutex_;
  std::condition_variable empty_;
  int num_tickets_ = 0;
  bool given_up_ = false;
  std::unordered_map<Generation*, std::weak_ptr<Generation>> generations_;
};

// What every request of a server shares. Generations own it together with the server, for the
// engine may hold one longer than the server lives; the server stops `events` before it goes.
struct GenerationContext {
  InferenceService& service;
  const Tokenizer& tokenizer;
  TaskQueue events;  // where events are worked on
  bool access_log = false;
  InFlight in_flight;
  ServerMetrics metrics;
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(std::shared_ptr<GenerationContext> context, ApiRequest request, ResponseInfo info,
             std::vector<PreparedPrompt> prompts, ResponseWriter writer,
             std::shared_ptr<InFlight::Ticket> ticket);
  ~Generation();

  // Submits everything. The answer, an error included, goes to the writer.
  void start();

  // The engine ends what is unfinished; its last events still come. Any thread.
  void cancel();
  // The same, and the answer is that it took too long.
  void time_out();
  int64_t start_us() const { return start_us_; }  // monotonic

 private:
  struct Item {
    size_t prompt_idx = 0;
    GenerationEvent event;
  };

  std::string engine_request_id(size_t prompt_idx) const;
  void enqueue(Item item);
  void work();
  void take(Item item);
  void stream(const ChoiceDelta& delta, size_t choice);
  void flush();
  void finish();
  void fail(const Error& error);
  void end(int status);
  void log(int status) const;
  Usage usage() const;

  const std::shared_ptr<GenerationContext> context_;
  const ApiRequest request_;
  const ResponseInfo info_;
  const ResponseWriter writer_;
  std::shared_ptr<InFlight::Ticket> ticket_;
  std::vector<PromptInfo> prompts_;
  std::vector<std::vector<int32_t>> prompt_token_ids_;
  std::vector<OutputConstraint> constraints_;  // of each prompt
  int64_t num_prompt_tokens_ = 0;
  const int64_t start_us_;

  std::mutex mutex_;  // of the two below
  std::vector<Item> queue_;
  bool scheduled_ = false;  // a task will empty, or is emptying, the queue
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> timed_out_{false};

  // Touched only by the one task at work.
  std::vector<ChoiceOutput> outputs_;  // prompt-major
  std::vector<ServerMetrics::Choice> measured_;
  std::vector<ChoiceDelta> choices_;  // whole choices so far, if not streaming
  std::vector<LogprobCursor> cursors_;
  std::vector<int64_t> num_cached_tokens_;  // of each prompt
  int64_t num_drafts_ = 0;
  int64_t num_accepted_drafts_ = 0;
  size_t num_unfinished_ = 0;
  bool ended_ = false;
  std::string pending_;  // stream bytes not yet handed to the writer
};

// An error as a whole response.
HttpResponse error_response(const ApiError& error, const std::string& x_request_id);

// "chatcmpl-" or "cmpl-" and 32 random hexadecimal digits.
std::string random_request_id(Endpoint endpoint);

}  // namespace deepflight
