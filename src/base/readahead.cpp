// madvise in small steps: the kernel reads no more of one request than a device takes at a time.
#include "base/readahead.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace deepflight {
namespace {

constexpr int64_t kStepBytes = 128 << 10;

}  // namespace

Readahead::Readahead(std::vector<std::span<const std::byte>> spans, int64_t window_bytes)
    : spans_(std::move(spans)), window_bytes_(window_bytes), allowed_bytes_(window_bytes) {
  thread_ = std::thread([this] { run(); });
}

Readahead::~Readahead() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Readahead::advance(int64_t num_bytes) {
  {
    std::lock_guard lock(mutex_);
    allowed_bytes_ += num_bytes;
  }
  changed_.notify_all();
}

int64_t Readahead::requested_bytes() {
  std::lock_guard lock(mutex_);
  return requested_bytes_;
}

bool Readahead::take(int64_t num_bytes) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || requested_bytes_ + num_bytes <= allowed_bytes_; });
  requested_bytes_ += num_bytes;
  return !stopping_;
}

void Readahead::run() {
  const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGE_SIZE));
  // A window smaller than a step would let nothing through.
  const int64_t step_bytes = std::max<int64_t>(1, std::min(kStepBytes, window_bytes_));
  for (const auto& span : spans_) {
    const auto size_bytes = static_cast<int64_t>(span.size());
    for (int64_t done = 0; done < size_bytes; done += step_bytes) {
      const int64_t count = std::min(step_bytes, size_bytes - done);
      if (!take(count)) return;
      const auto begin = reinterpret_cast<uintptr_t>(span.data()) + static_cast<uintptr_t>(done);
      const uintptr_t first_page = begin / page_bytes * page_bytes;
      // A hint: where it is refused, page faults read as they always do.
      ::madvise(reinterpret_cast<void*>(first_page),
                begin - first_page + static_cast<uintptr_t>(count), MADV_WILLNEED);
    }
  }
}

}  // namespace deepflight
