// A loop a thread. Everything of a loop but its queue of posted work lives on its thread.
#include "net/http_stream_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>

#include "net/client_connection.h"

namespace deepflight {
namespace asio = boost::asio;

class HttpStreamClient::Loop {
 public:
  Loop(HttpUrl url, HttpClientConfig config)
      : target_{std::move(url), std::move(config), {}},
        work_(asio::make_work_guard(context_)),
        thread_([this] { context_.run(); }) {}

  ~Loop() {
    cancel_all();
    work_.reset();
    thread_.join();
  }

  void post_stream(std::string_view path, std::string_view body, Handlers handlers) {
    auto exchange = std::make_unique<Exchange>();
    exchange->bytes = request_bytes(target_, "POST", path, body);
    exchange->handlers = std::move(handlers);
    asio::post(context_,
               [this, exchange = std::move(exchange)]() mutable { start(std::move(exchange)); });
  }

  void cancel_all() {
    asio::post(context_, [this] {
      for (ClientConnection* connection : active_) connection->cancel();
    });
  }

 private:
  struct Exchange {
    std::string bytes;
    Handlers handlers;
    std::unique_ptr<ClientConnection> connection;
    std::optional<Result<HttpResponse>> result;
  };

  void start(std::unique_ptr<Exchange> owned) {
    if (free_.empty()) {
      owned->connection = std::make_unique<ClientConnection>(context_, target_);
    } else {
      owned->connection = std::move(free_.back());
      free_.pop_back();
    }
    active_.insert(owned->connection.get());
    Exchange* const exchange = owned.get();
    const auto run = [exchange]() -> asio::awaitable<void> {
      exchange->result =
          co_await exchange->connection->exchange(exchange->bytes, &exchange->handlers.on_event);
    };
    asio::co_spawn(context_, run,
                   [this, owned = std::move(owned)](const std::exception_ptr& thrown) {
                     finish(*owned, thrown);
                   });
  }

  void finish(Exchange& exchange, const std::exception_ptr& thrown) {
    active_.erase(exchange.connection.get());
    if (thrown) std::rethrow_exception(thrown);
    const bool cancelled =
        !exchange.result->ok() && exchange.result->error().code == ErrorCode::kCancelled;
    if (exchange.connection->is_open() && !cancelled) {
      free_.push_back(std::move(exchange.connection));
    }
    exchange.handlers.on_done(std::move(*exchange.result));
  }

  asio::io_context context_{1};
  ClientTarget target_;
  std::vector<std::unique_ptr<ClientConnection>> free_;  // the last one used at the back
  std::unordered_set<ClientConnection*> active_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

HttpStreamClient::HttpStreamClient(HttpUrl url, const HttpClientConfig& config, int num_threads) {
  CHECK(num_threads > 0, num_threads);
  for (int i = 0; i < num_threads; ++i) loops_.push_back(std::make_unique<Loop>(url, config));
}

HttpStreamClient::~HttpStreamClient() = default;

void HttpStreamClient::post_stream(std::string_view path, std::string_view body,
                                   Handlers handlers) {
  loops_[next_loop_.fetch_add(1) % loops_.size()]->post_stream(path, body, std::move(handlers));
}

void HttpStreamClient::cancel_all() {
  for (const auto& loop : loops_) loop->cancel_all();
}

}  // namespace deepflight
