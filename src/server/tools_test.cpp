// Tools over HTTP, against a scripted engine: what the model is told, what the client gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/server_fixture.h"
#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const json kWeather = {
    {"type", "function"},
    {"function",
     {{"name", "get_weather"},
      {"description", "Weather of a place."},
      {"parameters", {{"type", "object"}, {"properties", {{"city", {{"type", "string"}}}}}}}}}};
const json kTime = {{"type", "function"}, {"function", {{"name", "get_time"}}}};
const json kTools = json::array({kWeather, kTime});
constexpr const char* kParis = R"({"city": "Paris"})";

std::string call(const std::string& name, const std::string& arguments) {
  return std::string(kToolCallBegin) + name + std::string(kToolSeparator) + arguments +
         std::string(kToolCallEnd);
}
std::string calls(const std::string& inside) {
  return std::string(kToolCallsBegin) + inside + std::string(kToolCallsEnd);
}

class ToolsTest : public ServerTest {
 protected:
  void SetUp() override {
    service.info.max_model_len = 4096;
    start();
  }
  // The prompt that the engine got, as text.
  std::string prompt(size_t index = 0) {
    return tokenizer.decode(service.request(index).prompt_token_ids, false);
  }
  json without_thinking(json body) {
    body["chat_template_kwargs"] = {{"thinking", false}};
    return body;
  }
};

TEST_F(ToolsTest, CallsAreTakenOutOfTheContent) {
  answer_with({text_event("Hm.</think>\n\nI look. " +
                          calls(call("get_weather", kParis) + call("get_time", "{}"))),
               end_event(FinishReason::kStop)});
  const json choice = chat({{"tools", kTools}})["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["reasoning_content"], "Hm.");
  EXPECT_EQ(choice["message"]["content"], "I look.");
  const json& got = choice["message"]["tool_calls"];
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0]["type"], "function");
  EXPECT_EQ(got[0]["function"], (json{{"name", "get_weather"}, {"arguments", kParis}}));
  EXPECT_EQ(got[1]["function"], (json{{"name", "get_time"}, {"arguments", "{}"}}));
  EXPECT_THAT(got[0]["id"].get<std::string>(), StartsWith("call_"));
  EXPECT_NE(got[0]["id"], got[1]["id"]);
}

TEST_F(ToolsTest, ACallAloneHasNullContent) {
  answer_with({text_event(calls(call("get_time", "{}"))), end_event(FinishReason::kStop)});
  const json message = chat(without_thinking({{"tools", kTools}}))["choices"][0]["message"];
  EXPECT_EQ(message["content"], nullptr);
  EXPECT_EQ(message["tool_calls"].size(), 1u);
}

TEST_F(ToolsTest, WithoutACallNothingChanges) {
  answer_with({text_event("fine"), end_event(FinishReason::kStop)});
  const json choice = chat(without_thinking({{"tools", kTools}}))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["message"]["content"], "fine");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
}

TEST_F(ToolsTest, StreamedCalls) {
  const std::string text = "Ok. " + calls(call("get_weather", kParis) + call("get_time", "{}"));
  std::vector<GenerationEvent> events;
  for (const char byte : text) events.push_back(text_event(std::string(1, byte)));
  events.push_back(end_event(FinishReason::kStop));
  answer_with(events);
  std::string content, finish_reason;
  json got = json::array();
  for (const json& event :
       stream("/v1/chat/completions", without_thinking({{"messages", kHi}, {"tools", kTools}}))) {
    if (event == "[DONE]") continue;
    const json& choice = event["choices"][0];
    if (choice["finish_reason"].is_string()) finish_reason = choice["finish_reason"];
    const json& delta = choice["delta"];
    if (delta.contains("content")) content += delta["content"];
    if (!delta.contains("tool_calls")) continue;
    for (const json& piece : delta["tool_calls"]) {
      const size_t index = piece["index"];
      if (index == got.size()) {
        EXPECT_EQ(piece["type"], "function");
        EXPECT_THAT(piece["id"].get<std::string>(), StartsWith("call_"));
        got.push_back(piece["function"]);
      } else {
        ASSERT_EQ(index + 1, got.size());
        EXPECT_FALSE(piece.contains("id"));
        got.back()["arguments"] = got.back()["arguments"].get<std::string>() +
                                  piece["function"]["arguments"].get<std::string>();
      }
    }
  }
  EXPECT_EQ(content, "Ok.");
  EXPECT_EQ(finish_reason, "tool_calls");
  EXPECT_EQ(got, (json{{{"name", "get_weather"}, {"arguments", kParis}},
                       {{"name", "get_time"}, {"arguments", "{}"}}}));
}

