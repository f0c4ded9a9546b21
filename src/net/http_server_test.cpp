// The server against a raw socket: framing, limits, time-outs, back-pressure, disconnects, drain.
#include "net/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "net/test_socket.h"

namespace deepflight {
namespace {

using std::chrono::milliseconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

HttpServerConfig test_config() {
  HttpServerConfig config;
  config.error_body = [](int status, std::string_view message) {
    return fmt::format("{{\"status\":{},\"message\":\"{}\"}}", status, message);
  };
  return config;
}

// A server whose handler can be given per test; the default one echoes method, target and body.
class HttpServerTest : public ::testing::Test {
 protected:
  void start(HttpServerConfig config = test_config()) {
    server = std::make_unique<HttpServer>(std::move(config),
                                          [this](HttpRequest request, ResponseWriter writer) {
                                            ++num_requests;
                                            handler(std::move(request), std::move(writer));
                                          });
    const Status status = server->start();
    ASSERT_TRUE(status.ok()) << status.error().message;
    ASSERT_NE(server->port(), 0);
  }

  void keep(ResponseWriter writer) {
    const std::lock_guard lock(mutex);
    writers.push_back(std::move(writer));
  }
  bool has_writer() {
    const std::lock_guard lock(mutex);
    return !writers.empty();
  }
  ResponseWriter take_writer() {
    const std::lock_guard lock(mutex);
    ResponseWriter writer = std::move(writers.front());
    writers.erase(writers.begin());
    return writer;
  }

  HttpHandler handler = [](HttpRequest request, ResponseWriter writer) {
    writer.send({200, {}, request.method + " " + request.target + " [" + request.body + "]"});
  };
  std::atomic<int> num_requests{0};
  std::mutex mutex;
  std::vector<ResponseWriter> writers;
  std::unique_ptr<HttpServer> server;
};

std::string get(std::string_view target, std::string_view headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n", target, headers);
}

std::string post(std::string_view target, std::string_view body, std::string_view headers = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", target,
                     body.size(), headers, body);
}

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  start();
  TestSocket client(server->port());
  for (int i = 0; i < 3; ++i) {
    client.clear();
    client.send(post("/a?b=1", "hello"));
    const std::string answer = client.read_until("]");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("Connection: keep-alive"));
    EXPECT_THAT(answer, EndsWith("\r\n\r\nPOST /a?b=1 [hello]"));
  }
  client.clear();
  client.send(get("/last", "Connection: close\r\n"));
  EXPECT_THAT(client.read_all(), HasSubstr("Connection: close"));
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(eventually([&] { return server->num_connections() == 0; }));
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  TestSocket client(server->port());
  client.send(get("/1") + post("/2", "two") + get("/3"));
  const std::string answer = client.read_until("/3 []");
  const size_t first = answer.find("GET /1 []");
  const size_t second = answer.find("POST /2 [two]");
  const size_t third = answer.find("GET /3 []");
  ASSERT_NE(third, std::string::npos) << answer;
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
}

