// Routes and the server's life.
#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "base/log.h"
#include "server/response_json.h"
#include "server/tokenize.h"
#include "server/web_page.h"

namespace deepflight {
namespace {

constexpr std::string_view kModelsPath = "/v1/models";
constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxShownBytes = 128;                 // of a path or a name, in an error
constexpr std::chrono::milliseconds kAbortTime{2000};  // for the last chunks of cancelled requests
constexpr std::chrono::milliseconds kFlushTime{1000};  // for sockets to take what is written

ServerConfig completed(ServerConfig config, const InferenceService& service) {
  const ModelInfo& model = service.model_info();
  if (config.served_model_name.empty()) config.served_model_name = model.name;
  config.limits.vocab_size = model.vocab_size;
  config.limits.max_model_len = model.max_model_len;
  return config;
}

HttpServerConfig http_config(HttpServerConfig config) {
  config.error_body = [](int status, std::string_view message) {
    return to_json(http_error(status, message));
  };
  return config;
}

// The client's request id if it can stand in a header and a log as it is.
std::string accepted_request_id(std::string_view id) {
  const bool printable = std::ranges::all_of(id, [](char c) { return c > ' ' && c < 0x7f; });
  return printable && id.size() <= kMaxRequestIdBytes ? std::string(id) : std::string();
}

std::string shown(std::string_view text) {
  return std::string(text.substr(0, kMaxShownBytes)) + (text.size() > kMaxShownBytes ? "..." : "");
}

ApiError model_not_found(std::string_view name) {
  return {.status = 404,
          .message = fmt::format("the model \"{}\" does not exist", shown(name)),
          .param = "model",
          .code = "model_not_found"};
}

bool is_json_type(std::string_view content_type) {
  content_type = content_type.substr(0, content_type.find(';'));
  while (content_type.ends_with(' ')) content_type.remove_suffix(1);
  return content_type.empty() || equals_ignoring_case(content_type, "application/json");
}

std::unique_ptr<OutputFormCompiler> form_compiler_or_null(const Tokenizer& tokenizer,
                                                          const ModelInfo& model) {
  auto made = make_form_compiler(tokenizer, model);
  if (made.ok()) return std::move(made).value();
  spdlog::warn("no response_format with this model: {}", made.error().message);
  return nullptr;
}

}  // namespace

// An HTTP request on its way through a route.
struct Server::Call {
  HttpRequest request;
  ResponseWriter writer;
  std::string x_request_id;
  bool access_log = false;

  void log(int status) const {
    if (!access_log) return;
    spdlog::info("request id={} method={} path={} status={}",
                 x_request_id.empty() ? "-" : x_request_id, request.method, shown(request.path()),
                 status);
  }
  void send(int status, std::string body, const char* content_type = "application/json") const {
    send({status, {{"Content-Type", content_type}}, std::move(body)});
  }
  void send(HttpResponse response) const {
    if (!x_request_id.empty()) response.headers.emplace_back("X-Request-Id", x_request_id);
    log(response.status);
    writer.send(std::move(response));
  }
  void fail(const ApiError& error) const { fail(error, {}); }
  // `header`: one more, if it has a name.
  void fail(const ApiError& error, std::pair<std::string, std::string> header) const {
    HttpResponse response = error_response(error, x_request_id);
    if (!header.first.empty()) response.headers.push_back(std::move(header));
    log(error.status);
    writer.send(std::move(response));
  }
  void refuse_load(std::string_view message) const {
    ApiError error = http_error(429, message);
    error.code = "rate_limit_exceeded";
    fail(error, {"Retry-After", "1"});
  }

  // The same answer for no key and a wrong one.
  void refuse_key() const {
    ApiError error = http_error(401, "this server asks for a key: Authorization: Bearer KEY");
    error.code = "invalid_api_key";
    fail(error, {"WWW-Authenticate", "Bearer"});
  }

  // Answers 415 unless the body says that it is JSON, or nothing.
  bool check_json() const {
    if (is_json_type(request.header("content-type"))) return true;
    fail(http_error(415, "the Content-Type must be application/json"));
    return false;
  }

