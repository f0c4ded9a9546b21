// A server on a scripted engine, and clients of it: for the *_test.cpp files of this folder.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "net/http_client.h"
#include "server/server.h"
#include "server/test_support.h"

namespace deepflight {

using nlohmann::json;
using std::chrono::milliseconds;

inline const json kHi = json::array({{{"role", "user"}, {"content", "hi"}}});

class ServerTest : public ::testing::Test {
 protected:
  void start(ServerConfig config = {}, bool with_template = true) {
    server = std::make_unique<Server>(
        std::move(config), service,
        TextModel{tokenizer, tokenizer_config, with_template ? &chat_template : nullptr});
    const Status status = server->start();
    ASSERT_TRUE(status.ok()) << status.error().message;
  }

  // The engine answers each choice with these events (choice_idx is filled in).
  void answer_with(std::vector<GenerationEvent> events) {
    service.script = [events](const GenerationRequest& request, const EventCallback& on_event) {
      for (GenerationEvent event : events) {
        for (int i = 0; i < request.sampling.num_choices; ++i) {
          event.choice_idx = i;
          on_event(event);
        }
      }
    };
  }

  HttpClient client(HttpHeaders headers = {}) {
    return HttpClient({.host = "127.0.0.1", .port = std::to_string(server->port())},
                      {.idle_timeout = milliseconds(10'000), .headers = std::move(headers)});
  }

  HttpResponse post(const std::string& path, const json& body) {
    auto response = client().post_json(path, body.dump());
    EXPECT_TRUE(response.ok()) << response.error().message;
    return response.ok() ? *response : HttpResponse{0, {}, "{}"};
  }

  json chat(json body) {
    if (!body.contains("messages")) body["messages"] = kHi;
    const HttpResponse response = post("/v1/chat/completions", body);
    EXPECT_EQ(response.status, 200) << response.body;
    return json::parse(response.body);
  }

  json complete(json body) {
    if (!body.contains("prompt")) body["prompt"] = "abc";
    const HttpResponse response = post("/v1/completions", body);
    EXPECT_EQ(response.status, 200) << response.body;
    return json::parse(response.body);
  }

  // Data of each event; the JSON ones lose id and created, which differ from run to run.
  std::vector<json> stream(const std::string& path, json body) {
    body["stream"] = true;
    std::vector<json> events;
    auto response = client().post_stream(path, body.dump(), [&](std::string_view data) {
      if (data == "[DONE]") {
        events.emplace_back("[DONE]");
        return true;
      }
      json event = json::parse(data);
      event.erase("id");
      event.erase("created");
      events.push_back(std::move(event));
      return true;
    });
    EXPECT_TRUE(response.ok()) << response.error().message;
    if (response.ok()) last_response = *response;
    return events;
  }

  json error_of(const HttpResponse& response) { return json::parse(response.body).at("error"); }

  FakeService service;
  Tokenizer tokenizer = test_tokenizer();
  TokenizerConfig tokenizer_config = test_tokenizer_config();
  ChatTemplate chat_template = test_chat_template();
  std::unique_ptr<Server> server;
  HttpResponse last_response;
};

}  // namespace deepflight
