// Reading requests, sending answers and ending a client connection.
#include "net/http_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/field.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <exception>
#include <iterator>
#include <optional>
#include <utility>

#include "base/log.h"

namespace deepflight {
namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kMaxPipelinedBytes = 64 << 10;  // read ahead while an answer is being produced
constexpr size_t kSendBytes = 256 << 10;         // one write; the write timeout applies to each
constexpr size_t kMaxLingerBytes = size_t{256} << 20;
constexpr std::chrono::seconds kLingerTime{5};

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

using Parser = http::request_parser<http::string_body>;

HttpRequest to_request(Parser& parser) {
  auto& message = parser.get();
  HttpRequest request;
  request.method = message.method_string();
  request.target = message.target();
  for (const auto& field : message) {
    request.headers.emplace_back(field.name_string(), field.value());
  }
  request.body = std::move(message.body());
  return request;
}

size_t num_headers(const Parser& parser) {
  return static_cast<size_t>(std::distance(parser.get().begin(), parser.get().end()));
}

// Whether the body is framed in a way that every reader understands alike: as what another proxy
// takes for a body would else be the next request here.
bool has_known_framing(const Parser& parser) {
  const auto [begin, end] = parser.get().equal_range(http::field::transfer_encoding);
  if (begin == end) return true;
  return std::next(begin) == end && equals_ignoring_case(begin->value(), "chunked") &&
         parser.get().version() >= 11;
}

// Which status a failed read deserves; 0: close without a word.
int status_of(const boost::system::error_code& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return 0;
  if (error.category() == make_error_code(http::error::bad_method).category()) return 400;
  return 0;
}

std::string head_bytes(const HttpResponse& head, bool streamed, bool chunked, bool keep_alive) {
  std::string bytes = fmt::format("HTTP/1.1 {} {}\r\n", head.status, status_text(head.status));
  for (const auto& [name, value] : head.headers) {
    bytes.append(name).append(": ").append(value).append("\r\n");
  }
  if (!streamed) {
    bytes += fmt::format("Content-Length: {}\r\n", head.body.size());
  } else if (chunked) {
    bytes += "Transfer-Encoding: chunked\r\n";
  }
  bytes += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return bytes;
}

}  // namespace

// A request, or why there is none.
struct HttpConnection::ReadOutcome {
  std::optional<HttpRequest> request;
  std::optional<BodyBudget::Share> body_share;
  bool keep_alive = false;
  bool chunked = true;  // an HTTP/1.0 client gets streams delimited by the connection's end
  int error_status = 0;
  std::string error;
};

HttpConnection::HttpConnection(Socket socket, Shared shared)
    : socket_(std::move(socket)),
      shared_(shared),
      buffer_(shared.config.max_header_bytes + kMaxPipelinedBytes + kReadBytes),
      signal_(socket_.get_executor()),
      deadline_timer_(socket_.get_executor()) {}

asio::awaitable<void> HttpConnection::run(bool refuse_it) {
  const auto self = shared_from_this();
  boost::system::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (shared_.config.send_buffer_bytes > 0) {
    socket_.set_option(asio::socket_base::send_buffer_size(shared_.config.send_buffer_bytes),
                       ignored);
  }
  asio::co_spawn(
      socket_.get_executor(), [self] { return self->enforce_deadline(); }, asio::detached);
  if (refuse_it) {
    co_await refuse(503, "too many connections");
  } else {
    co_await serve_requests();
  }
  close();
}

asio::awaitable<void> HttpConnection::serve_requests() {
  while (!closed_) {
    ReadOutcome outcome = co_await read_request();
    if (!outcome.request) {
      if (outcome.error_status != 0 && !closed_) {
        co_await refuse(outcome.error_status, std::move(outcome.error));
      }
      co_return;
    }
    const bool go_on =
        co_await respond(std::move(*outcome.request), outcome.keep_alive, outcome.chunked);
    if (!go_on) co_return;
  }
}

// Waits between requests. False if the connection ended or stayed idle too long.
asio::awaitable<bool> HttpConnection::await_first_byte() {
  if (buffer_.size() > 0) co_return true;
  if (shared_.draining) co_return false;
  idle_ = true;
  set_deadline(Clock::now() + shared_.config.idle_timeout);
  const auto [error, num_bytes] =
      co_await socket_.async_read_some(buffer_.prepare(kReadBytes), kAwait);
  idle_ = false;
  if (error) co_return false;
  buffer_.commit(num_bytes);
  co_return true;
}