  // Answers 405 unless the method is one of the two.
  bool check_method(std::string_view method, std::string_view other = {}) const {
    if (request.method == method || (!other.empty() && request.method == other)) return true;
    fail(http_error(405, fmt::format("{} takes {} only", shown(request.path()), method)),
         {"Allow", std::string(method)});
    return false;
  }
};

Server::Server(ServerConfig config, InferenceService& service, TextModel text_model)
    : config_(completed(std::move(config), service)),
      text_model_(text_model),
      created_s_(unix_time_s()),
      form_compiler_(form_compiler_or_null(text_model.tokenizer, service.model_info())),
      context_(new GenerationContext{
          .service = service,
          .tokenizer = text_model.tokenizer,
          .events{config_.num_event_threads, std::numeric_limits<size_t>::max()},
          .access_log = config_.access_log,
          .in_flight = {},
          .metrics = ServerMetrics(config_.served_model_name)}),
      prepare_queue_(config_.num_prepare_threads, config_.max_queued_bodies),
      http_(http_config(config_.http), [this](HttpRequest request, ResponseWriter writer) {
        handle(std::move(request), std::move(writer));
      }) {}

Server::~Server() { stop(); }

Status Server::start() {
  RETURN_IF_ERROR(http_.start());
  if (config_.request_timeout.count() > 0) {
    timer_ = std::jthread([this](const std::stop_token& stop) {
      const auto period = std::clamp<std::chrono::milliseconds>(
          config_.request_timeout / 20, std::chrono::milliseconds(1), std::chrono::seconds(1));
      std::mutex mutex;
      std::condition_variable_any stopped;
      std::unique_lock lock(mutex);
      while (!stopped.wait_for(lock, stop, period, [&] { return stop.stop_requested(); })) {
        time_out_requests();
      }
    });
  }
  return ok_status();
}

void Server::time_out_requests() {
  const auto limit_us = std::chrono::microseconds(config_.request_timeout).count();
  context_->in_flight.time_out_started_before(monotonic_us() - limit_us);
}

bool Server::drain(std::chrono::milliseconds deadline) {
  draining_ = true;
  InFlight& in_flight = context_->in_flight;
  const bool all_ended = in_flight.wait_until_empty(deadline);
  if (!all_ended) {
    in_flight.cancel_all();
    in_flight.wait_until_empty(kAbortTime);
  }
  http_.drain(kFlushTime);
  return all_ended;
}

void Server::stop() {
  draining_ = true;
  timer_ = {};  // ends and joins
  context_->in_flight.give_up();
  prepare_queue_.stop();
  http_.stop();  // cuts connections, which cancels what they wait for
  context_->in_flight.cancel_all();
  context_->events.stop();
}

void Server::handle(HttpRequest request, ResponseWriter writer) {
  Call call{std::move(request), std::move(writer), {}, config_.access_log};
  call.x_request_id = accepted_request_id(call.request.header("x-request-id"));
  const std::string_view path = call.request.path();
  // Probes come every second.
  if (path == "/health" || path == "/metrics") call.access_log = false;
  if (handle_open_route(call)) return;
  if (!config_.api_key.accepts(call.request.header("authorization"))) return call.refuse_key();
  if (path == "/v1/chat/completions") {
    return handle_generation(Endpoint::kChat, std::move(call));
  }
  if (path == "/v1/completions") {
    return handle_generation(Endpoint::kCompletions, std::move(call));
  }
  if (path == "/tokenize") return handle_text(tokenize_json, std::move(call));
  if (path == "/detokenize") return handle_text(detokenize_json, std::move(call));
  if (path == "/version") {
    if (!call.check_method("GET", "HEAD")) return;
    return call.send(200, version_json(config_.version));
  }
  if (path == kModelsPath) {
    if (!call.check_method("GET", "HEAD")) return;
    return call.send(
        200, model_list_json(config_.served_model_name, created_s_, config_.limits.max_model_len));
  }
  if (path.starts_with(kModelsPath) && path[kModelsPath.size()] == '/') {
    return handle_model(call, path.substr(kModelsPath.size() + 1));
  }
  call.fail(http_error(404, fmt::format("no such route: {}", shown(path))));
}

// Health, metrics and the web page's files, which need no key. False: the path is another's.
bool Server::handle_open_route(const Call& call) const {
  const std::string_view path = call.request.path();
  if (config_.web_page) {
    if (auto response = web_page_response(path)) {
      if (call.check_method("GET", "HEAD")) call.send(std::move(*response));
      return true;
    }
  }
  if (path != "/health" && path != "/metrics") return false;
  if (!call.check_method("GET", "HEAD")) return true;
  if (path == "/metrics") {
    call.send(200, context_->metrics.text(context_->service.stats(), num_in_flight()),
              kMetricsContentType);
  } else if (draining_) {
    call.fail(http_error(503, "the server is shutting down"));
  } else {
    call.send(200, R"({"status":"ok"})");
  }
  return true;
}

void Server::handle_model(const Call& call, std::string_view name) {
  if (!call.check_method("GET", "HEAD")) return;
  const auto decoded = percent_decode(name);
  if (!decoded.ok()) return call.fail(http_error(400, decoded.error().message));
  if (*decoded != config_.served_model_name) return call.fail(model_not_found(*decoded));
  call.send(200, model_json(config_.served_model_name, created_s_, config_.limits.max_model_len));
}

void Server::handle_text(Answer answer, Call call) {
  if (!call.check_method("POST") || !call.check_json()) return;
  const auto run = [this, answer](const Call& asked) {
    try {
      auto made = answer(asked.request.body, text_model_, config_.limits);
      if (const auto* error = std::get_if<ApiError>(&made)) return asked.fail(*error);
      asked.send(200, std::get<std::string>(std::move(made)));
    } catch (const std::exception& failure) {
      asked.fail(api_error(make_error(ErrorCode::kInternal, "{}", failure.what())));
    }
  };
  if (call.request.body.size() <= config_.inline_body_bytes) return run(call);
  const auto shared_call = std::make_shared<Call>(std::move(call));
  if (!prepare_queue_.post([run, shared_call] { run(*shared_call); })) {
    shared_call->refuse_load("too many requests are waiting");
  }
}

void Server::handle_generation(Endpoint endpoint, Call call) {
  if (!call.check_method("POST") || !call.check_json()) return;
  // The ticket before the look at draining_, so that a drain sees every request that passed it.
  auto ticket = std::make_shared<InFlight::Ticket>(context_->in_flight);
  if (draining_) return call.fail(http_error(503, "the server is shutting down"));
  if (config_.max_requests > 0 && num_in_flight() > config_.max_requests) {
    return call.refuse_load(
        fmt::format("this server answers {} requests at a time", config_.max_requests));
  }
  if (call.request.body.size() <= config_.inline_body_bytes) {
    return generate(endpoint, call, std::move(ticket));
  }
  const auto shared_call = std::make_shared<Call>(std::move(call));
  const bool queued = prepare_queue_.post(
      [this, endpoint, shared_call, ticket] { generate(endpoint, *shared_call, ticket); });
  if (!queued) shared_call->refuse_load("too many requests are waiting");
}

void Server::generate(Endpoint endpoint, const Call& call,
                      std::shared_ptr<InFlight::Ticket> ticket) {
  try {
    if (call.writer.disconnected()) return;
    auto parsed = parse_api_request(endpoint, call.request.body, config_.limits);
    if (const auto* error = std::get_if<ApiError>(&parsed)) return call.fail(*error);
    auto& request = std::get<ApiRequest>(parsed);
    auto prepared = prepare(request);
    if (const auto* error = std::get_if<ApiError>(&prepared)) return call.fail(*error);
    ResponseInfo info{.endpoint = endpoint,
                      .output = request.output,
                      .id = random_request_id(endpoint),
                      .x_request_id = call.x_request_id,
                      .model = config_.served_model_name,
                      .created = unix_time_s()};
    if (info.x_request_id.empty()) info.x_request_id = info.id;
    const auto generation = std::make_shared<Generation>(
        context_, std::move(request), std::move(info),
        std::get<std::vector<PreparedPrompt>>(std::move(prepared)), call.writer, std::move(ticket));
    generation->start();
  } catch (const std::exception& failure) {
    call.fail(api_error(make_error(ErrorCode::kInternal, "{}", failure.what())));
  }
}

ApiResult<std::vector<PreparedPrompt>> Server::prepare(ApiRequest& request) const {
  if (!request.model.empty() && request.model != config_.served_model_name) {
    return model_not_found(request.model);
  }
  auto prepared = prepare_prompts(request, text_model_, config_.limits.max_model_len);
  if (auto* prompts = std::get_if<std::vector<PreparedPrompt>>(&prepared)) {
    for (PreparedPrompt& prompt : *prompts) {
      auto constraint = constrain_output(request, prompt, text_model_, form_compiler_.get());
      if (auto* error = std::get_if<ApiError>(&constraint)) return std::move(*error);
      prompt.constraint = std::get<OutputConstraint>(std::move(constraint));
    }
  }
  return prepared;
}

}  // namespace deepflight
