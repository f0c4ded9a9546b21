// Readahead: has the operating system read mapped files before they are looked at, in a known order
// and a bounded distance ahead, with many requests in flight. A page fault alone reads little and
// waits for it. Used by the weight loader (model/deepseek/model_weights.cpp).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace deepflight {

class Readahead {
 public:
  // Starts a thread that goes through `spans` of mapped files, which must stay mapped. It stays at
  // most window_bytes ahead of what advance() has told.
  Readahead(std::vector<std::span<const std::byte>> spans, int64_t window_bytes);
  // Stops at once.
  ~Readahead();
  Readahead(const Readahead&) = delete;
  Readahead& operator=(const Readahead&) = delete;

  // The reader has come num_bytes further through the spans, or is about to.
  void advance(int64_t num_bytes);
  // Bytes that have been asked of the system so far.
  int64_t requested_bytes();

 private:
  void run();
  // Waits until num_bytes more may be asked for; false: stop.
  bool take(int64_t num_bytes);

  const std::vector<std::span<const std::byte>> spans_;
  const int64_t window_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t allowed_bytes_;
  int64_t requested_bytes_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace deepflight