TEST_F(ToolsTest, TheModelIsToldInTheOrderOfTheRequest) {
  answer_with({end_event(FinishReason::kStop)});
  // Keys as a client writes them, not sorted.
  const std::string body =
      R"({"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function":)"
      R"( {"name": "f", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}}]})";
  EXPECT_EQ(client().post_json("/v1/chat/completions", body)->status, 200);
  EXPECT_THAT(prompt(), HasSubstr("### f\nParameters (JSON schema): "
                                  R"({"type":"object","properties":{"b":{},"a":{}}})"));
  EXPECT_THAT(prompt(),
              HasSubstr("NAME<｜tool▁sep｜>{\"argument\": \"value\"}<｜tool▁call▁end｜>"));
  chat({{"messages",
         {{{"role", "system"}, {"content", "Be brief."}}, {{"role", "user"}, {"content", "hi"}}}},
        {"tools", kTools}});
  EXPECT_THAT(prompt(1), StartsWith("<｜begin▁of▁sentence｜>Be brief.\n\n## Tools"));
  chat({{"tools", kTools}, {"tool_choice", "none"}});
  EXPECT_THAT(prompt(2), Not(HasSubstr("Tools")));
}

TEST_F(ToolsTest, ANamedFunctionIsBegunInThePrompt) {
  answer_with(
      {text_event(R"({"city": "Rome"})" + std::string(kToolCallEnd) + std::string(kToolCallsEnd)),
       end_event(FinishReason::kStop)});
  const json choice =
      chat({{"tools", kTools},
            {"tool_choice",
             {{"type", "function"}, {"function", {{"name", "get_weather"}}}}}})["choices"][0];
  EXPECT_THAT(prompt(), testing::EndsWith("<think>\n\n</think>\n\n<｜tool▁calls▁begin｜>"
                                          "<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"],
            (json{{"name", "get_weather"}, {"arguments", R"({"city": "Rome"})"}}));
}

TEST_F(ToolsTest, ARequiredCallIsBegunInThePrompt) {
  answer_with(
      {text_event("get_time<｜tool▁sep｜>{}" + std::string(kToolCallEnd) + call("get_time", "{}")),
       end_event(FinishReason::kStop)});
  const json choice = chat({{"tools", kTools},
                            {"tool_choice", "required"},
                            {"parallel_tool_calls", false}})["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1u);
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["name"], "get_time");
}

TEST_F(ToolsTest, FormerCallsAndAnswersReachTheTemplate) {
  answer_with({text_event("18 degrees"), end_event(FinishReason::kStop)});
  const json messages = {{{"role", "user"}, {"content", "Weather?"}},
                         {{"role", "assistant"},
                          {"content", nullptr},
                          {"tool_calls",
                           {{{"id", "call_1"},
                             {"type", "function"},
                             {"function", {{"name", "get_weather"}, {"arguments", kParis}}}}}}},
                         {{"role", "tool"}, {"tool_call_id", "call_1"}, {"content", "18"}}};
  chat({{"messages", messages}, {"tools", kTools}});
  EXPECT_THAT(
      prompt(),
      HasSubstr(
          R"([calls [{"id": "call_1", "type": "function", "function": {"name": "get_weather", )"
          R"("arguments": "{\"city\": \"Paris\"}"}}]])"));
  EXPECT_THAT(prompt(), HasSubstr("<｜User｜>18"));
}

TEST_F(ToolsTest, BadTools) {
  const auto function = [](json parts) {
    return json{{"tools", {{{"type", "function"}, {"function", std::move(parts)}}}}};
  };
  const std::pair<json, const char*> bodies[] = {
      {{{"tools", 3}}, "tools"},
      {{{"tools", {3}}}, "tools[0]"},
      {{{"tools", {{{"type", "retrieval"}}}}}, "tools[0].type"},
      {{{"tools", {{{"type", "function"}}}}}, "tools[0].function"},
      {function(json::object()), "tools[0].function.name"},
      {function({{"name", "a b"}}), "tools[0].function.name"},
      {function({{"name", std::string(65, 'a')}}), "tools[0].function.name"},
      {function({{"name", "f"}, {"description", 1}}), "tools[0].function.description"},
      {function({{"name", "f"}, {"parameters", "x"}}), "tools[0].function.parameters"},
      {{{"tools", json::array()}, {"tool_choice", "required"}}, "tool_choice"},
      {{{"tool_choice", {{"type", "function"}, {"function", {{"name", "f"}}}}}}, "tool_choice"},
      {{{"tools", kTools}, {"tool_choice", "some"}}, "tool_choice"},
      {{{"tools", kTools}, {"tool_choice", {{"function", {{"name", "f"}}}}}}, "tool_choice"},
      {{{"tools", kTools}, {"tool_choice", {{"type", "x"}}}}, "tool_choice.type"},
      {{{"tools", kTools}, {"parallel_tool_calls", "no"}}, "parallel_tool_calls"},
      {{{"tools", std::vector<json>(129, kTime)}}, "tools"},
      {{{"messages",
         {{{"role", "user"},
           {"content", "x"},
           {"tool_calls", {{{"function", {{"name", "f"}}}}}}}}}},
       "messages[0].tool_calls"},
      {{{"messages", {{{"role", "assistant"}, {"tool_calls", {{{"function", json::object()}}}}}}}},
       "messages[0].tool_calls[0].function.name"},
  };
  for (auto [body, param] : bodies) {
    if (!body.contains("messages")) body["messages"] = kHi;
    const HttpResponse response = post("/v1/chat/completions", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_EQ(error_of(response)["param"], param) << body;
  }
  EXPECT_EQ(service.num_requests(), 0u);
}

}  // namespace
}  // namespace deepflight
