// The server against a raw socket: disconnects, slow readers, time limits, failures, drain.
#include <gmock/gmock.h>

#include <thread>

#include "net/http_server_testing.h"

namespace deepflight {
namespace {

using std::chrono::milliseconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(HttpServerTest, DisconnectIsNoticedWhileAnAnswerIsProduced) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep_watched(std::move(writer)); };
  start();
  auto client = std::make_unique<TestSocket>(server->port());
  client->send(get("/"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  EXPECT_EQ(num_disconnects, 0);
  client.reset();
  EXPECT_TRUE(eventually([&] { return num_disconnects == 1; }));
  const ResponseWriter writer = take_writer();
  EXPECT_TRUE(writer.disconnected());
  EXPECT_FALSE(writer.start_stream(200, {}));
  writer.send({200, {}, "nobody reads this"});
  bool called_at_once = false;
  writer.on_disconnect([&] { called_at_once = true; });
  EXPECT_TRUE(called_at_once);
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 0; }));
}

TEST_F(HttpServerTest, DisconnectBehindAPipelinedRequestIsNoticed) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep_watched(std::move(writer)); };
  start();
  auto client = std::make_unique<TestSocket>(server->port());
  client->send(get("/") + get("/never-run"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  client.reset();
  EXPECT_TRUE(eventually([&] { return num_disconnects == 1; }));
  EXPECT_EQ(num_requests, 1);
}

TEST_F(HttpServerTest, FinishedAnswersDoNotReportADisconnect) {
  handler = [this](HttpRequest, ResponseWriter writer) {
    count_disconnect(writer);
    writer.send({200, {}, "done"});
  };
  start();
  {
    TestSocket client(server->port());
    client.send(get("/"));
    client.read_until("done");
  }
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 0; }));
  EXPECT_EQ(num_disconnects, 0);
}

TEST_F(HttpServerTest, ASlowReaderIsCutOffAndHoldsNobodyUp) {
  handler = [this](HttpRequest request, ResponseWriter writer) {
    if (request.target == "/quick") return writer.send({200, {}, "quick"});
    keep_watched(std::move(writer));
  };
  HttpServerConfig config = test_config();
  config.max_buffered_bytes = 64 << 10;
  config.send_buffer_bytes = 16 << 10;
  start(config);
  TestSocket slow(server->port(), 4096);
  slow.send(get("/"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  const ResponseWriter writer = take_writer();
  writer.start_stream(200, {});
  size_t written = 0;
  while (writer.write(std::string(1000, 'z')) && written < (64 << 20)) {
    written += 1000;
    if (written % 50'000 == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_LT(written, 4 << 20);
  EXPECT_EQ(num_disconnects, 1);
  EXPECT_TRUE(writer.disconnected());
  TestSocket quick(server->port());
  quick.send(get("/quick"));
  EXPECT_THAT(quick.read_until("quick"), HasSubstr("200 OK"));
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 1; }));
}

TEST_F(HttpServerTest, OneBigChunkIsNoSlowReader) {
  handler = [](HttpRequest, ResponseWriter writer) {
    writer.start_stream(200, {});
    EXPECT_TRUE(writer.write(std::string(4 << 20, 'b')));
    writer.finish();
  };
  HttpServerConfig config = test_config();
  config.max_buffered_bytes = 1000;
  start(config);
  TestSocket client(server->port());
  client.send(get("/", "Connection: close\r\n"));
  EXPECT_GT(client.read_all().size(), size_t{4} << 20);
}

TEST_F(HttpServerTest, TimeLimits) {
  HttpServerConfig config = test_config();
  config.idle_timeout = milliseconds(100);
  config.read_timeout = milliseconds(150);
  start(config);
  TestSocket idle(server->port());
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_TRUE(idle.closed());
  TestSocket half(server->port());
  half.send("GET / HTTP/1.1\r\nHo");
  EXPECT_THAT(half.read_until("}"), StartsWith("HTTP/1.1 408 "));
  TestSocket no_body(server->port());
  no_body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123");
  EXPECT_THAT(no_body.read_until("}"), StartsWith("HTTP/1.1 408 "));
  TestSocket after_one(server->port());
  after_one.send(get("/"));
  EXPECT_THAT(after_one.read_all(), HasSubstr("200 OK"));
  EXPECT_TRUE(after_one.closed());
}

TEST_F(HttpServerTest, ARequestThatDripsInIsCutOffAtTheSameTime) {
  HttpServerConfig config = test_config();
  config.read_timeout = milliseconds(200);
  start(config);
  const std::string head = "POST / HTTP/1.1\r\nContent-Length: 100000\r\n";
  for (const std::string& begun : {std::string("G"), head, head + "\r\n"}) {
    TestSocket client(server->port());
    const auto begin = std::chrono::steady_clock::now();
    client.send(begun);
    // Each byte comes well within the limit; all of them together do not.
    for (int i = 0; i < 100 && client.read_until("HTTP/1.1", 20).empty(); ++i) client.send("x");
    EXPECT_THAT(client.read_until("}"), StartsWith("HTTP/1.1 408 ")) << begun;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(1500));
  }
}

TEST_F(HttpServerTest, AReaderThatStopsReadingIsClosedByTheWriteLimit) {
  HttpServerConfig config = test_config();
  config.write_timeout = milliseconds(200);
  config.send_buffer_bytes = 16 << 10;
  handler = [](HttpRequest, ResponseWriter writer) {
    writer.send({200, {}, std::string(16 << 20, 'x')});
  };
  start(config);
  TestSocket client(server->port(), 4096);
  client.send(get("/"));
  EXPECT_TRUE(eventually([&] { return num_requests == 1; }));
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 0; }));
}

