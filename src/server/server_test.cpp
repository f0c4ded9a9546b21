// The whole API over HTTP, against a scripted engine: what is submitted, what comes back, exactly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "net/test_socket.h"
#include "server/server_fixture.h"

namespace deepflight {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

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

TEST_F(ServerTest, UsageTellsWhatBecameOfDrafts) {
  auto events = thinking_answer();
  events.front().num_drafts = 3;
  events.front().num_accepted_drafts = 2;
  events.back().num_drafts = 3;
  service.info.draft_len = 3;
  answer_with(std::move(events));
  start();
  const json details = chat({{"model", "tiny"}})["usage"]["completion_tokens_details"];
  EXPECT_EQ(details, json({{"reasoning_tokens", 10},
                           {"accepted_prediction_tokens", 2},
                           {"rejected_prediction_tokens", 4}}));
  EXPECT_TRUE(service.request().sampling.use_drafts);
}

TEST_F(ServerTest, DraftsAreSwitchedOffByRequestAndSimulationIsLabelled) {
  service.info.draft_len = 1;
  service.info.simulated_acceptance = 0.5f;
  answer_with({text_event("hello"), end_event(FinishReason::kStop)});
  start();
  EXPECT_EQ(chat({{"mtp", false}})["usage"]["simulated_acceptance"], 0.5);
  EXPECT_FALSE(service.request().sampling.use_drafts);
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

TEST_F(ServerTest, Tokenize) {
  start();
  const auto ask = [&](const std::string& path, const json& body) {
    const HttpResponse response = post(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return json::parse(response.body);
  };
  EXPECT_EQ(ask("/tokenize", {{"prompt", "ab"}}), (json{{"count", 3},
                                                        {"max_model_len", 256},
                                                        {"tokens", {kTestBosId, 'a', 'b'}},
                                                        {"token_strs", nullptr}}));
  EXPECT_EQ(ask("/tokenize", {{"prompt", "ab"}, {"add_special_tokens", false}})["tokens"],
            (json{'a', 'b'}));
  const json chat = ask("/tokenize", {{"messages", kHi}, {"return_token_strs", true}});
  EXPECT_EQ(chat["tokens"],
            (json{kTestBosId, kTestUserId, 'h', 'i', kTestAssistantId, kTestThinkId, '\n'}));
  EXPECT_EQ(chat["token_strs"][5], "<think>");
  EXPECT_EQ(ask("/tokenize", {{"prompt", std::string(100'000, 'x')}})["count"], 100'001);
  EXPECT_EQ(ask("/detokenize", {{"tokens", chat["tokens"]}})["prompt"],
            "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>\n");
  for (const auto& [path, body, param] :
       {std::tuple<const char*, json, json>{"/tokenize", json::object(), "prompt"},
        {"/tokenize", {{"prompt", 3}}, "prompt"},
        {"/tokenize", {{"messages", json::array()}}, "messages"},
        {"/tokenize", json::array(), nullptr},
        {"/detokenize", json::object(), "tokens"},
        {"/detokenize", {{"tokens", {-1}}}, "tokens"},
        {"/detokenize", {{"tokens", {kTestVocabSize}}}, "tokens"},
        {"/detokenize", {{"tokens", "x"}}, "tokens"}}) {
    const HttpResponse response = post(path, body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_EQ(error_of(response)["param"], param) << body;
  }
  EXPECT_EQ(client().get("/tokenize")->status, 405);
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
  expect({{"messages", kHi}, {"functions", {1}}}, 400, "functions", "unsupported_parameter");
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

}  // namespace
}  // namespace deepflight
