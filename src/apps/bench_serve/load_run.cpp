// The calling thread makes and sends the requests; the client's threads report what came of them.
// In a closed loop a request is due when a slot becomes free, in an open one when it arrives.
#include "apps/bench_serve/load_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/progress.h"

namespace deepflight {
namespace {

constexpr int64_t kPollUs = 50'000;   // how late an interrupt may be seen
constexpr size_t kMaxPrepared = 256;  // requests made before they are due

class Runner {
 public:
  Runner(LoadClient& client, const LoadRequests& requests, const LoadRun& run,
         const Interrupt& interrupt)
      : client_(client),
        requests_(requests),
        run_(run),
        interrupt_(interrupt),
        counts_requests_(run.plan.num_planned() > 0),
        progress_(run.title,
                  counts_requests_ ? run.plan.num_planned() : run.plan.duration_us / 1'000'000,
                  counts_requests_ ? "requests" : "s", run.show_progress) {}

  std::vector<RequestRecord> run();

 private:
  using Lock = std::unique_lock<std::mutex>;

  void send_all(Lock& lock);
  std::optional<int64_t> next_due_us(Lock& lock);
  bool await_time(Lock& lock, int64_t due_us);
  bool await_slot(Lock& lock);
  void prepare();
  void on_done(RequestRecord record);
  void wait(Lock& lock, int64_t until_us);
  bool ended() const { return ended_ || interrupt_.came(); }
  bool is_time_over(int64_t now_us) const {
    return run_.plan.duration_us > 0 && now_us - start_us_ >= run_.plan.duration_us;
  }

  LoadClient& client_;
  const LoadRequests& requests_;
  const LoadRun& run_;
  const Interrupt& interrupt_;
  const bool counts_requests_;
  ProgressBar progress_;
  int64_t start_us_ = 0;
  int64_t shown_s_ = 0;
  std::optional<PoissonArrivals> arrivals_;

  std::deque<LoadRequest> prepared_;
  int64_t num_prepared_ = 0;  // so far, sent ones among them
  int64_t num_sent_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<RequestRecord> records_;
  std::deque<int64_t> freed_us_;  // when slots of a closed loop became free
  int64_t num_in_flight_ = 0;
  int64_t num_failed_ = 0;
  bool ended_ = false;  // on_record has had enough
};

void Runner::prepare() { prepared_.push_back(requests_.request(run_.stream, num_prepared_++)); }

// Until something ends, `until_us` at most.
void Runner::wait(Lock& lock, int64_t until_us) {
  const int64_t now_us = monotonic_us();
  if (!counts_requests_) {
    const int64_t total_s = run_.plan.duration_us / 1'000'000;
    const int64_t now_s = std::min((now_us - start_us_) / 1'000'000, total_s);
    if (now_s > shown_s_) progress_.advance(now_s - shown_s_);
    shown_s_ = now_s;
  }
  const int64_t wait_us = std::min(until_us - now_us, kPollUs);
  if (wait_us > 0) changed_.wait_for(lock, std::chrono::microseconds(wait_us));
}

bool Runner::await_time(Lock& lock, int64_t due_us) {
  while (!ended() && monotonic_us() < due_us) wait(lock, due_us);
  return !ended();
}

// Uses the time to make the requests that come next. False: no more is to be sent.
bool Runner::await_slot(Lock& lock) {
  const int cap = run_.plan.max_concurrency;
  while (cap > 0 && num_in_flight_ >= cap) {
    if (ended() || is_time_over(monotonic_us())) return false;
    const bool more = run_.plan.num_requests == 0 || num_prepared_ < run_.plan.num_requests;
    if (more && prepared_.size() < std::min<size_t>(cap, kMaxPrepared)) {
      lock.unlock();
      prepare();
      lock.lock();
    } else {
      wait(lock, monotonic_us() + kPollUs);
    }
  }
  return !ended();
}

// When the next request is due, once it is; nothing: no more is to be sent.
std::optional<int64_t> Runner::next_due_us(Lock& lock) {
  int64_t due_us = start_us_;
  if (arrivals_) {
    due_us += arrivals_->next_us();
    if (is_time_over(due_us) || !await_time(lock, due_us)) return {};
  }
  if (!await_slot(lock)) return {};
  if (!arrivals_ && !freed_us_.empty()) {
    due_us = freed_us_.front();
    freed_us_.pop_front();
  }
  if (!arrivals_ && is_time_over(monotonic_us())) return {};
  return due_us;
}

void Runner::send_all(Lock& lock) {
  while (run_.plan.num_requests == 0 || num_sent_ < run_.plan.num_requests) {
    if (prepared_.empty()) {
      lock.unlock();
      prepare();
      lock.lock();
    }
    const std::optional<int64_t> due_us = next_due_us(lock);
    if (!due_us) return;
    const LoadRequest request = std::move(prepared_.front());
    prepared_.pop_front();
    ++num_sent_;
    ++num_in_flight_;
    lock.unlock();
    client_.send(request, *due_us, start_us_,
                 [this](RequestRecord record) { on_done(std::move(record)); });
    lock.lock();
  }
}

void Runner::on_done(RequestRecord record) {
  const std::lock_guard lock(mutex_);
  --num_in_flight_;
  num_failed_ += !record.failure.empty();
  if (run_.plan.rate <= 0) freed_us_.push_back(start_us_ + record.done_us);
  if (run_.on_record && !run_.on_record(record)) ended_ = true;
  records_.push_back(std::move(record));
  const std::string note = num_failed_ > 0
                               ? fmt::format("{} in flight, {} failed", num_in_flight_, num_failed_)
                               : fmt::format("{} in flight", num_in_flight_);
  progress_.advance(counts_requests_ ? 1 : 0, note);
  changed_.notify_all();
}

std::vector<RequestRecord> Runner::run() {
  // What is due at once is made before the clock starts.
  const int64_t num_ready = std::max<int64_t>(
      1, std::min<int64_t>(run_.plan.max_concurrency, static_cast<int64_t>(kMaxPrepared)));
  while (num_prepared_ < num_ready &&
         (run_.plan.num_requests == 0 || num_prepared_ < run_.plan.num_requests)) {
    prepare();
  }
  Lock lock(mutex_);
  start_us_ = monotonic_us();
  if (run_.plan.rate > 0) arrivals_.emplace(run_.plan.rate, run_.plan.seed);
  send_all(lock);
  bool cancelled = false;
  while (num_in_flight_ > 0) {
    if (ended() && !cancelled) {
      client_.cancel_all();
      cancelled = true;
    }
    wait(lock, monotonic_us() + kPollUs);
  }
  return std::move(records_);
}

}  // namespace

std::vector<RequestRecord> run_load(LoadClient& client, const LoadRequests& requests,
                                    const LoadRun& run, const Interrupt& interrupt) {
  CHECK(run.plan.rate > 0 || run.plan.max_concurrency > 0);
  CHECK(run.plan.num_requests > 0 || run.plan.duration_us > 0);
  return Runner(client, requests, run, interrupt).run();
}

}  // namespace deepflight
