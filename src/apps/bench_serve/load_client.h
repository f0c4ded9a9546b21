// Sends the requests of a load and measures each answer. Asynchronous: as many at once as asked
// for, on a few threads.
#pragma once

#include <cstdint>
#include <functional>

#include "apps/bench_serve/load_requests.h"
#include "apps/bench_serve/request_record.h"
#include "net/http_stream_client.h"

namespace deepflight {

class LoadClient {
 public:
  using DoneFn = std::function<void(RequestRecord record)>;

  LoadClient(HttpUrl url, const HttpClientConfig& config, int num_threads)
      : http_(std::move(url), config, num_threads) {}

  // `due_us`, `origin_us` (what the record counts from): monotonic_us(). `on_done` runs on one of
  // the client's threads and must not block.
  void send(const LoadRequest& request, int64_t due_us, int64_t origin_us, DoneFn on_done);

  // Ends what is in flight; its records come as interrupted.
  void cancel_all() { http_.cancel_all(); }

 private:
  HttpStreamClient http_;
};

}  // namespace deepflight
