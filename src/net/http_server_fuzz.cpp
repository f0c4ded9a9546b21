// Fuzz target: any bytes on a connection, in pieces of any size. What comes back is nothing or
// answers of HTTP/1.1, handlers see only requests within the limits, and the server serves the next
// client.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "net/http_server.h"
#include "net/test_socket.h"

std::vector<std::string> fuzz_seeds() {
  const std::string whole = "\x3f";
  const std::string by_three = "\x03";
  return {
      whole +
          "GET /a?b=%20c HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
          "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
      by_three +
          "POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /s HTTP/1.0\r\n\r\n",
      by_three +
          "POST /s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n"
          "6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
      whole + "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok",
      whole + "GET / HTTP/1.1\r\n" + std::string(600, 'h') + ": " + std::string(600, 'v') +
          "\r\n\r\n",
      whole + "POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" + std::string(100, 'b'),
      whole +
          "GET http://x/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n A: "
          "folded\r\n\r\n",
  };
}

namespace {

using deepflight::HttpServer;
using deepflight::TestSocket;

constexpr size_t kMaxHeaderBytes = 1000;
constexpr size_t kMaxBodyBytes = 4000;

void handle(const deepflight::HttpRequest& request, const deepflight::ResponseWriter& writer) {
  CHECK(!request.method.empty() && request.target.size() <= kMaxHeaderBytes, request.target);
  CHECK(request.body.size() <= kMaxBodyBytes, request.body.size());
  if (request.path() != "/s") return writer.send({200, {}, request.body});
  writer.start_stream(200, {{"Content-Type", "text/plain"}});
  writer.write("one");
  writer.write(request.body);
  writer.finish();
}

// Lives as long as the process.
const HttpServer& server() {
  static const HttpServer* const only = [] {
    deepflight::HttpServerConfig config;
    config.max_header_bytes = kMaxHeaderBytes;
    config.max_body_bytes = kMaxBodyBytes;
    config.error_body = [](int, std::string_view message) { return std::string(message); };
    // A handler's failed CHECK must not end as a 500.
    auto* started = new HttpServer(
        config, [](deepflight::HttpRequest request, deepflight::ResponseWriter writer) noexcept {
          handle(request, writer);
        });
    CHECK(started->start().ok());
    return started;
  }();
  return *only;
}

// What the server says until it closes, which it does once the client has no more to send.
std::string answer_to(std::string_view bytes, size_t piece) {
  TestSocket client(server().port());
  CHECK(client.connected());
  for (size_t begin = 0; begin < bytes.size(); begin += piece) {
    if (!client.send(bytes.substr(begin, piece))) break;  // closed already, with an answer
  }
  client.shut_down_send();
  const std::string answer = client.read_all();
  CHECK(client.closed(), "the connection is still open", answer);
  return answer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  // At most 64 pieces; one of them if the byte is large.
  const size_t piece = data[0] >= 0x3f ? size : std::max<size_t>(data[0], size / 64 + 1);
  const std::string answer = answer_to(bytes, piece);
  CHECK(answer.empty() || answer.starts_with("HTTP/1.1 "), answer);
  static int num_runs = 0;
  if (++num_runs % 32 == 0) {
    const std::string alive = answer_to("GET /alive HTTP/1.0\r\n\r\n", 1000);
    CHECK(alive.starts_with("HTTP/1.1 200 "), alive);
  }
  return 0;
}
