// Start, wait for a signal, drain.
#include "apps/serve.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <future>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "server/server.h"
#include "text/chat_template.h"

namespace deepflight {
namespace {

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits up to `timeout` for a stop signal; true if one came.
bool wait_for_signal(const sigset_t& signals, std::chrono::milliseconds timeout) {
  const timespec limit = {timeout.count() / 1000, timeout.count() % 1000 * 1'000'000};
  return sigtimedwait(&signals, nullptr, &limit) > 0;
}

void drain(Server& server, Engine& engine, const ServeOptions& options, const sigset_t& signals) {
  spdlog::info("draining: {} requests in flight, at most {} s", server.num_in_flight(),
               options.drain_timeout_s);
  auto drained = std::async(std::launch::async, [&] {
    return server.drain(std::chrono::seconds(options.drain_timeout_s));
  });
  while (drained.wait_for(std::chrono::milliseconds(0)) != std::future_status::ready) {
    if (wait_for_signal(signals, std::chrono::milliseconds(20))) {
      spdlog::warn("second signal: ending at once");
      server.stop();
    }
  }
  if (!drained.get()) spdlog::warn("drain timed out: what was left was cancelled");
  // Only now: what the server had accepted may still have been on its way to the engine.
  engine.begin_drain();
}

}  // namespace

void add_serve_options(CLI::App* app, ServeOptions* options) {
  add_engine_options(app, &options->engine);
  app->add_option("--host", options->host, "address to listen on");
  app->add_option("--port", options->port, "0: the system picks one")->check(CLI::Range(0, 65535));
  app->add_option("--served-model-name", options->served_model_name,
                  "name in the API; empty: the directory's");
  app->add_option("--api-key", options->api_key,
                  "key that clients must send (Authorization: Bearer KEY) on every route but "
                  "/health, /metrics and the web page; better in the environment, where other "
                  "users cannot see it")
      ->envname("DEEPFLIGHT_API_KEY");
  app->add_flag("--no-web-page", options->no_web_page, "serve no page at /");
  app->add_option("--http-threads", options->http_threads)->check(CLI::Range(1, 64));
  app->add_option("--max-requests", options->max_requests,
                  "generation requests accepted and not yet answered; further ones get 429. 0: any")
      ->check(CLI::Range(0, 1 << 20));
  app->add_option("--max-connections", options->max_connections,
                  "open client connections; further ones get 503")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--max-body-mib", options->max_body_mib, "of one request; a larger one gets 413")
      ->check(CLI::Range(1, 1024));
  app->add_flag("--ignore-unknown-fields", options->ignore_unknown_fields,
                "let requests have fields that nobody knows; else they get 400");
  app->add_option("--request-timeout-s", options->request_timeout_s,
                  "time after which a request is cancelled and answered with 504. 0: none")
      ->check(CLI::Range(0, 86400));
  app->add_flag("--no-access-log", options->no_access_log,
                "no line in the log for each request (the lines hold no text of it)");
  app->add_option("--drain-timeout-s", options->drain_timeout_s,
                  "time that requests in flight get after SIGTERM")
      ->check(CLI::Range(0, 86400));
}

Status run_serve(const ServeOptions& options) {
  // Blocked before any thread starts, so that only the wait below sees them.
  const sigset_t signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const int64_t start_us = monotonic_us();
  ServerConfig config;
  if (!options.api_key.empty()) {
    auto key = ApiKey::parse(options.api_key);
    if (!key.ok()) return invalid_argument("--api-key: {}", key.error().message);
    config.api_key = std::move(key).value();
  }
  ASSIGN_OR_RETURN(const auto local, LocalEngine::start(options.engine));
  if (local->tokenizer() == nullptr) {
    return make_error(ErrorCode::kNotFound, "{}/tokenizer.json: not there; a server needs it",
                      options.engine.model_dir);
  }
  std::optional<ChatTemplate> chat_template;
  if (const std::string* source = local->tokenizer_config().chat_template(false)) {
    ASSIGN_OR_RETURN(chat_template, ChatTemplate::parse(*source));
  }
  config.http.host = options.host;
  config.http.port = static_cast<uint16_t>(options.port);
  config.http.num_threads = options.http_threads;
  config.http.max_connections = options.max_connections;
  config.http.max_body_bytes = static_cast<size_t>(options.max_body_mib) << 20;
  config.limits.ignore_unknown_fields = options.ignore_unknown_fields;
  config.served_model_name = options.served_model_name;
  config.version = options.version;
  config.max_requests = options.max_requests;
  config.request_timeout = std::chrono::seconds(options.request_timeout_s);
  config.access_log = !options.no_access_log;
  config.web_page = !options.no_web_page;
  Server server(
      config, local->engine(),
      {*local->tokenizer(), local->tokenizer_config(), chat_template ? &*chat_template : nullptr});
  RETURN_IF_ERROR(server.start());
  spdlog::info("ready after {:.2f} s", static_cast<double>(monotonic_us() - start_us) * 1e-6);
  fmt::print("listening on http://{}:{}\n", options.host, server.port());
  std::fflush(stdout);

  while (!wait_for_signal(signals, std::chrono::hours(1))) {
  }
  drain(server, local->engine(), options, signals);
  server.stop();
  return ok_status();
}

}  // namespace deepflight
