// An HTTP/1.1 server: keep-alive and pipelining, bounded headers, bodies and connections, time
// limits, streamed (chunked) answers with back-pressure, disconnect detection and graceful drain.
// A handler gets a whole request on an I/O thread, must return quickly, and answers through a
// ResponseWriter from any thread, then or later. No I/O library shows through this header.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http_message.h"

namespace deepflight {

class ResponseState;

// The answer to one request. Copyable, thread-safe; copies share one answer. Either send(), or
// start_stream(), write()... and finish(). If the last copy goes without an answer, the client gets
// a 500 (or a cut stream), so no request hangs on a lost writer.
class ResponseWriter {
 public:
  explicit ResponseWriter(std::shared_ptr<ResponseState> state);

  // A whole response. Ignored once an answer has begun.
  void send(HttpResponse response) const;

  // Begins a chunked response. False if an answer has begun or the client is gone.
  bool start_stream(int status, HttpHeaders headers) const;

  // Adds to a started stream without blocking. False if the client is gone; also if it reads so
  // slowly that max_buffered_bytes are waiting: then it is disconnected.
  bool write(std::string_view chunk) const;

  void finish() const;

  // Breaks the connection; the client sees a cut response.
  void abort() const;

  // Calls `callback` once if the client goes away (or is cut off for slowness, or by stop()) before
  // the answer is finished; at once if that has happened. Runs on the thread that noticed: an I/O
  // thread, or the one that calls write().
  void on_disconnect(std::function<void()> callback) const;

  bool disconnected() const;
  bool started() const;

 private:
  struct Owner;
  std::shared_ptr<Owner> owner_;
};

struct HttpServerConfig {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: the system picks one; see HttpServer::port()
  int num_threads = 1;
  int max_connections = 4096;  // further ones get 503
  size_t max_header_bytes = size_t{16} << 10;
  size_t max_headers = 128;
  size_t max_body_bytes = size_t{32} << 20;
  size_t max_total_body_bytes = size_t{1} << 30;  // of all requests in flight; beyond it, 503
  size_t max_buffered_bytes = size_t{1} << 20;    // of one response, unread by its client
  int send_buffer_bytes = 0;                      // the socket's own buffer; 0: the system's choice
  std::chrono::milliseconds idle_timeout{75'000};   // between requests
  std::chrono::milliseconds read_timeout{60'000};   // from a request's first byte to its last
  std::chrono::milliseconds write_timeout{60'000};  // without progress
  // Body (JSON) of the errors that the server itself answers: malformed or oversized requests,
  // too many connections, a handler that threw.
  std::function<std::string(int status, std::string_view message)> error_body;
};

using HttpHandler = std::function<void(HttpRequest, ResponseWriter)>;

class HttpServer {
 public:
  HttpServer(HttpServerConfig config, HttpHandler handler);
  ~HttpServer();  // stops
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds, listens and starts the threads. Error: kIo naming the address.
  Status start();

  // The bound port, once started.
  uint16_t port() const;

  int num_connections() const;

  // Stops accepting, closes idle connections, lets answers in flight finish (their connections
  // close after them). True if all ended within the deadline. Call stop() afterwards.
  bool drain(std::chrono::milliseconds deadline);

  // Cuts every connection, runs their on_disconnect callbacks and joins the threads. Idempotent;
  // another thread's drain() returns.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deepflight