asio::awaitable<HttpConnection::ReadOutcome> HttpConnection::read_request() {
  ReadOutcome outcome;
  const bool has_bytes = co_await await_first_byte();
  if (!has_bytes) co_return outcome;
  set_deadline(Clock::now() + shared_.config.read_timeout);
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(shared_.config.max_header_bytes));
  parser.body_limit(shared_.config.max_body_bytes);
  auto [error, num_header_bytes] =
      co_await http::async_read_header(socket_, buffer_, parser, kAwait);
  if (!error && num_headers(parser) > shared_.config.max_headers) {
    error = http::error::header_limit;
  }
  if (!error && !has_known_framing(parser)) {
    outcome.error_status = 501;
    outcome.error = "no Transfer-Encoding but chunked is supported";
    co_return outcome;
  }
  if (!error && !parser.is_done()) {
    const uint64_t body_bytes = parser.content_length().value_or(shared_.config.max_body_bytes);
    outcome.body_share = shared_.body_budget.take(body_bytes);
    if (!outcome.body_share) {
      outcome.error_status = 503;
      outcome.error = "too many big requests at once";
      co_return outcome;
    }
    if (equals_ignoring_case(parser.get()[http::field::expect], "100-continue")) {
      const bool sent = co_await send_all("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) co_return outcome;
      set_deadline(Clock::now() + shared_.config.read_timeout);
    }
    const auto [body_error, num_body_bytes] =
        co_await http::async_read(socket_, buffer_, parser, kAwait);
    error = body_error;
  }
  const bool timed_out = timed_out_;
  clear_deadline();
  if (error) {
    outcome.error_status = timed_out ? 408 : status_of(error);
    outcome.error =
        timed_out ? "the request was not complete in time"
        : outcome.error_status == 413
            ? fmt::format("the body is over {} bytes", shared_.config.max_body_bytes)
        : outcome.error_status == 431
            ? fmt::format("the request line and headers are over {} bytes or {} headers",
                          shared_.config.max_header_bytes, shared_.config.max_headers)
            : "malformed HTTP request: " + error.message();
    co_return outcome;
  }
  outcome.keep_alive = parser.get().keep_alive();
  outcome.chunked = parser.get().version() >= 11;
  outcome.request = to_request(parser);
  co_return outcome;
}

void HttpConnection::call_handler(HttpRequest request, const ResponseWriter& writer) {
  try {
    shared_.handler(std::move(request), writer);
  } catch (const std::exception& failure) {
    spdlog::error("http: a handler failed: {}", failure.what());
    if (!writer.started()) {
      writer.send(HttpResponse{500, {}, {}});
    } else {
      writer.abort();
    }
  }
}

// Runs the handler and sends what it produces. True if the connection can take another request.
asio::awaitable<bool> HttpConnection::respond(HttpRequest request, bool keep_alive, bool chunked) {
  const auto self = shared_from_this();
  const bool is_head = request.method == "HEAD";
  response_ = std::make_shared<ResponseState>(shared_.config.max_buffered_bytes, [self] {
    asio::post(self->socket_.get_executor(), [self] { self->on_wake(); });
  });
  call_handler(std::move(request), ResponseWriter(response_));
  bool ok = false;
  for (;;) {
    const ResponseState::Output output = response_->take();
    if (output.cut || closed_) break;
    if (output.empty()) {
      if (!watching_ && buffer_.size() < kMaxPipelinedBytes) {
        watching_ = true;
        asio::co_spawn(
            socket_.get_executor(), [self] { return self->watch_for_disconnect(); },
            asio::detached);
      }
      co_await wait_for_signal();
      continue;
    }
    if (output.head) keep_alive = keep_alive && !shared_.draining && (chunked || !output.streamed);
    const bool sent = co_await send_output(output, is_head, keep_alive, chunked);
    if (!sent) break;
    if (output.finished) {
      ok = true;
      break;
    }
  }
  if (!ok) response_->cut_off();
  response_->detach();
  response_.reset();
  if (!ok) reset();
  boost::system::error_code ignored;
  while (watching_) {
    if (!closed_) socket_.cancel(ignored);
    co_await wait_for_signal();
  }
  co_return ok&& keep_alive && !closed_;
}

