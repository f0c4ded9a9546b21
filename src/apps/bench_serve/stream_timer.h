// The times of one streamed answer: takes its events as they come and makes the record. Pure; the
// caller says what time it is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "apps/bench_serve/load_requests.h"
#include "apps/bench_serve/request_record.h"
#include "base/result.h"
#include "net/http_message.h"

namespace deepflight {

class StreamTimer {
 public:
  // `record` brings what was asked for and when it was sent.
  StreamTimer(LoadEndpoint endpoint, RequestRecord record)
      : endpoint_(endpoint), record_(std::move(record)) {}

  // Takes an event's data. False: the answer is spoilt, no more is needed.
  bool on_event(std::string_view data, int64_t now_us);

  // The end of the exchange. The record says what failed, if anything did.
  RequestRecord finish(const Result<HttpResponse>& response, int64_t now_us);

 private:
  void note_drafts(const nlohmann::json& usage);
  bool carries_tokens(const nlohmann::json& choice) const;
  void note_tokens(int64_t now_us);
  bool fail(std::string kind, std::string_view detail);

  LoadEndpoint endpoint_;
  RequestRecord record_;
  bool has_tokens_ = false;
  bool has_usage_ = false;
  bool is_done_ = false;  // saw [DONE]
};

}  // namespace deepflight
