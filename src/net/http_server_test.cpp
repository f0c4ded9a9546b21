// The server against a raw socket: framing, limits of a request, bodies, streams.
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

}  // namespace
}  // namespace deepflight
