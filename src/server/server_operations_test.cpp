// What an operator relies on: metrics, the key, limits, the access log, disconnects and drains.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>
#include <thread>

#include "net/test_socket.h"
#include "server/server_fixture.h"

namespace deepflight {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(ServerTest, Metrics) {
  service.service_stats.num_running = 3;
  service.service_stats.num_pages = 100;
  service.service_stats.num_free_pages = 93;
  service.service_stats.num_cached_pages = 5;
  service.service_stats.memory.weights_bytes = 11;
  start();
  const auto response = client().get("/metrics");
  EXPECT_EQ(response->status, 200);
  EXPECT_THAT(std::string(response->header("content-type")), StartsWith("text/plain"));
  for (const char* line :
       {"# TYPE deepflight:kv_pages gauge\n",
        "\nvllm:num_requests_running{model_name=\"tiny\"} 3\n",
        "\nvllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.07",
        "\ndeepflight:kv_pages{model_name=\"tiny\"} 100\n",
        "\ndeepflight:kv_pages_used{model_name=\"tiny\"} 7\n",
        "\ndeepflight:kv_pages_cached{model_name=\"tiny\"} 5\n",
        "\ndeepflight:num_requests_in_flight{model_name=\"tiny\"} 0\n",
        "\ndeepflight:device_memory_bytes{model_name=\"tiny\",use=\"weights\"} 11\n"}) {
    EXPECT_THAT(response->body, testing::HasSubstr(line));
  }
  EXPECT_EQ(client().post_json("/metrics", "{}")->status, 405);
}

TEST_F(ServerTest, MetricsOfRequests) {
  const auto at = [](GenerationEvent event, int64_t queued_ms, int64_t elapsed_ms) {
    event.queued_us = queued_ms * 1000;
    event.elapsed_us = elapsed_ms * 1000;
    return event;
  };
  // Three tokens in two steps, then the end with a fourth.
  answer_with({at(text_event("ab"), 4, 24), at(text_event("c"), 4, 124),
               at(end_event(FinishReason::kStop), 4, 324)});
  start();
  EXPECT_EQ(post("/v1/completions", {{"prompt", "hello"}, {"n", 2}}).status, 200);
  service.refusal = invalid_argument("no");
  EXPECT_EQ(post("/v1/completions", {{"prompt", "hello"}}).status, 400);
  const std::string text = client().get("/metrics")->body;
  const auto value = [&](const std::string& name, const std::string& labels = "") {
    const std::string key = "\n" + name + "{" + labels + "model_name=\"tiny\"} ";
    const size_t found = text.find(key);
    return found == std::string::npos ? -1.0 : std::stod(text.substr(found + key.size()));
  };
  EXPECT_EQ(value("vllm:prompt_tokens_total"), 6) << text;  // and a mark of the beginning
  EXPECT_EQ(value("vllm:generation_tokens_total"), 8);
  EXPECT_EQ(value("vllm:request_success_total", "finished_reason=\"stop\","), 2);
  EXPECT_EQ(value("vllm:request_success_total", "finished_reason=\"abort\","), 0);
  const struct {
    const char* name;
    int count;
    double sum;  // of both choices
  } histograms[] = {{"vllm:time_to_first_token_seconds", 2, 0.048},
                    {"vllm:inter_token_latency_seconds", 4, 0.6},
                    {"vllm:request_time_per_output_token_seconds", 2, 0.2},
                    {"vllm:e2e_request_latency_seconds", 2, 0.648},
                    {"vllm:request_queue_time_seconds", 2, 0.008},
                    {"vllm:request_prefill_time_seconds", 2, 0.04},
                    {"vllm:request_decode_time_seconds", 2, 0.6},
                    {"vllm:request_prompt_tokens", 1, 6},
                    {"vllm:request_generation_tokens", 2, 8}};
  for (const auto& histogram : histograms) {
    EXPECT_EQ(value(histogram.name + std::string("_count")), histogram.count) << histogram.name;
    EXPECT_NEAR(value(histogram.name + std::string("_sum")), histogram.sum, 1e-6) << histogram.name;
  }
  EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\","
                              "le=\"0.02\"} 0"));
  EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\","
                              "le=\"0.03\"} 2"));
}