TEST_F(HttpServerTest, ConnectionsOverTheLimitGet503) {
  HttpServerConfig config = test_config();
  config.max_connections = 2;
  start(config);
  TestSocket first(server->port());
  first.send(get("/"));
  first.read_until("]");
  auto second = std::make_unique<TestSocket>(server->port());
  second->send(get("/"));
  second->read_until("]");
  TestSocket third(server->port());
  third.send(get("/"));
  EXPECT_THAT(third.read_until("}"), StartsWith("HTTP/1.1 503 "));
  third.close();
  second.reset();
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 1; }));
  TestSocket fourth(server->port());
  fourth.send(get("/"));
  EXPECT_THAT(fourth.read_until("]"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, HandlersThatThrowOrForgetToAnswer) {
  handler = [](HttpRequest request, ResponseWriter writer) {
    if (request.target == "/throw") throw std::runtime_error("no such luck");
    if (request.target == "/cut") {
      writer.start_stream(200, {});
      writer.write("some");
    }
  };
  start();
  TestSocket client(server->port());
  for (const char* target : {"/throw", "/forget"}) {
    client.clear();
    client.send(get(target));
    const std::string answer = client.read_until("}");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 500 "));
    EXPECT_THAT(answer, HasSubstr("internal error"));
    EXPECT_THAT(answer, Not(HasSubstr("luck")));
  }
  client.send(get("/cut"));
  client.read_all();
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, DrainLetsAnswersFinishAndStopsAccepting) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep(std::move(writer)); };
  start();
  TestSocket idle(server->port());
  TestSocket busy(server->port());
  busy.send(get("/"));
  ASSERT_TRUE(eventually([&] { return has_writer() && server->num_connections() == 2; }));
  const ResponseWriter writer = take_writer();
  writer.start_stream(200, {});
  writer.write("first ");
  std::atomic<bool> drained{false};
  std::thread drain([&] { drained = server->drain(milliseconds(5000)); });
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_TRUE(idle.closed());
  EXPECT_FALSE(drained);
  EXPECT_TRUE(writer.write("second"));
  writer.finish();
  drain.join();
  EXPECT_TRUE(drained);
  const std::string answer = busy.read_all();
  EXPECT_THAT(answer, HasSubstr("first "));
  EXPECT_THAT(answer, EndsWith("0\r\n\r\n"));
  EXPECT_TRUE(busy.closed());
  TestSocket late(server->port());
  EXPECT_FALSE(late.connected());
}

TEST_F(HttpServerTest, DrainGivesUpAtItsDeadlineAndStopCutsTheRest) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep_watched(std::move(writer)); };
  start();
  TestSocket busy(server->port());
  busy.send(get("/"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  EXPECT_FALSE(server->drain(milliseconds(50)));
  EXPECT_EQ(num_disconnects, 0);
  server->stop();
  EXPECT_EQ(num_disconnects, 1);
  busy.read_all();
  EXPECT_TRUE(busy.closed());
  server->stop();
  take_writer().send({200, {}, "a writer may outlive the server's threads"});
}

TEST_F(HttpServerTest, ManyConnectionsOnSeveralThreads) {
  HttpServerConfig config = test_config();
  config.num_threads = 3;
  start(config);
  std::vector<std::thread> clients;
  std::atomic<int> num_right{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      TestSocket client(server->port());
      for (int k = 0; k < 200; ++k) {
        const std::string target = fmt::format("/{}-{}", i, k);
        client.clear();
        client.send(get(target));
        if (client.read_until("]").ends_with("GET " + target + " []")) ++num_right;
      }
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(num_right, 8 * 200);
}

TEST_F(HttpServerTest, WritersOnOtherThreadsWhileClientsComeAndGo) {
  std::vector<std::thread> producers;
  std::mutex producers_mutex;
  handler = [&](HttpRequest, ResponseWriter writer) {
    const std::lock_guard lock(producers_mutex);
    producers.emplace_back([writer] {
      writer.start_stream(200, {});
      for (int i = 0; i < 500 && writer.write("data: 0123456789\n\n"); ++i) {
      }
      writer.finish();
    });
  };
  HttpServerConfig config = test_config();
  config.num_threads = 2;
  start(config);
  int num_whole = 0;
  for (int i = 0; i < 60; ++i) {
    TestSocket client(server->port());
    client.send(get("/"));
    if (i % 3 == 0) continue;  // gone at once
    client.read_until(i % 3 == 1 ? "data" : "0\r\n\r\n");
    if (i % 3 == 2) ++num_whole;
  }
  EXPECT_EQ(num_whole, 20);
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 0; }));
  server->stop();
  for (auto& producer : producers) producer.join();
}

TEST(HttpServerStart, PortInUseAndBadAddressesAreErrors) {
  HttpServer first({}, [](HttpRequest, ResponseWriter) {});
  ASSERT_TRUE(first.start().ok());
  HttpServerConfig config;
  config.port = first.port();
  HttpServer second(config, [](HttpRequest, ResponseWriter) {});
  const Status in_use = second.start();
  ASSERT_FALSE(in_use.ok());
  EXPECT_EQ(in_use.error().code, ErrorCode::kIo);
  EXPECT_THAT(in_use.error().message, HasSubstr("127.0.0.1:"));
  EXPECT_THAT(in_use.error().message, HasSubstr("in use"));
  config.host = "not an address";
  HttpServer third(config, [](HttpRequest, ResponseWriter) {});
  EXPECT_FALSE(third.start().ok());
}

}  // namespace
}  // namespace deepflight
