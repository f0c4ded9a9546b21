// The web page's routes: files, headers, links, the off switch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "net/test_socket.h"
#include "server/server_fixture.h"

namespace deepflight {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(ServerTest, WebPage) {
  start();
  HttpClient http = client({{"X-Request-Id", "mine-42"}});
  const std::pair<const char*, const char*> files[] = {
      {"/", "text/html; charset=utf-8"},
      {"/?x=1", "text/html; charset=utf-8"},
      {"/web/app.css", "text/css; charset=utf-8"},
      {"/web/app.js", "text/javascript; charset=utf-8"},
      {"/web/icon.svg", "image/svg+xml"}};
  for (const auto& [path, type] : files) {
    const auto response = http.get(path);
    EXPECT_EQ(response->status, 200) << path;
    EXPECT_EQ(response->header("content-type"), type);
    EXPECT_EQ(response->header("cache-control"), "no-cache");
    EXPECT_EQ(response->header("x-content-type-options"), "nosniff");
    EXPECT_EQ(response->header("x-request-id"), "mine-42");
    EXPECT_THAT(std::string(response->header("content-security-policy")),
                StartsWith("default-src 'self'; "));
    EXPECT_GT(response->body.size(), 100u);
  }
  EXPECT_THAT(http.get("/")->body, StartsWith("<!doctype html>"));
  EXPECT_EQ(http.post_json("/", "{}")->status, 405);
  EXPECT_EQ(http.post_json("/web/app.js", "{}")->header("allow"), "GET");
  for (const char* path : {"/web", "/web/", "/web/index.html", "/web/x.js", "/web/../server.h",
                           "/web/%2e%2e/server.h", "/index.html", "//"}) {
    EXPECT_EQ(http.get(path)->status, 404) << path;
  }
  TestSocket raw(server->port());
  raw.send("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string head = raw.read_all();
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(head, testing::EndsWith("\r\n\r\n"));
}

// What the page may load and run is its own files: every link of it is one, and nothing is inline.
TEST_F(ServerTest, WebPageLinksToItsOwnFilesOnly) {
  start();
  HttpClient http = client();
  const std::string html = http.get("/")->body;
  int num_links = 0;
  for (const char* attribute : {" src=\"", " href=\""}) {
    for (size_t at = html.find(attribute); at != html.npos; at = html.find(attribute, at + 1)) {
      const size_t begin = at + std::string_view(attribute).size();
      const std::string link = html.substr(begin, html.find('"', begin) - begin);
      EXPECT_EQ(http.get("/" + link)->status, 200) << link;
      ++num_links;
    }
  }
  EXPECT_GE(num_links, 3);
  EXPECT_THAT(html, testing::Not(HasSubstr("<style")));
  EXPECT_THAT(html, testing::Not(HasSubstr(" style=")));
  EXPECT_THAT(html, testing::Not(HasSubstr(" onclick=")));
}

TEST_F(ServerTest, WebPageCanBeTurnedOff) {
  ServerConfig config;
  config.web_page = false;
  start(config);
  EXPECT_EQ(client().get("/")->status, 404);
  EXPECT_EQ(client().get("/web/app.js")->status, 404);
  EXPECT_EQ(client().get("/health")->status, 200);
}

}  // namespace
}  // namespace deepflight
