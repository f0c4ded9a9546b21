// Connecting, sending and reading, each with its time limit.
#include "net/client_connection.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <utility>

#include "net/sse.h"

namespace deepflight {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

namespace {

constexpr uint32_t kMaxHeaderBytes = 64 << 10;
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

}  // namespace

std::string request_bytes(const ClientTarget& target, std::string_view method,
                          std::string_view path, std::string_view body) {
  const HttpUrl& url = target.url;
  std::string bytes = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}:{}\r\n", method, url.base_path,
                                  path, url.host, url.port);
  for (const auto& [name, value] : target.config.headers) {
    bytes += fmt::format("{}: {}\r\n", name, value);
  }
  if (method == "POST") {
    bytes += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  }
  bytes += "\r\n";
  bytes += body;
  return bytes;
}

Error ClientConnection::failure(const char* what, const ErrorCodeOfBoost& error) const {
  const HttpUrl& url = target_.url;
  if (cancelled_) {
    return make_error(ErrorCode::kCancelled, "{}:{}: cancelled", url.host, url.port);
  }
  if (error == http::error::body_limit) {
    return make_error(ErrorCode::kTooLarge, "{}:{}: the response is over {} bytes", url.host,
                      url.port, target_.config.max_response_bytes);
  }
  return make_error(ErrorCode::kUnavailable, "{}:{}: cannot {}: {}", url.host, url.port, what,
                    error == beast::error::timeout ? "timed out" : error.message());
}

void ClientConnection::cancel() {
  cancelled_ = true;
  if (stream_) stream_->cancel();
}

asio::awaitable<Status> ClientConnection::connect() {
  ErrorCodeOfBoost error;
  if (target_.endpoints.empty()) {
    asio::ip::tcp::resolver resolver(context_);
    const auto found = resolver.resolve(target_.url.host, target_.url.port, error);
    if (error) co_return failure("resolve", error);
    for (const auto& entry : found) target_.endpoints.push_back(entry.endpoint());
  }
  // A copy: another connection may forget them while this one tries them.
  const auto endpoints = target_.endpoints;
  stream_.emplace(context_);
  buffer_.clear();
  stream_->expires_after(target_.config.connect_timeout);
  const auto [failed, endpoint] = co_await stream_->async_connect(endpoints, kAwait);
  if (failed) {
    close();
    target_.endpoints.clear();
    co_return failure("connect", failed);
  }
  stream_->socket().set_option(asio::ip::tcp::no_delay(true), error);
  co_return ok_status();
}

// `stale`: the connection, kept from an earlier exchange, had been closed by the server.
asio::awaitable<Status> ClientConnection::send(const std::string& bytes, bool* stale) {
  stream_->expires_after(target_.config.idle_timeout);
  const auto [error, num_bytes] = co_await asio::async_write(*stream_, asio::buffer(bytes), kAwait);
  *stale = error == asio::error::broken_pipe || error == asio::error::connection_reset;
  if (error) co_return failure("send", error);
  co_return ok_status();
}

asio::awaitable<boost::system::error_code> ClientConnection::read_some(Parser& parser) {
  if (cancelled_) co_return asio::error::operation_aborted;
  stream_->expires_after(target_.config.idle_timeout);
  const auto [error, num_bytes] = co_await http::async_read_some(*stream_, buffer_, parser, kAwait);
  co_return error;
}

asio::awaitable<Result<HttpResponse>> ClientConnection::receive(const EventFn* on_event,
                                                                bool* stale) {
  Parser parser;
  parser.header_limit(kMaxHeaderBytes);
  parser.body_limit(target_.config.max_response_bytes);
  stream_->expires_after(target_.config.idle_timeout);
  const auto [error, num_bytes] =
      co_await http::async_read_header(*stream_, buffer_, parser, kAwait);
  *stale = error == http::error::end_of_stream || error == asio::error::connection_reset;
  if (error) co_return failure("read the response", error);
  HttpResponse response;
  response.status = parser.get().result_int();
  for (const auto& field : parser.get()) {
    response.headers.emplace_back(field.name_string(), field.value());
  }
  const bool is_stream = response.header("content-type").starts_with("text/event-stream");
  if (on_event != nullptr && is_stream) {
    parser.body_limit(boost::none);
    if (Status read = co_await read_events(parser, *on_event); !read.ok()) co_return read.error();
  } else {
    while (!parser.is_done()) {
      if (const auto failed = co_await read_some(parser)) {
        co_return failure("read the response", failed);
      }
    }
    response.body = std::move(parser.get().body());
  }
  if (!parser.is_done() || !parser.get().keep_alive()) close();
  co_return response;
}

// Returns at the end of the stream, or (with the parser not done) when on_event has had enough.
asio::awaitable<Status> ClientConnection::read_events(Parser& parser, const EventFn& on_event) {
  SseReader reader(target_.config.max_response_bytes);
  std::string& body = parser.get().body();
  for (;;) {
    const auto go_on = reader.feed(body, on_event);
    if (!go_on.ok()) co_return go_on.error();
    if (!*go_on) close();
    if (!*go_on || parser.is_done()) co_return ok_status();
    body.clear();
    if (const auto error = co_await read_some(parser)) co_return failure("read the stream", error);
  }
}

asio::awaitable<Result<HttpResponse>> ClientConnection::exchange(const std::string& bytes,
                                                                 const EventFn* on_event) {
  for (bool may_retry = stream_.has_value();; may_retry = false) {
    if (!stream_) {
      if (Status connected = co_await connect(); !connected.ok()) co_return connected.error();
    }
    bool stale = false;
    Status sent = co_await send(bytes, &stale);
    if (cancelled_) sent = failure("send", {});
    if (sent.ok()) {
      auto response = co_await receive(on_event, &stale);
      if (response.ok()) co_return response;
      sent = response.error();
    }
    close();
    if (!stale || !may_retry || cancelled_) co_return sent.error();
  }
}

}  // namespace deepflight
