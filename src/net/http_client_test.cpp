// The blocking client against our server, the event-stream reader, URLs.
#include "net/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "net/http_server.h"
#include "net/http_stream_client.h"
#include "net/sse.h"
#include "net/test_socket.h"

namespace deepflight {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class HttpClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server = std::make_unique<HttpServer>(HttpServerConfig{},
                                          [this](HttpRequest request, ResponseWriter writer) {
                                            handle(std::move(request), std::move(writer));
                                          });
    ASSERT_TRUE(server->start().ok());
  }

  void handle(HttpRequest request, ResponseWriter writer) {
    if (request.target == "/base/events") {
      writer.start_stream(200, {{"Content-Type", "text/event-stream"}});
      writer.on_disconnect([this] { disconnected = true; });
      for (int i = 0; i < 3; ++i) writer.write(sse_event(std::to_string(i)));
      if (request.body == "endless") {
        endless = std::make_unique<ResponseWriter>(writer);
      } else {
        writer.finish();
      }
    } else if (request.target == "/base/silent") {
      endless = std::make_unique<ResponseWriter>(writer);
    } else if (request.target == "/base/big") {
      writer.send({200, {}, std::string(1 << 20, 'x')});
    } else if (request.target == "/base/close") {
      writer.send({200, {}, "closing"});
    } else {
      writer.send({404, {{"X-Seen", std::string(request.header("x-key"))}}, request.body});
    }
  }

  HttpClient client(HttpClientConfig config = {}) {
    auto url = parse_http_url(fmt::format("http://127.0.0.1:{}/base/", server->port()));
    return HttpClient(url.value(), std::move(config));
  }

  std::unique_ptr<ResponseWriter> endless;
  std::atomic<bool> disconnected{false};
  std::unique_ptr<HttpServer> server;
};

TEST_F(HttpClientTest, GetAndPostOverOneConnection) {
  HttpClient http = client({.headers = {{"X-Key", "k"}}});
  for (int i = 0; i < 3; ++i) {
    auto got = http.get("/x");
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(got->status, 404);
    EXPECT_EQ(got->header("x-seen"), "k");
    auto posted = http.post_json("/x", "{}");
    ASSERT_TRUE(posted.ok());
    EXPECT_EQ(posted->body, "{}");
  }
  EXPECT_EQ(server->num_connections(), 1);
}

TEST_F(HttpClientTest, ReconnectsWhenAKeptConnectionWasClosed) {
  HttpClient http = client();
  ASSERT_TRUE(http.get("/x").ok());
  const uint16_t port = server->port();
  server->stop();
  HttpServerConfig config;
  config.port = port;
  server = std::make_unique<HttpServer>(config, [](HttpRequest, ResponseWriter writer) {
    writer.send({200, {}, "second"});
  });
  ASSERT_TRUE(server->start().ok());
  auto got = http.get("/x");
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->body, "second");
}

TEST_F(HttpClientTest, ReadsEventStreams) {
  HttpClient http = client();
  std::vector<std::string> events;
  const auto keep = [&](std::string_view data) {
    events.emplace_back(data);
    return true;
  };
  for (int i = 0; i < 2; ++i) {
    events.clear();
    auto response = http.post_stream("/events", "{}", keep);
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_THAT(events, ElementsAre("0", "1", "2"));
  }
  EXPECT_EQ(server->num_connections(), 1);
  auto error = http.post_stream("/x", "not a stream", keep);
  ASSERT_TRUE(error.ok());
  EXPECT_EQ(error->status, 404);
  EXPECT_EQ(error->body, "not a stream");
}

TEST_F(HttpClientTest, StoppingAStreamDisconnects) {
  HttpClient http = client();
  int num_events = 0;
  auto response =
      http.post_stream("/events", "endless", [&](std::string_view) { return ++num_events < 2; });
  EXPECT_TRUE(response.ok());
  EXPECT_EQ(num_events, 2);
  EXPECT_TRUE(eventually([&] { return disconnected.load(); }));
  EXPECT_TRUE(http.get("/x").ok());
}

