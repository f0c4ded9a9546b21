// The OpenAI-compatible API over one InferenceService: routes, limits, health, drain.
//
//   Server server(config, service, {tokenizer, tokenizer_config, &chat_template});
//   server.start();            // listens; server.port() is the bound one
//   ... SIGTERM ...
//   server.drain(30s);         // answers what was accepted, refuses the rest with 503
//   server.stop();             // then the service may go
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "net/http_server.h"
#include "runtime/engine/inference_service.h"
#include "server/api_key.h"
#include "server/api_request.h"
#include "server/generation.h"
#include "server/prompt_builder.h"
#include "server/response_format.h"
#include "server/task_queue.h"

namespace deepflight {

struct ServerConfig {
  HttpServerConfig http;          // host, port, threads, limits of the transport
  std::string served_model_name;  // empty: the service's
  std::string version;            // of the program, for /version
  ApiKey api_key;                 // asked for on every route but health, metrics and the page
  bool web_page = true;           // at `/`
  RequestLimits limits;           // vocab_size and max_model_len are taken from the service
  int num_prepare_threads = 1;    // parse and tokenize bodies over inline_body_bytes
  int num_event_threads = 1;      // turn the engine's events into JSON
  size_t inline_body_bytes = size_t{16} << 10;
  size_t max_queued_bodies = 256;  // further big ones get 429
  int max_requests = 0;            // accepted and not yet answered; further ones get 429. 0: any
  std::chrono::milliseconds request_timeout{0};  // then a request is cancelled: 504. 0: none
  bool access_log = false;                       // a line for each request, without its text
};

class Server {
 public:
  // Everything given outlives the server.
  Server(ServerConfig config, InferenceService& service, TextModel text_model);
  ~Server();  // stops
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Error: the address cannot be bound.
  Status start();
  uint16_t port() const { return http_.port(); }
  int num_in_flight() const { return context_->in_flight.count(); }

  // From here on /health and new requests get 503. Waits for what was accepted; what is left at the
  // deadline is cancelled and ends with finish_reason "abort". Returns whether nothing was. Blocks;
  // call it from a thread of your own, not from a signal handler.
  bool drain(std::chrono::milliseconds deadline);

  // Cuts what is left, cancels it and joins the threads. Idempotent; another thread's drain()
  // returns.
  void stop();

 private:
  struct Call;

  void handle(HttpRequest request, ResponseWriter writer);
  bool handle_open_route(const Call& call) const;
  void handle_model(const Call& call, std::string_view name);
  void handle_generation(Endpoint endpoint, Call call);
  // Answers a POST of JSON with what `answer` makes of the body, on another thread if it is large.
  using Answer = ApiResult<std::string> (*)(std::string_view body, const TextModel& model,
                                            const RequestLimits& limits);
  void handle_text(Answer answer, Call call);
  void generate(Endpoint endpoint, const Call& call, std::shared_ptr<InFlight::Ticket> ticket);
  void time_out_requests();
  ApiResult<std::vector<PreparedPrompt>> prepare(ApiRequest& request) const;

  const ServerConfig config_;
  const TextModel text_model_;
  const int64_t created_s_;
  const std::unique_ptr<OutputFormCompiler>
      form_compiler_;  // null: the tokenizer has not what it takes
  const std::shared_ptr<GenerationContext> context_;
  TaskQueue prepare_queue_;
  std::atomic<bool> draining_{false};
  std::jthread timer_;  // where requests have a timeout
  HttpServer http_;     // last: its threads use everything above
};

}  // namespace deepflight
