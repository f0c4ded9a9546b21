// An asynchronous client for many event streams at once: a few threads, each with its own
// kept-alive connections. `deepflight bench serve` loads servers with it. http:// only.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/http_client.h"

namespace deepflight {

class HttpStreamClient {
 public:
  // Both run on one of the client's threads, one call at a time for a request, and do not block.
  struct Handlers {
    // Each event's data as it arrives; false ends the exchange, closing the connection.
    std::function<bool(std::string_view data)> on_event;
    // Once, at the end, as HttpClient::post_stream returns it; kCancelled after cancel_all().
    std::function<void(Result<HttpResponse> response)> on_done;
  };

  HttpStreamClient(HttpUrl url, const HttpClientConfig& config, int num_threads);
  ~HttpStreamClient();  // ends what runs; on_done is called for it
  HttpStreamClient(const HttpStreamClient&) = delete;
  HttpStreamClient& operator=(const HttpStreamClient&) = delete;

  // Starts a POST on a connection that is free, or on a new one. Any thread may call it.
  void post_stream(std::string_view path, std::string_view body, Handlers handlers);

  // Ends all exchanges that run. Any thread may call it.
  void cancel_all();

 private:
  class Loop;
  std::vector<std::unique_ptr<Loop>> loops_;
  std::atomic<size_t> next_loop_{0};
};

}  // namespace deepflight