TEST_F(ServerTest, WithAKeyOnlyHealthMetricsAndThePageAreOpen) {
  ServerConfig config;
  config.version = "1.2.3";
  config.api_key = ApiKey::parse("s3cret").value();
  start(config);
  const auto status = [&](const std::string& path, HttpHeaders headers) {
    return client(std::move(headers)).get(path)->status;
  };
  for (const char* path : {"/v1/models", "/v1/models/x", "/version", "/nothing", "/web/x"}) {
    for (const char* value : {"", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret0",
                              "Bearer S3cret", "Basic s3cret", "s3cret"}) {
      EXPECT_EQ(status(path, {{"Authorization", value}}), 401) << path << " " << value;
    }
    EXPECT_EQ(status(path, {}), 401) << path;
  }
  const HttpResponse refused = post("/v1/completions", {{"prompt", "abc"}});
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.header("www-authenticate"), "Bearer");
  EXPECT_EQ(error_of(refused)["code"], "invalid_api_key");
  EXPECT_EQ(error_of(refused)["type"], "authentication_error");
  EXPECT_EQ(service.num_requests(), 0u);

  const HttpHeaders right = {{"Authorization", "bearer s3cret"}};
  EXPECT_EQ(status("/v1/models", right), 200);
  EXPECT_EQ(status("/nothing", right), 404);
  EXPECT_EQ(json::parse(client(right).get("/version")->body), (json{{"version", "1.2.3"}}));
  EXPECT_EQ(status("/health", {}), 200);
  EXPECT_EQ(status("/metrics", {}), 200);
  EXPECT_EQ(status("/", {}), 200);
  EXPECT_EQ(status("/web/app.js", {}), 200);
}

TEST(ApiKey, MustBeAbleToStandInAHeader) {
  for (const char* key : {"", "a b", "a\n", "caf\xc3\xa9", "\x7f"}) {
    EXPECT_FALSE(ApiKey::parse(key).ok()) << key;
  }
  EXPECT_TRUE(ApiKey::parse("sk-~!").ok());
  EXPECT_TRUE(ApiKey().accepts(""));
}

TEST_F(ServerTest, RequestsPastTheLimitGet429) {
  ServerConfig config;
  config.max_requests = 2;
  start(config);
  std::vector<std::thread> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.emplace_back([this] {
      EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}}).status, 200);
    });
  }
  ASSERT_TRUE(eventually([&] { return service.num_requests() == 2; }));
  const HttpResponse refused = post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_EQ(error_of(refused)["type"], "rate_limit_error");
  EXPECT_EQ(error_of(refused)["code"], "rate_limit_exceeded");
  EXPECT_EQ(client().get("/v1/models")->status, 200);
  for (int i = 0; i < 2; ++i) {
    service.emit(service.request(i).request_id, end_event(FinishReason::kStop));
  }
  for (std::thread& thread : waiting) thread.join();
  EXPECT_TRUE(eventually([&] { return server->num_in_flight() == 0; }));
  answer_with({end_event(FinishReason::kStop)});
  EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}}).status, 200);
}

TEST_F(ServerTest, RequestsThatTakeTooLongAreCancelled) {
  ServerConfig config;
  config.request_timeout = milliseconds(100);
  start(config);
  const HttpResponse whole = post("/v1/completions", {{"prompt", "a"}, {"n", 2}});
  EXPECT_EQ(whole.status, 504);
  EXPECT_EQ(error_of(whole)["message"], "the request took longer than this server allows");
  EXPECT_THAT(service.cancelled(), testing::Contains(service.request(0).request_id));

  answer_with({text_event("ab")});
  const auto events = stream("/v1/completions", {{"prompt", "a"}});
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]["choices"][0]["text"], "ab");
  EXPECT_EQ(events[1]["error"]["type"], "server_error");
  EXPECT_EQ(events[2], "[DONE]");
  EXPECT_TRUE(eventually([&] { return server->num_in_flight() == 0; }));

  answer_with({text_event("ab"), end_event(FinishReason::kStop)});
  EXPECT_EQ(complete({{"prompt", "a"}})["choices"][0]["text"], "ab");
}

TEST_F(ServerTest, TheAccessLogHoldsNoText) {
  std::ostringstream lines;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(lines)));
  ServerConfig config;
  config.access_log = true;
  start(config);
  answer_with({text_event("hidden answer"), end_event(FinishReason::kStop)});
  EXPECT_EQ(post("/v1/completions", {{"prompt", "secret"}}).status, 200);
  EXPECT_EQ(post("/v1/completions", {{"prompt", "secret"}, {"n", 0}}).status, 400);
  EXPECT_EQ(client().get("/nowhere")->status, 404);
  EXPECT_EQ(client().get("/health")->status, 200);
  server->stop();
  spdlog::set_default_logger(before);
  const std::string text = lines.str();
  EXPECT_THAT(text, HasSubstr("path=/v1/completions status=200 stream=false prompts=1 choices=1 "
                              "prompt_tokens=7 cached_tokens=0 output_tokens=14 "));
  EXPECT_THAT(text, HasSubstr("method=POST path=/v1/completions status=400"));
  EXPECT_THAT(text, HasSubstr("method=GET path=/nowhere status=404"));
  for (const char* hidden : {"secret", "hidden", "health"}) {
    EXPECT_THAT(text, testing::Not(HasSubstr(hidden)));
  }
}

