// One connection of a client (internal to src/net): connects when it must, sends a request, reads
// the answer or its events, and stays open for the next one. All of it on one thread, that of the
// io_context.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/http_client.h"

namespace deepflight {

// Who is asked; shared by the connections of a thread.
struct ClientTarget {
  HttpUrl url;
  HttpClientConfig config;
  std::vector<boost::asio::ip::tcp::endpoint> endpoints;  // empty: not resolved yet
};

// The whole request as it goes out. A POST's body is JSON.
std::string request_bytes(const ClientTarget& target, std::string_view method,
                          std::string_view path, std::string_view body);

class ClientConnection {
 public:
  using EventFn = std::function<bool(std::string_view data)>;

  // `target` outlives the connection.
  ClientConnection(boost::asio::io_context& context, ClientTarget& target)
      : context_(context), target_(target) {}

  // One exchange at a time; errors and `on_event` (or null) as HttpClient says. `bytes` outlives
  // it. Repeats a request once if a kept connection turns out to be closed.
  boost::asio::awaitable<Result<HttpResponse>> exchange(const std::string& bytes,
                                                        const EventFn* on_event);

  bool is_open() const { return stream_.has_value(); }

  // Ends the exchange that runs with kCancelled.
  void cancel();

 private:
  using Parser = boost::beast::http::response_parser<boost::beast::http::string_body>;
  using ErrorCodeOfBoost = boost::system::error_code;

  boost::asio::awaitable<Status> connect();
  boost::asio::awaitable<Status> send(const std::string& bytes, bool* stale);
  boost::asio::awaitable<Result<HttpResponse>> receive(const EventFn* on_event, bool* stale);
  boost::asio::awaitable<Status> read_events(Parser& parser, const EventFn& on_event);
  boost::asio::awaitable<ErrorCodeOfBoost> read_some(Parser& parser);
  Error failure(const char* what, const ErrorCodeOfBoost& error) const;
  void close() { stream_.reset(); }

  boost::asio::io_context& context_;
  ClientTarget& target_;
  std::optional<boost::beast::tcp_stream> stream_;
  boost::beast::flat_buffer buffer_;
  bool cancelled_ = false;
};

}  // namespace deepflight
