// What came of one request of a load: times, token counts, or why it failed. Plain data between the
// client that measures and the statistics that count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deepflight {

struct RequestRecord {
  // Microseconds since the load began.
  int64_t planned_us = 0;  // when it was due: its arrival, or when its slot became free
  int64_t sent_us = 0;
  int64_t first_us = 0;  // its first chunk with tokens
  int64_t last_us = 0;   // its last one
  int64_t done_us = 0;   // the end of the exchange, however it went

  std::vector<int32_t> gaps_us;     // between one chunk with tokens and the next
  int64_t asked_prompt_tokens = 0;  // 0: not known
  int64_t asked_output_tokens = 0;  // 0: the model may stop by itself
  int64_t num_prompt_tokens = 0;    // as the server's usage says
  int64_t num_output_tokens = 0;
  int64_t num_accepted_drafts = 0;  // the same, of a server that makes drafts
  int64_t num_rejected_drafts = 0;
  double simulated_acceptance = -1.0;  // not negative: the server accepts drafts by chance

  bool interrupted = false;    // ended by us; counts neither as done nor as failed
  std::string failure;         // its kind ("HTTP 503"); empty: none
  std::string failure_detail;  // what the server or the system said, one line

  bool ok() const { return failure.empty() && !interrupted; }
  int64_t num_chunks() const { return static_cast<int64_t>(gaps_us.size()) + 1; }
  double ttft_ms() const { return static_cast<double>(first_us - sent_us) * 1e-3; }
  double e2e_ms() const { return static_cast<double>(last_us - sent_us) * 1e-3; }
  double lag_ms() const { return static_cast<double>(sent_us - planned_us) * 1e-3; }
  bool has_tpot() const { return num_output_tokens > 1; }
  // Time per output token after the first. Needs has_tpot().
  double tpot_ms() const {
    return (e2e_ms() - ttft_ms()) / static_cast<double>(num_output_tokens - 1);
  }
};

}  // namespace deepflight