TEST_F(HttpServerTest, RequestsThatArriveWhileAnAnswerIsProducedAreKept) {
  handler = [this](HttpRequest request, ResponseWriter writer) {
    if (request.target == "/slow") {
      keep(std::move(writer));
    } else {
      writer.send({200, {}, "quick"});
    }
  };
  start();
  TestSocket client(server->port());
  client.send(get("/slow"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  client.send(get("/quick"));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(num_requests, 1);
  take_writer().send({200, {}, "slow"});
  const std::string answer = client.read_until("quick");
  EXPECT_LT(answer.find("slow"), answer.find("quick"));
}

TEST_F(HttpServerTest, RequestsCutAnywhereAndChunkedBodies) {
  start();
  TestSocket client(server->port());
  const std::string request =
      "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n "
      "world\r\n0\r\n\r\n";
  for (const char c : request) ASSERT_TRUE(client.send({&c, 1}));
  EXPECT_THAT(client.read_until("]"), EndsWith("POST /c [hello world]"));
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  start();
  TestSocket client(server->port());
  client.send("HEAD /h HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = client.read_all();
  EXPECT_THAT(answer, HasSubstr("Content-Length: 10"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, ExpectContinue) {
  start();
  TestSocket client(server->port());
  client.send("POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_THAT(client.read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100 Continue\r\n\r\n"));
  client.send("ok");
  EXPECT_THAT(client.read_until("]"), EndsWith("POST /e [ok]"));
}

TEST_F(HttpServerTest, Http10ClientGetsAStreamThatEndsWithTheConnection) {
  handler = [](HttpRequest, ResponseWriter writer) {
    writer.start_stream(200, {});
    writer.write("part");
    writer.finish();
  };
  start();
  TestSocket client(server->port());
  client.send("GET / HTTP/1.0\r\n\r\n");
  const std::string answer = client.read_all();
  EXPECT_TRUE(client.closed());
  EXPECT_THAT(answer, EndsWith("\r\n\r\npart"));
  EXPECT_THAT(answer, Not(HasSubstr("chunked")));
}

struct BadRequest {
  std::string bytes;
  int status;
};

TEST_F(HttpServerTest, MalformedAndOversizedRequestsAreRefusedAndTheServerLives) {
  HttpServerConfig config = test_config();
  config.max_body_bytes = 1000;
  start(config);
  const std::string host = "Host: x\r\n";
  std::string many_headers;
  for (int i = 0; i < 200; ++i) many_headers += fmt::format("A{}: b\r\n", i);
  const std::vector<BadRequest> cases = {
      {"nonsense\r\n\r\n", 400},
      {std::string(300, '\x01') + "\r\n\r\n", 400},
      {"GET / HTTP/9.9\r\n" + host + "\r\n", 400},
      {"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\n" + host + "Content-Length: x\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\n" + host + "Content-Length: -5\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999999\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
       400},
      {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      // What follows must not pass for a request of its own.
      {"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\nGET /inner HTTP/1.1\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\nGET /inner HTTP/1.1\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
       400},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
      {"GET /" + std::string(20'000, 'a') + " HTTP/1.1\r\n\r\n", 431},
      {"GET / HTTP/1.1\r\nA: " + std::string(20'000, 'b') + "\r\n\r\n", 431},
      {"GET / HTTP/1.1\r\n" + many_headers + "\r\n", 431},
      {"POST / HTTP/1.1\r\n" + host + "Content-Length: 1001\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" +
           std::string(2000, 'c'),
       413},
  };
  for (const BadRequest& bad : cases) {
    TestSocket client(server->port());
    client.send(bad.bytes);
    client.shut_down_send();
    const std::string answer = client.read_all();
    EXPECT_THAT(answer, StartsWith(fmt::format("HTTP/1.1 {} ", bad.status)))
        << bad.bytes.substr(0, 80);
    EXPECT_THAT(answer, HasSubstr(fmt::format("{{\"status\":{}", bad.status)));
    EXPECT_TRUE(client.closed());
  }
  EXPECT_EQ(num_requests, 0);
  TestSocket client(server->port());
  client.send(get("/alive"));
  EXPECT_THAT(client.read_until("]"), HasSubstr("GET /alive"));
}

TEST_F(HttpServerTest, ARefusedUploadStillReadsItsAnswer) {
  HttpServerConfig config = test_config();
  config.max_body_bytes = 1 << 20;
  start(config);
  TestSocket client(server->port());
  ASSERT_TRUE(client.send(post("/", std::string(8 << 20, 'x'))));  // whole, before reading
  EXPECT_THAT(client.read_until("}"), StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpServerTest, BodiesTogetherAreBounded) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep(std::move(writer)); };
  HttpServerConfig config = test_config();
  config.max_total_body_bytes = 1500;
  start(config);
  TestSocket first(server->port());
  first.send(post("/1", std::string(1000, 'a')));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  TestSocket second(server->port());
  second.send(post("/2", std::string(1000, 'b')));
  EXPECT_THAT(second.read_until("}"), StartsWith("HTTP/1.1 503 "));
  TestSocket no_body(server->port());
  no_body.send(get("/3"));
  take_writer().send({200, {}, "done"});
  first.read_until("done");
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  take_writer().send({200, {}, "done"});
  TestSocket third(server->port());
  third.send(post("/4", std::string(1000, 'c')));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  take_writer().send({200, {}, "done"});
  EXPECT_THAT(third.read_until("done"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, BigBodiesBothWays) {
  handler = [](HttpRequest request, ResponseWriter writer) {
    writer.send({200, {}, std::move(request.body)});
  };
  start();
  std::string body(20 << 20, 'x');
  for (size_t i = 0; i < body.size(); i += 997) body[i] = static_cast<char>('a' + i % 26);
  TestSocket client(server->port());
  std::thread sender([&] { client.send(post("/", body, "Connection: close\r\n")); });
  const std::string answer = client.read_all();
  sender.join();
  ASSERT_GT(answer.size(), body.size());
  EXPECT_TRUE(answer.ends_with(body));
}

TEST_F(HttpServerTest, StreamsChunks) {
  handler = [this](HttpRequest, ResponseWriter writer) { keep(std::move(writer)); };
  start();
  TestSocket client(server->port());
  client.send(get("/"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  const ResponseWriter writer = take_writer();
  EXPECT_TRUE(writer.start_stream(200, {{"Content-Type", "text/event-stream"}}));
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("Transfer-Encoding: chunked"));
  EXPECT_FALSE(writer.start_stream(200, {}));
  client.clear();
  EXPECT_TRUE(writer.write("one"));
  EXPECT_EQ(client.read_until("one\r\n"), "3\r\none\r\n");
  client.clear();
  EXPECT_TRUE(writer.write(std::string(17, 'y')));
  EXPECT_EQ(client.read_until("y\r\n"), "11\r\n" + std::string(17, 'y') + "\r\n");
  client.clear();
  writer.finish();
  EXPECT_EQ(client.read_until("0\r\n\r\n"), "0\r\n\r\n");
  EXPECT_FALSE(writer.write("late"));
  client.clear();
  client.send(get("/again"));  // the connection lives on
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  take_writer().send({200, {}, "again"});
  EXPECT_THAT(client.read_until("again"), HasSubstr("200 OK"));
}

TEST_F(HttpServerTest, DisconnectIsNoticedWhileAnAnswerIsProduced) {
  std::atomic<int> num_disconnects{0};
  handler = [&](HttpRequest, ResponseWriter writer) {
    writer.on_disconnect([&] { ++num_disconnects; });
    keep(std::move(writer));
  };
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
  std::atomic<int> num_disconnects{0};
  handler = [&](HttpRequest, ResponseWriter writer) {
    writer.on_disconnect([&] { ++num_disconnects; });
    keep(std::move(writer));
  };
  start();
  auto client = std::make_unique<TestSocket>(server->port());
  client->send(get("/") + get("/never-run"));
  ASSERT_TRUE(eventually([&] { return has_writer(); }));
  client.reset();
  EXPECT_TRUE(eventually([&] { return num_disconnects == 1; }));
  EXPECT_EQ(num_requests, 1);
}

TEST_F(HttpServerTest, FinishedAnswersDoNotReportADisconnect) {
  std::atomic<int> num_disconnects{0};
  handler = [&](HttpRequest, ResponseWriter writer) {
    writer.on_disconnect([&] { ++num_disconnects; });
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
  std::atomic<int> num_disconnects{0};
  handler = [&](HttpRequest request, ResponseWriter writer) {
    if (request.target == "/quick") return writer.send({200, {}, "quick"});
    writer.on_disconnect([&] { ++num_disconnects; });
    keep(std::move(writer));
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
  std::atomic<int> num_disconnects{0};
  handler = [&](HttpRequest, ResponseWriter writer) {
    writer.on_disconnect([&] { ++num_disconnects; });
    keep(std::move(writer));
  };
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
