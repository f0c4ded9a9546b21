// The whole API over HTTP, against a scripted engine: what is submitted, what comes back, exactly.
#include "server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "net/http_client.h"
#include "net/test_socket.h"
#include "server/test_support.h"

namespace deepflight {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const json kHi = json::array({{{"role", "user"}, {"content", "hi"}}});

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

GenerationEvent with_ids(GenerationEvent event, std::vector<int32_t> ids) {
  event.token_ids = std::move(ids);
  return event;
}

// "Well, hm.</think>\n\nfine", in three events; the prompt opened <think>.
std::vector<GenerationEvent> thinking_answer() {
  GenerationEvent end = with_ids(text_event("</think>\n\n"), {kTestThinkEndId, '\n', '\n'});
  end.num_cached_tokens = 3;
  return {text_event("Well, hm."), end, end_event(FinishReason::kStop, 0, "fine")};
}

TEST_F(ServerTest, ChatSplitsReasoningAndCountsTokens) {
  answer_with(thinking_answer());
  start();
  const json response = chat({{"model", "tiny"}});
  EXPECT_THAT(response["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(response["object"], "chat.completion");
  EXPECT_EQ(response["model"], "tiny");
  EXPECT_GT(response["created"].get<int64_t>(), 1'600'000'000);
  const json expected = {{"index", 0},
                         {"message",
                          {{"role", "assistant"},
                           {"content", "fine"},
                           {"reasoning_content", "Well, hm."},
                           {"reasoning", "Well, hm."}}},
                         {"logprobs", nullptr},
                         {"finish_reason", "stop"}};
  EXPECT_EQ(response["choices"], json::array({expected}));
  // bos User h i Assistant <think> \n; 9 + 3 + 5 tokens, of which 10 up to </think>.
  EXPECT_EQ(response["usage"], json({{"prompt_tokens", 7},
                                     {"completion_tokens", 17},
                                     {"total_tokens", 24},
                                     {"prompt_tokens_details", {{"cached_tokens", 3}}},
                                     {"completion_tokens_details", {{"reasoning_tokens", 10}}}}));
  const GenerationRequest request = service.request();
  EXPECT_THAT(request.prompt_token_ids,
              ElementsAre(kTestBosId, kTestUserId, 'h', 'i', kTestAssistantId, kTestThinkId, '\n'));
  EXPECT_EQ(request.sampling.max_tokens, 256 - 7);
  EXPECT_EQ(request.request_id, response["id"]);
}

TEST_F(ServerTest, ReasoningStaysInContentWhenAskedTo) {
  answer_with(thinking_answer());
  start();
  const json message = chat({{"separate_reasoning", false}})["choices"][0]["message"];
  EXPECT_EQ(message["content"], "Well, hm.</think>\n\nfine");
  EXPECT_EQ(message["reasoning_content"], nullptr);
}

TEST_F(ServerTest, WithoutThinkingTheTextIsContent) {
  answer_with({text_event("hello"), end_event(FinishReason::kLength)});
  start();
  const json response = chat({{"chat_template_kwargs", {{"thinking", false}}}});
  EXPECT_EQ(response["choices"][0]["message"]["content"], "hello");
  EXPECT_EQ(response["choices"][0]["message"]["reasoning"], nullptr);
  EXPECT_EQ(response["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(response["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
  EXPECT_EQ(service.request().prompt_token_ids.back(), kTestThinkEndId);
}

TEST_F(ServerTest, ChatStreamIsExactlyThis) {
  answer_with(thinking_answer());
  start();
  const auto chunk = [](json delta, json finish_reason) {
    return json{{"object", "chat.completion.chunk"},
                {"model", "tiny"},
                {"choices",
                 {{{"index", 0},
                   {"delta", std::move(delta)},
                   {"logprobs", nullptr},
                   {"finish_reason", std::move(finish_reason)}}}}};
  };
  EXPECT_THAT(stream("/v1/chat/completions", {{"messages", kHi}}),
              ElementsAre(chunk({{"role", "assistant"},
                                 {"reasoning_content", "Well, hm."},
                                 {"reasoning", "Well, hm."}},
                                nullptr),
                          chunk({{"content", ""}}, nullptr), chunk({{"content", "fine"}}, "stop"),
                          "[DONE]"));
  EXPECT_EQ(last_response.header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_THAT(std::string(last_response.header("x-request-id")), StartsWith("chatcmpl-"));
}

TEST_F(ServerTest, StreamUsage) {
  answer_with(thinking_answer());
  start();
  auto events = stream("/v1/chat/completions",
                       {{"messages", kHi}, {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(events.size(), 5u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(events[i].at("usage"), nullptr);
    EXPECT_EQ(events[i]["choices"].size(), 1u);
  }
  EXPECT_THAT(events[3]["choices"], IsEmpty());
  EXPECT_EQ(events[3]["usage"]["completion_tokens"], 17);
  EXPECT_EQ(events[3]["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(events[4], "[DONE]");

  events = stream("/v1/chat/completions",
                  {{"messages", kHi}, {"stream_options", {{"continuous_usage_stats", true}}}});
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 9);
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 12);
  EXPECT_EQ(events[2]["usage"]["completion_tokens"], 17);
  EXPECT_EQ(events[0]["usage"]["prompt_tokens"], 7);
}

TEST_F(ServerTest, TheFirstChunkComesWithTheFirstToken) {
  start();
  std::vector<std::string> events;
  std::thread reader([&] {
    (void)client().post_stream("/v1/chat/completions",
                               json{{"messages", kHi}, {"stream", true}}.dump(),
                               [&](std::string_view data) {
                                 events.emplace_back(data);
                                 return true;
                               });
  });
  const std::string id = service.request().request_id;
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(server->num_in_flight(), 1);
  service.emit(id, text_event("x"));
  service.emit(id, end_event(FinishReason::kStop));
  reader.join();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_TRUE(eventually([&] { return server->num_in_flight() == 0; }));
}

TEST_F(ServerTest, SeveralChoicesAndPrompts) {
  service.script = [](const GenerationRequest& request, const EventCallback& on_event) {
    // The second choice ends first.
    const std::string tag(1, static_cast<char>(request.prompt_token_ids.back()));
    on_event(text_event(tag + "0", 0));
    on_event(end_event(FinishReason::kLength, 1, tag + "1"));
    on_event(end_event(FinishReason::kStop, 0, "."));
  };
  start();
  const json response = complete({{"prompt", {"a", "b"}}, {"n", 2}, {"max_tokens", 4}});
  ASSERT_EQ(response["choices"].size(), 4u);
  const char* texts[] = {"a0.", "a1", "b0.", "b1"};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(response["choices"][i]["index"], i);
    EXPECT_EQ(response["choices"][i]["text"], texts[i]);
    EXPECT_EQ(response["choices"][i]["finish_reason"], i % 2 == 0 ? "stop" : "length");
  }
  EXPECT_EQ(response["object"], "text_completion");
  EXPECT_THAT(response["id"].get<std::string>(), StartsWith("cmpl-"));
  // Two prompts of bos and a letter; 4 + 2 tokens each.
  EXPECT_EQ(response["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(response["usage"]["completion_tokens"], 12);
  EXPECT_EQ(response["usage"].contains("completion_tokens_details"), false);
  EXPECT_NE(service.request(0).request_id, service.request(1).request_id);

  const auto events = stream("/v1/completions", {{"prompt", "a"}, {"n", 2}});
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(
      events[0]["choices"][0],
      json({{"index", 0}, {"text", "a0"}, {"logprobs", nullptr}, {"finish_reason", nullptr}}));
  EXPECT_EQ(events[1]["choices"][0]["index"], 1);
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
}

TEST_F(ServerTest, CompletionPrompts) {
  answer_with({end_event(FinishReason::kStop, 0, "!")});
  start();
  complete({{"prompt", "ab"}});
  EXPECT_THAT(service.request(0).prompt_token_ids, ElementsAre(kTestBosId, 'a', 'b'));
  EXPECT_EQ(service.request(0).sampling.max_tokens, 16);
  complete({{"prompt", {97, 98}}, {"max_tokens", 3}, {"cache_salt", "s"}});
  EXPECT_THAT(service.request(1).prompt_token_ids, ElementsAre('a', 'b'));
  EXPECT_EQ(service.request(1).sampling.max_tokens, 3);
  EXPECT_EQ(service.request(1).cache_salt, "s");
  EXPECT_EQ(complete({{"prompt", "ab"}, {"echo", true}})["choices"][0]["text"], "ab!");
  EXPECT_EQ(complete({{"prompt", {97}}, {"echo", true}})["choices"][0]["text"], "a!");
  const auto events = stream("/v1/completions", {{"prompt", "ab"}, {"echo", true}});
  EXPECT_EQ(events[0]["choices"][0]["text"], "ab!");
}

TEST_F(ServerTest, ChatLogprobs) {
  GenerationEvent event = text_event("a");
  event.logprobs = {{'a', -0.5f, {{'a', -0.5f}, {0xe2, -1.0f}}}};
  GenerationEvent end = end_event(FinishReason::kStop);
  end.logprobs = {{kTestEosId, -std::numeric_limits<float>::infinity(), {}}};
  answer_with({event, end});
  start();
  const json response = chat({{"logprobs", true}, {"top_logprobs", 2}});
  EXPECT_EQ(service.request().sampling.num_logprobs, 2);
  const json& content = response["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u);
  EXPECT_EQ(content[0],
            json({{"token", "a"},
                  {"logprob", -0.5},
                  {"bytes", {97}},
                  {"top_logprobs",
                   {{{"token", "a"}, {"logprob", -0.5}, {"bytes", {97}}},
                    {{"token", "bytes:\\xe2"}, {"logprob", -1.0}, {"bytes", {0xe2}}}}}}));
  EXPECT_EQ(content[1]["token"], "<｜end▁of▁sentence｜>");
  EXPECT_EQ(content[1]["logprob"], -9999.0);
  const auto events = stream("/v1/chat/completions", {{"messages", kHi}, {"logprobs", true}});
  EXPECT_EQ(events[0]["choices"][0]["logprobs"]["content"][0]["token"], "a");
}

TEST_F(ServerTest, CompletionLogprobs) {
  // "é" in two tokens, then "b".
  GenerationEvent first = text_event("\xc3\xa9");
  first.logprobs = {{0xc3, -0.5f, {{'x', -0.25f}}}, {0xa9, -1.5f, {{0xa9, -1.5f}}}};
  GenerationEvent second = end_event(FinishReason::kLength, 0, "b");
  second.logprobs = {{'b', -2.0f, {{'b', -2.0f}}}};
  answer_with({first, second});
  start();
  const json logprobs = complete({{"logprobs", 1}})["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"bytes:\\xc3", "bytes:\\xa9", "b"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({-0.5, -1.5, -2.0}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 1, 1}));
  EXPECT_EQ(logprobs["top_logprobs"],
            json({{{"x", -0.25}, {"bytes:\\xc3", -0.5}}, {{"bytes:\\xa9", -1.5}}, {{"b", -2.0}}}));
  const auto events = stream("/v1/completions", {{"prompt", "p"}, {"logprobs", 1}});
  EXPECT_EQ(events[0]["choices"][0]["logprobs"]["text_offset"], json({0, 1}));
  EXPECT_EQ(events[1]["choices"][0]["logprobs"]["text_offset"], json({1}));
}

TEST_F(ServerTest, StopStringsAreHandedOnAndReported) {
  GenerationEvent end = with_ids(end_event(FinishReason::kStop, 0, "on"), {'o', 'n', 'e', '.'});
  end.matched_stop = "e.";
  answer_with({end});
  start();
  const json response = complete({{"stop", "e."}});
  EXPECT_THAT(service.request().sampling.stop, ElementsAre("e."));
  EXPECT_EQ(response["choices"][0]["text"], "on");
  EXPECT_EQ(response["choices"][0]["stop_reason"], "e.");
  EXPECT_EQ(response["choices"][0]["finish_reason"], "stop");
}

TEST_F(ServerTest, TokenIdsAndSpecialTokens) {
  GenerationEvent middle = with_ids(text_event("ab"), {'a', kTestUserId, 'b'});
  answer_with({middle, end_event(FinishReason::kStop)});
  start();
  const json with_ids = complete({{"return_token_ids", true}, {"prompt", "q"}})["choices"][0];
  EXPECT_EQ(with_ids["token_ids"], json({'a', kTestUserId, 'b', kTestEosId}));
  EXPECT_EQ(with_ids["prompt_token_ids"], json({kTestBosId, 'q'}));
  EXPECT_EQ(with_ids["text"], "ab");
  EXPECT_EQ(complete({{"skip_special_tokens", false}})["choices"][0]["text"], "a<｜User｜>b");
  const json chat_response = chat({{"return_token_ids", true}});
  EXPECT_EQ(chat_response["prompt_token_ids"].size(), 7u);
  EXPECT_EQ(chat_response["choices"][0]["token_ids"].size(), 4u);
  const auto events =
      stream("/v1/chat/completions", {{"messages", kHi}, {"return_token_ids", true}});
  EXPECT_EQ(events[0]["prompt_token_ids"].size(), 7u);
  EXPECT_FALSE(events[1].contains("prompt_token_ids"));
}

TEST_F(ServerTest, ContinueFinalMessage) {
  answer_with({end_event(FinishReason::kStop, 0, " is")});
  start();
  chat({{"continue_final_message", true},
        {"messages",
         {{{"role", "user"}, {"content", "q"}}, {{"role", "assistant"}, {"content", "It"}}}}});
  EXPECT_THAT(service.request().prompt_token_ids,
              ElementsAre(kTestBosId, kTestUserId, 'q', kTestAssistantId, 'I', 't'));
  const json open_think = chat({{"continue_final_message", true},
                                {"messages", {{{"role", "assistant"}, {"content", "<think>so"}}}}});
  EXPECT_EQ(open_think["choices"][0]["message"]["reasoning"], " is");
}

TEST_F(ServerTest, Models) {
  ServerConfig config;
  config.served_model_name = "org/tiny r1";
  start(config);
  HttpClient http = client();
  const json list = json::parse(http.get("/v1/models")->body);
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0]["id"], "org/tiny r1");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 256);
  EXPECT_EQ(json::parse(http.get("/v1/models/org%2Ftiny%20r1")->body)["id"], "org/tiny r1");
  EXPECT_EQ(json::parse(http.get("/v1/models/org/tiny%20r1?x=1")->body)["id"], "org/tiny r1");
  EXPECT_EQ(http.get("/v1/models/other")->status, 404);
  EXPECT_EQ(error_of(*http.get("/v1/models/other"))["code"], "model_not_found");
  EXPECT_EQ(http.get("/v1/models/%zz")->status, 400);
  EXPECT_EQ(http.get("/health")->status, 200);
}

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
       {"# TYPE deepflight:kv_pages gauge\n", "\ndeepflight:num_requests_running 3\n",
        "\ndeepflight:kv_pages 100\n", "\ndeepflight:kv_pages_used 7\n",
        "\ndeepflight:kv_pages_cached 5\n", "\ndeepflight:num_requests_in_flight 0\n",
        "\ndeepflight:device_memory_bytes{use=\"weights\"} 11\n"}) {
    EXPECT_THAT(response->body, testing::HasSubstr(line));
  }
  EXPECT_EQ(client().post_json("/metrics", "{}")->status, 405);
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

TEST(ApiKey, MustBeAbleToStandInAHeader) {
  for (const char* key : {"", "a b", "a\n", "caf\xc3\xa9", "\x7f"}) {
    EXPECT_FALSE(ApiKey::parse(key).ok()) << key;
  }
  EXPECT_TRUE(ApiKey::parse("sk-~!").ok());
  EXPECT_TRUE(ApiKey().accepts(""));
}

TEST_F(ServerTest, RoutesMethodsAndTypes) {
  start();
  HttpClient http = client();
  EXPECT_EQ(http.get("/nothing")->status, 404);
  EXPECT_EQ(http.get("/v1/modelsx")->status, 404);
  EXPECT_EQ(error_of(*http.get("/nothing"))["type"], "invalid_request_error");
  EXPECT_EQ(http.get("/v1/chat/completions")->status, 405);
  EXPECT_EQ(http.get("/v1/chat/completions")->header("allow"), "POST");
  EXPECT_EQ(http.post_json("/health", "{}")->status, 405);
  EXPECT_EQ(http.post_json("/v1/models", "{}")->status, 405);
  TestSocket raw(server->port());
  raw.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
      "Content-Length: 2\r\n\r\n{}");
  EXPECT_THAT(raw.read_until("}}"), StartsWith("HTTP/1.1 415 "));
}

TEST_F(ServerTest, RequestErrors) {
  ServerConfig config;
  config.http.max_body_bytes = 100'000;
  start(config);
  const auto expect = [&](const json& body, int status, const json& param, const json& code) {
    const HttpResponse response = post("/v1/chat/completions", body);
    EXPECT_EQ(response.status, status) << response.body;
    EXPECT_EQ(response.header("content-type"), "application/json");
    EXPECT_EQ(error_of(response)["param"], param) << response.body;
    EXPECT_EQ(error_of(response)["code"], code) << response.body;
    EXPECT_EQ(error_of(response)["type"], "invalid_request_error");
  };
  const std::string long_text(300, 'x');
  const json long_prompt = json::array({{{"role", "user"}, {"content", long_text}}});
  expect({{"messages", kHi}, {"temperature", 3}}, 400, "temperature", nullptr);
  expect({{"messages", kHi}, {"model", "other"}}, 404, "model", "model_not_found");
  expect({{"messages", kHi}, {"tools", {1}}}, 400, "tools", "unsupported_parameter");
  expect({{"messages", long_prompt}}, 400, "messages", "context_length_exceeded");
  expect({{"messages", kHi}, {"max_tokens", 250}}, 400, "max_tokens", "context_length_exceeded");
  expect({{"messages", kHi}, {"max_completion_tokens", 250}}, 400, "max_completion_tokens",
         "context_length_exceeded");
  expect({{"messages", kHi}, {"min_tokens", 252}}, 400, "min_tokens", nullptr);
  expect({{"messages", kHi}, {"x", std::string(200'000, 'y')}}, 413, nullptr, nullptr);
  EXPECT_EQ(service.num_requests(), 0u);
}

TEST_F(ServerTest, WithoutATemplateChatIsRefusedAndCompletionsWork) {
  answer_with({end_event(FinishReason::kStop, 0, "!")});
  start({}, false);
  const HttpResponse response = post("/v1/chat/completions", {{"messages", kHi}});
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(error_of(response)["param"], "messages");
  EXPECT_THAT(response.body, HasSubstr("no chat template"));
  complete({});
}

TEST_F(ServerTest, RequestIdHeader) {
  answer_with({end_event(FinishReason::kStop, 0, "!")});
  start();
  const std::string body = json{{"prompt", "a"}}.dump();
  auto response = client({{"X-Request-Id", "mine-42"}}).post_json("/v1/completions", body);
  EXPECT_EQ(response->header("x-request-id"), "mine-42");
  response = client({{"X-Request-Id", "mine-42"}}).get("/health");
  EXPECT_EQ(response->header("x-request-id"), "mine-42");
  response = client({{"X-Request-Id", std::string(200, 'x')}}).post_json("/v1/completions", body);
  EXPECT_THAT(std::string(response->header("x-request-id")), StartsWith("cmpl-"));
  response = client({{"X-Request-Id", "mine-42"}}).post_json("/v1/completions", "{");
  EXPECT_EQ(response->status, 400);
  EXPECT_EQ(response->header("x-request-id"), "mine-42");
}

TEST_F(ServerTest, BigBodiesArePreparedOnOtherThreads) {
  service.info.max_model_len = 1'000'000;
  answer_with({end_event(FinishReason::kStop, 0, "!")});
  start();
  EXPECT_EQ(complete({{"prompt", std::string(200'000, 'x')}})["usage"]["prompt_tokens"], 200'001);
}

TEST_F(ServerTest, EngineErrors) {
  start();
  service.refusal = make_error(ErrorCode::kUnavailable, "the queue is full");
  HttpResponse response = post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(error_of(response)["message"], "the queue is full");
  service.refusal = invalid_argument("prompt is too long");
  EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}}).status, 400);
  service.refusal.reset();

  GenerationEvent broken = end_event(FinishReason::kError);
  broken.error = make_error(ErrorCode::kInternal, "step.cpp:7: CHECK(x) failed");
  answer_with({broken});
  response = post("/v1/completions", {{"prompt", "a"}, {"stream", true}});
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(error_of(response)["type"], "server_error");
  EXPECT_EQ(response.body.find("step.cpp"), std::string::npos);

  answer_with({text_event("a"), broken});
  const auto events = stream("/v1/completions", {{"prompt", "a"}, {"n", 2}});
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events[events.size() - 2]["error"]["type"], "server_error");
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_TRUE(eventually([&] { return server->num_in_flight() == 0; }));
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