TEST_F(HttpClientTest, LimitsAndFailures) {
  HttpClient small = client({.max_response_bytes = 1000});
  auto big = small.get("/big");
  ASSERT_FALSE(big.ok());
  EXPECT_EQ(big.error().code, ErrorCode::kTooLarge);
  HttpClient hasty = client({.idle_timeout = std::chrono::milliseconds(50)});
  auto silent = hasty.get("/silent");
  ASSERT_FALSE(silent.ok());
  EXPECT_EQ(silent.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(silent.error().message, HasSubstr("timed out"));
  server->stop();
  HttpClient nobody = client();
  auto refused = nobody.get("/x");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
}

TEST_F(HttpClientTest, ManyStreamsOverKeptConnections) {
  auto url = parse_http_url(fmt::format("http://127.0.0.1:{}/base", server->port()));
  HttpStreamClient http(url.value(), {}, 2);
  std::atomic<int> num_events{0};
  std::atomic<int> num_done{0};
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 8; ++i) {
      http.post_stream("/events", "{}",
                       {[&](std::string_view) { return ++num_events > 0; },
                        [&](const Result<HttpResponse>& response) {
                          EXPECT_TRUE(response.ok() && response->status == 200);
                          ++num_done;
                        }});
    }
    ASSERT_TRUE(eventually([&] { return num_done == 8 * (round + 1); }));
  }
  EXPECT_EQ(num_events, 72);
  EXPECT_LE(server->num_connections(), 8);
}

TEST_F(HttpClientTest, CancelEndsStreamsWithAWord) {
  auto url = parse_http_url(fmt::format("http://127.0.0.1:{}/base", server->port()));
  HttpStreamClient http(url.value(), {}, 1);
  std::atomic<int> num_events{0};
  std::atomic<int> code{-1};
  http.post_stream("/events", "endless",
                   {[&](std::string_view) { return ++num_events > 0; },
                    [&](const Result<HttpResponse>& response) {
                      code = response.ok() ? -2 : static_cast<int>(response.error().code);
                    }});
  ASSERT_TRUE(eventually([&] { return num_events == 3; }));
  http.cancel_all();
  EXPECT_TRUE(eventually([&] { return code == static_cast<int>(ErrorCode::kCancelled); }));
  EXPECT_TRUE(eventually([&] { return disconnected.load(); }));
}

TEST(SseReader, TakesAStreamCutAnywhere) {
  const std::string stream =
      ": comment\n\ndata: one\n\nevent: x\r\ndata:two\r\ndata: more\r\n\r\nid: 3\n\ndata:\n\n";
  for (size_t piece = 1; piece < stream.size(); ++piece) {
    SseReader reader(100);
    std::vector<std::string> events;
    for (size_t at = 0; at < stream.size(); at += piece) {
      auto fed =
          reader.feed(std::string_view(stream).substr(at, piece), [&](std::string_view data) {
            events.emplace_back(data);
            return true;
          });
      ASSERT_TRUE(fed.ok());
    }
    EXPECT_THAT(events, ElementsAre("one", "two\nmore", "")) << piece;
  }
}

TEST(SseReader, BoundsAnEvent) {
  SseReader reader(10);
  const auto ignore = [](std::string_view) { return true; };
  EXPECT_TRUE(reader.feed("data: 1", ignore).ok());
  EXPECT_FALSE(reader.feed("2345678", ignore).ok());
}

TEST(ParseHttpUrl, TakesHostPortAndBase) {
  auto url = parse_http_url("http://example:8000/v0/");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->host, "example");
  EXPECT_EQ(url->port, "8000");
  EXPECT_EQ(url->base_path, "/v0");
  EXPECT_EQ(parse_http_url("http://h")->port, "80");
  EXPECT_EQ(parse_http_url("http://[::1]:81")->host, "::1");
  EXPECT_EQ(parse_http_url("http://[::1]:81")->port, "81");
  for (const char* bad : {"", "example:80", "https://x", "http://", "http://x:", "http://x:1a",
                          "http://x:99999", "http://:80"}) {
    EXPECT_FALSE(parse_http_url(bad).ok()) << bad;
  }
}

TEST(PercentDecode, DecodesOrRefuses) {
  EXPECT_EQ(percent_decode("a%2Fb%20c").value(), "a/b c");
  for (const char* bad : {"%", "%1", "%zz"}) EXPECT_FALSE(percent_decode(bad).ok());
}

}  // namespace
}  // namespace deepflight
