// Runs against a server in this process that answers each request after a while.
#include "apps/bench_serve/load_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "net/http_server.h"
#include "net/sse.h"

namespace deepflight {
namespace {

constexpr auto kAnswerTime = std::chrono::milliseconds(20);

class RunLoad : public ::testing::Test {
 protected:
  void SetUp() override {
    server = std::make_unique<HttpServer>(
        HttpServerConfig{}, [this](HttpRequest, ResponseWriter writer) {
          const std::lock_guard lock(mutex);
          answers.emplace_back([this, writer] { answer(writer); });
        });
    ASSERT_TRUE(server->start().ok());
  }
  void TearDown() override {
    server->stop();
    answers.clear();
  }

  void answer(ResponseWriter writer) {
    const int now = ++num_in_flight;
    int seen = max_in_flight;
    while (now > seen && !max_in_flight.compare_exchange_weak(seen, now)) {
    }
    writer.start_stream(200, {{"Content-Type", "text/event-stream"}});
    std::this_thread::sleep_for(kAnswerTime);
    for (int i = 0; i < 3; ++i) writer.write(sse_event(R"({"choices":[{"text":"a"}]})"));
    --num_in_flight;
    writer.write(sse_event(R"({"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3}})"));
    writer.write(sse_event("[DONE]"));
    writer.finish();
  }

  std::vector<RequestRecord> run(const LoadPlan& plan,
                                 std::function<bool(const RequestRecord&)> on_record = {}) {
    const HttpUrl url = parse_http_url(fmt::format("http://127.0.0.1:{}", server->port())).value();
    LoadClient client(url, {}, 2);
    const LoadRequests requests =
        LoadRequests::make({.prompt_len = {4, 4}, .output_len = {3, 3}, .vocab_size = 50}).value();
    const LoadRun load{
        .plan = plan, .title = "test", .show_progress = false, .on_record = std::move(on_record)};
    return run_load(client, requests, load, interrupt);
  }

  Interrupt interrupt;
  std::atomic<int> num_in_flight{0};
  std::atomic<int> max_in_flight{0};
  std::mutex mutex;
  std::vector<std::jthread> answers;
  std::unique_ptr<HttpServer> server;
};

TEST_F(RunLoad, AClosedLoopKeepsItsSlotsFull) {
  const auto records = run({.max_concurrency = 4, .num_requests = 40});
  ASSERT_EQ(records.size(), 40u);
  for (const RequestRecord& record : records) {
    EXPECT_TRUE(record.ok()) << record.failure << ": " << record.failure_detail;
    EXPECT_EQ(record.num_output_tokens, 3);
    EXPECT_EQ(record.num_chunks(), 3);
    EXPECT_GE(record.ttft_ms(), 20);
    EXPECT_LE(record.planned_us, record.sent_us);
    EXPECT_LE(record.last_us, record.done_us);
  }
  EXPECT_EQ(max_in_flight, 4);
}

TEST_F(RunLoad, AnOpenLoopSendsWhenRequestsArrive) {
  const auto records = run({.rate = 200, .num_requests = 40, .seed = 2});
  ASSERT_EQ(records.size(), 40u);
  PoissonArrivals arrivals(200, 2);
  std::vector<int64_t> planned;
  for (const RequestRecord& record : records) {
    planned.push_back(record.planned_us);
    EXPECT_GE(record.sent_us, record.planned_us);
  }
  std::ranges::sort(planned);
  for (const int64_t time_us : planned) EXPECT_EQ(time_us, arrivals.next_us());
}

TEST_F(RunLoad, ACapHoldsBackAnOpenLoop) {
  const auto records = run({.rate = 1000, .max_concurrency = 2, .num_requests = 10});
  EXPECT_EQ(records.size(), 10u);
  EXPECT_LE(max_in_flight, 2);
}

TEST_F(RunLoad, ADurationEndsSendingAndWaitsForTheRest) {
  const int64_t begin_us = monotonic_us();
  const auto records = run({.max_concurrency = 2, .duration_us = 200'000});
  EXPECT_GE(monotonic_us() - begin_us, 200'000);
  EXPECT_GE(records.size(), 4u);
  for (const RequestRecord& record : records) {
    EXPECT_TRUE(record.ok());
    EXPECT_LT(record.sent_us, 200'000 + 50'000);
  }
}

TEST_F(RunLoad, EndsEarlyWhenToldTo) {
  int num_seen = 0;
  const auto records = run({.max_concurrency = 4, .num_requests = 1000},
                           [&](const RequestRecord&) { return ++num_seen < 8; });
  EXPECT_GE(records.size(), 8u);
  EXPECT_LT(records.size(), 20u);
  EXPECT_EQ(std::ranges::count_if(records, &RequestRecord::ok) +
                std::ranges::count_if(records, &RequestRecord::interrupted),
            static_cast<int64_t>(records.size()));
}

}  // namespace
}  // namespace deepflight