TEST_F(ServerTest, ADisconnectCancels) {
  start();
  for (const bool streamed : {false, true}) {
    auto socket = std::make_unique<TestSocket>(server->port());
    const std::string body = json{{"prompt", {"a", "b"}}, {"stream", streamed}}.dump();
    socket->send(
        fmt::format("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}",
                    body.size(), body));
    const size_t first = streamed ? 2 : 0;
    const std::string id = service.request(first).request_id;
    const std::string other_id = service.request(first + 1).request_id;
    if (streamed) {
      service.emit(id, text_event("x"));
      socket->read_until("data: ");
    }
    EXPECT_EQ(server->num_in_flight(), 1);
    socket.reset();
    EXPECT_TRUE(eventually([&] { return service.cancelled().size() >= first + 2; }));
    EXPECT_THAT(service.cancelled(), ::testing::IsSupersetOf({id, other_id}));
    EXPECT_TRUE(eventually([&] { return server->num_in_flight() == 0; }));
  }
}

TEST_F(ServerTest, DrainAnswersWhatWasAccepted) {
  start();
  std::thread reader([&] {
    const auto events = stream("/v1/completions", {{"prompt", "a"}});
    ASSERT_EQ(events.size(), 3u);
    EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "stop");
  });
  const std::string id = service.request().request_id;
  service.emit(id, text_event("x"));
  bool all_ended = false;
  std::thread drain([&] { all_ended = server->drain(milliseconds(5000)); });
  EXPECT_TRUE(eventually([&] { return client().get("/health")->status == 503; }));
  EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}}).status, 503);
  service.emit(id, end_event(FinishReason::kStop));
  reader.join();
  drain.join();
  EXPECT_TRUE(all_ended);
  EXPECT_FALSE(client().get("/health").ok());
}

TEST_F(ServerTest, DrainCancelsAtItsDeadline) {
  start();
  std::thread reader([&] {
    const auto events = stream("/v1/completions", {{"prompt", "a"}});
    ASSERT_EQ(events.size(), 3u);
    EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "abort");
  });
  const std::string id = service.request().request_id;
  service.emit(id, text_event("x"));
  EXPECT_FALSE(server->drain(milliseconds(50)));
  reader.join();
  EXPECT_THAT(service.cancelled(), ElementsAre(id));
  server->stop();
  server->stop();
}

TEST_F(ServerTest, StopCutsAndCancels) {
  start();
  std::thread reader([&] {
    auto response = client().post_json("/v1/completions", json{{"prompt", "a"}}.dump());
    EXPECT_FALSE(response.ok());
  });
  const std::string id = service.request().request_id;
  server.reset();
  reader.join();
  EXPECT_THAT(service.cancelled(), ::testing::Contains(id));
  service.emit(id, text_event("late"));
}

TEST_F(ServerTest, StopEndsADrain) {
  start();
  // Cut off, or cancelled in time.
  std::thread reader([&] {
    (void)client().post_json("/v1/completions", json{{"prompt", "a"}}.dump());
  });
  service.request();
  std::thread drain([&] { EXPECT_FALSE(server->drain(std::chrono::minutes(10))); });
  EXPECT_TRUE(eventually([&] { return client().get("/health")->status == 503; }));
  server->stop();
  drain.join();
  reader.join();
}

TEST_F(ServerTest, ManyClientsAtOnce) {
  ServerConfig config;
  config.http.num_threads = 2;
  config.num_event_threads = 2;
  answer_with({text_event("ab"), text_event("cd"), end_event(FinishReason::kStop, 0, "e")});
  start(config);
  std::vector<std::thread> threads;
  std::atomic<int> num_right{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      HttpClient http = client();
      for (int i = 0; i < 50; ++i) {
        std::string text;
        const std::string body = json{{"prompt", "a"}, {"stream", true}}.dump();
        auto response = http.post_stream("/v1/completions", body, [&](std::string_view data) {
          if (data != "[DONE]") text += json::parse(data)["choices"][0]["text"];
          return true;
        });
        if (response.ok() && text == "abcde") ++num_right;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(num_right, 6 * 50);
}

}  // namespace
}  // namespace deepflight
