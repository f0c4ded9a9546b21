// For tests of the HTTP server: one with a handler of the test's own, and requests as bytes.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "net/http_server.h"
#include "net/test_socket.h"

namespace deepflight {

inline HttpServerConfig test_config() {
  HttpServerConfig config;
  config.error_body = [](int status, std::string_view message) {
    return fmt::format("{{\"status\":{},\"message\":\"{}\"}}", status, message);
  };
  return config;
}

// A server whose handler can be given per test; the default one echoes method, target and body.
class HttpServerTest : public ::testing::Test {
 protected:
  void start(HttpServerConfig config = test_config()) {
    server = std::make_unique<HttpServer>(std::move(config),
                                          [this](HttpRequest request, ResponseWriter writer) {
                                            ++num_requests;
                                            handler(std::move(request), std::move(writer));
                                          });
    const Status status = server->start();
    ASSERT_TRUE(status.ok()) << status.error().message;
    ASSERT_NE(server->port(), 0);
  }

  void keep(ResponseWriter writer) {
    const std::lock_guard lock(mutex);
    writers.push_back(std::move(writer));
  }
  // Counts in num_disconnects if the client of this answer goes.
  void count_disconnect(const ResponseWriter& writer) {
    writer.on_disconnect([this] { ++num_disconnects; });
  }
  void keep_watched(ResponseWriter writer) {
    count_disconnect(writer);
    keep(std::move(writer));
  }
  bool has_writer() {
    const std::lock_guard lock(mutex);
    return !writers.empty();
  }
  ResponseWriter take_writer() {
    const std::lock_guard lock(mutex);
    ResponseWriter writer = std::move(writers.front());
    writers.erase(writers.begin());
    return writer;
  }

  HttpHandler handler = [](HttpRequest request, ResponseWriter writer) {
    writer.send({200, {}, request.method + " " + request.target + " [" + request.body + "]"});
  };
  std::atomic<int> num_requests{0};
  std::atomic<int> num_disconnects{0};
  std::mutex mutex;
  std::vector<ResponseWriter> writers;
  std::unique_ptr<HttpServer> server;
};

inline std::string get(std::string_view target, std::string_view headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n", target, headers);
}

inline std::string post(std::string_view target, std::string_view body,
                        std::string_view headers = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", target,
                     body.size(), headers, body);
}

}  // namespace deepflight