asio::awaitable<bool> HttpConnection::send_output(const ResponseState::Output& output, bool is_head,
                                                  bool keep_alive, bool chunked) {
  std::string bytes;
  if (output.head) {
    const bool bare_error =
        output.head->status == 500 && !output.streamed && output.head->body.empty();
    const HttpResponse head = bare_error ? error_response(500, "internal error") : *output.head;
    bytes = head_bytes(head, output.streamed, chunked, keep_alive);
    if (!is_head) bytes += head.body;
  }
  if (output.streamed && !is_head) {
    if (!chunked) {
      bytes += output.body;
    } else {
      if (!output.body.empty())
        bytes += fmt::format("{:x}\r\n{}\r\n", output.body.size(), output.body);
      if (output.finished) bytes += "0\r\n\r\n";
    }
  }
  return send_all(std::move(bytes));
}

asio::awaitable<bool> HttpConnection::send_all(std::string bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    set_deadline(Clock::now() + shared_.config.write_timeout);
    const size_t size = std::min(kSendBytes, bytes.size() - sent);
    const auto [error, num_bytes] =
        co_await asio::async_write(socket_, asio::buffer(bytes.data() + sent, size), kAwait);
    if (error) co_return false;
    sent += num_bytes;
  }
  clear_deadline();
  co_return true;
}

HttpResponse HttpConnection::error_response(int status, const std::string& message) const {
  HttpResponse response{status, {{"Content-Type", "application/json"}}, {}};
  if (shared_.config.error_body) response.body = shared_.config.error_body(status, message);
  return response;
}

asio::awaitable<void> HttpConnection::refuse(int status, std::string message) {
  const HttpResponse response = error_response(status, message);
  const bool sent = co_await send_all(head_bytes(response, false, false, false) + response.body);
  if (sent) co_await linger();
}

// Closes our side and reads on for a while: closing with unread bytes would reset the connection,
// and the client might lose the answer.
asio::awaitable<void> HttpConnection::linger() {
  boost::system::error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  const Clock::time_point deadline = Clock::now() + kLingerTime;
  set_deadline(deadline);
  std::array<char, kReadBytes> discarded;
  for (size_t total = 0; total < kMaxLingerBytes && Clock::now() < deadline;) {
    const auto [error, num_bytes] =
        co_await socket_.async_read_some(asio::buffer(discarded), kAwait);
    if (error) break;
    total += num_bytes;
  }
}

// Reads while an answer is being produced: an end of file is a client that went away, bytes are
// its next request.
asio::awaitable<void> HttpConnection::watch_for_disconnect() {
  const auto self = shared_from_this();
  while (buffer_.size() < kMaxPipelinedBytes && response_) {
    const auto [error, num_bytes] =
        co_await socket_.async_read_some(buffer_.prepare(kReadBytes), kAwait);
    if (!error) {
      buffer_.commit(num_bytes);
      continue;
    }
    if (error != asio::error::operation_aborted && response_) response_->cut_off();
    break;
  }
  watching_ = false;
  signal_.cancel();
}

// A producer changed the response. If it gave the client up, a send in progress may be stuck.
void HttpConnection::on_wake() {
  if (response_ && response_->disconnected()) reset();
  signal_.cancel();
}

asio::awaitable<void> HttpConnection::wait_for_signal() {
  signal_.expires_at(Clock::time_point::max());
  const auto [error] = co_await signal_.async_wait(kAwait);
  static_cast<void>(error);
}

asio::awaitable<void> HttpConnection::enforce_deadline() {
  const auto self = shared_from_this();
  while (!closed_) {
    if (Clock::now() >= deadline_) {
      timed_out_ = true;
      // Again in a second, in case an operation was just between two of its steps.
      deadline_ = Clock::now() + std::chrono::seconds(1);
      boost::system::error_code ignored;
      socket_.cancel(ignored);
    }
    deadline_timer_.expires_at(deadline_);
    const auto [error] = co_await deadline_timer_.async_wait(kAwait);
    static_cast<void>(error);
  }
}

void HttpConnection::set_deadline(Clock::time_point deadline) {
  const bool sooner = deadline < deadline_timer_.expiry();
  deadline_ = deadline;
  timed_out_ = false;
  if (sooner) deadline_timer_.cancel();  // enforce_deadline() then waits for the new one
}

void HttpConnection::begin_drain() {
  if (idle_) close();
}

void HttpConnection::shut_down() {
  close();
  if (response_) response_->cut_off();
  signal_.cancel();
}

// Closes without sending what the system still buffers.
void HttpConnection::reset() {
  boost::system::error_code ignored;
  if (!closed_) socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

void HttpConnection::close() {
  if (closed_) return;
  closed_ = true;
  deadline_timer_.cancel();
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace deepflight
