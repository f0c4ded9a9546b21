// What a request's fields make of its output: through the server to an engine that writes at random
// whatever the constraint lets it.
#include "server/response_format.h"

#include <gmock/gmock.h>

#include <random>

#include "server/server_fixture.h"
#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

using ::testing::HasSubstr;

const char* const kSchema = R"({"type":"object","properties":{"z":{"type":"integer","minimum":0,
    "maximum":99},"a":{"type":"array","items":{"enum":["x","y"]},"maxItems":2}},
    "required":["z","a"],"additionalProperties":false})";

json schema_format(const json& schema) {
  return {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", schema}}}};
}

json tool(const std::string& name, const json& parameters, bool strict = false) {
  json function = {{"name", name}, {"parameters", parameters}};
  if (strict) function["strict"] = true;
  return {{"type", "function"}, {"function", function}};
}

class ResponseFormatTest : public ServerTest {
 protected:
  void SetUp() override { service.info.max_model_len = 4096; }  // descriptions of tools are long

  // The engine thinks for a while where it is free to, then writes what may come at random.
  void write_at_random() {
    service.script = [this](const GenerationRequest& request, const EventCallback& on_event) {
      last_constraint = request.constraint;
      for (int i = 0; i < request.sampling.num_choices; ++i) {
        GenerationEvent event;
        event.choice_idx = i;
        event.token_ids = random_output(request.constraint);
        std::vector<int32_t> text = event.token_ids;
        if (!text.empty()) text.pop_back();
        event.text = tokenizer.decode(text, true);
        event.finish_reason = FinishReason::kStop;
        on_event(std::move(event));
      }
    };
  }
  std::vector<int32_t> random_output(const OutputConstraint& constraint) {
    std::vector<int32_t> output = {'h', 'm'};
    if (!constraint) return output;
    ConstraintState state(constraint);
    if (state.active()) output.clear();
    if (!state.active()) {
      output.push_back(constraint.after_token);
      CHECK(state.take(constraint.after_token));
    }
    while (!state.ended()) {
      const auto mask = state.mask();
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < kTestVocabSize; ++id) {
        if (allows_token(*mask, id)) allowed.push_back(id);
      }
      output.push_back(allowed.at(random_() % allowed.size()));
      CHECK(state.take(output.back()), output.back());
    }
    return output;
  }

  OutputConstraint last_constraint;

 private:
  std::mt19937 random_{11};
};

TEST_F(ResponseFormatTest, DocumentsComeAfterThinking) {
  start();
  write_at_random();
  for (int i = 0; i < 20; ++i) {
    // As text: a json object would sort the schema's keys.
    const auto response = client().post_json(
        "/v1/chat/completions",
        std::string(R"({"messages":[{"role":"user","content":"hi"}],"n":2,"response_format":)"
                    R"({"type":"json_schema","json_schema":{"name":"n","schema":)") +
            kSchema + "}}}");
    ASSERT_TRUE(response.ok());
    ASSERT_EQ(response->status, 200) << response->body;
    const json answer = json::parse(response->body);
    for (const json& choice : answer["choices"]) {
      const json& message = choice["message"];
      EXPECT_EQ(message["reasoning_content"], "hm");
      const auto content = message["content"].get<std::string>();
      const auto document = nlohmann::ordered_json::parse(content);
      // In the order of the schema, not of the alphabet.
      EXPECT_EQ(document.begin().key(), "z") << content;
      EXPECT_LE(document["a"].size(), 2u);
    }
  }
  EXPECT_EQ(last_constraint.after_token, kTestThinkEndId);
  EXPECT_TRUE(last_constraint.is_required);
}

TEST_F(ResponseFormatTest, WithoutThinkingTheyComeAtOnce) {
  start();
  write_at_random();
  const json answer = chat({{"response_format", {{"type", "json_object"}}},
                            {"chat_template_kwargs", {{"thinking", false}}}});
  EXPECT_TRUE(
      json::parse(answer["choices"][0]["message"]["content"].get<std::string>()).is_object());
  EXPECT_EQ(last_constraint.after_token, OutputConstraint::kFromTheStart);
  const json completion = complete({{"response_format", schema_format({{"const", "ok"}})}});
  EXPECT_EQ(completion["choices"][0]["text"], "\"ok\"");
  chat({{"response_format", {{"type", "text"}}}});
  EXPECT_FALSE(last_constraint);
}

TEST_F(ResponseFormatTest, RequiredCallsFollowTheirSchemas) {
  start();
  write_at_random();
  const json tools = {tool("count", json::parse(kSchema)), tool("stop", json(nullptr))};
  std::map<std::string, int> called;
  for (int i = 0; i < 30; ++i) {
    const json answer = chat({{"tools", tools}, {"tool_choice", "required"}});
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "tool_calls");
    for (const json& call : answer["choices"][0]["message"]["tool_calls"]) {
      const auto name = call["function"]["name"].get<std::string>();
      const json arguments = json::parse(call["function"]["arguments"].get<std::string>());
      ++called[name];
      EXPECT_EQ(arguments.contains("z"), name == "count") << arguments;
      EXPECT_EQ(arguments.empty(), name == "stop");
    }
  }
  EXPECT_GT(called["count"], 0);
  EXPECT_GT(called["stop"], 0);
  EXPECT_EQ(called.size(), 2u);
}

TEST_F(ResponseFormatTest, NamedCallsAreOne) {
  start();
  write_at_random();
  const json tools = {tool("other", {{"const", 1}}), tool("count", json::parse(kSchema))};
  const json answer =
      chat({{"tools", tools},
            {"tool_choice", {{"type", "function"}, {"function", {{"name", "count"}}}}}});
  const json& calls = answer["choices"][0]["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_TRUE(json::parse(calls[0]["function"]["arguments"].get<std::string>()).contains("z"));
}

TEST_F(ResponseFormatTest, StrictToolsAreHeldOnceACallBegins) {
  start();
  write_at_random();
  const json loose = {tool("count", json::parse(kSchema))};
  chat({{"tools", loose}});
  EXPECT_FALSE(last_constraint);
  const json strict = {tool("count", json::parse(kSchema), true), tool("other", json::object())};
  const json answer = chat({{"tools", strict}, {"chat_template_kwargs", {{"thinking", false}}}});
  EXPECT_EQ(last_constraint.after_token, kTestToolCallsBeginId);
  EXPECT_FALSE(last_constraint.is_required);
  for (const json& call : answer["choices"][0]["message"]["tool_calls"]) {
    EXPECT_TRUE(json::accept(call["function"]["arguments"].get<std::string>()));
  }
}

// With both, the answer is a document or calls.
TEST_F(ResponseFormatTest, FormatsAndToolsTogether) {
  start();
  write_at_random();
  int num_documents = 0, num_calls = 0;
  for (int i = 0; i < 40; ++i) {
    const json answer = chat({{"tools", {tool("stop", json(nullptr))}},
                              {"response_format", schema_format({{"enum", {"a", "b"}}})}});
    const json& message = answer["choices"][0]["message"];
    if (message.contains("tool_calls")) {
      ++num_calls;
    } else {
      ++num_documents;
      EXPECT_TRUE(json::parse(message["content"].get<std::string>()).is_string());
    }
  }
  EXPECT_GT(num_documents, 0);
  EXPECT_GT(num_calls, 0);
}

TEST_F(ResponseFormatTest, WhatCannotBeHeldIsRefusedByName) {
  start();
  const std::pair<json, std::pair<std::string, std::string>> cases[] = {
      {{{"response_format", 1}}, {"response_format", "an object with a type"}},
      {{{"response_format", {{"type", "xml"}}}}, {"response_format", "json_schema"}},
      {{{"response_format", {{"type", "json_schema"}}}}, {"response_format.json_schema", "schema"}},
      {{{"response_format", {{"type", "json_schema"}, {"json_schema", {{"name", "x"}}}}}},
       {"response_format.json_schema.schema", "is required"}},
      {{{"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"strict", 1}, {"schema", json::object()}}}}}},
       {"response_format.json_schema.strict", "boolean"}},
      {{{"response_format", schema_format({{"not", json::object()}})}},
       {"response_format", "schema: the keyword \"not\" is not supported"}},
      {{{"response_format", schema_format({{"type", "integer"}, {"minimum", 3}, {"maximum", 2}})}},
       {"response_format", "nothing can satisfy it"}},
      {{{"tools", {tool("f", {{"not", json::object()}}, true)}}},
       {"tools", "f: schema: the keyword \"not\" is not supported"}},
      {{{"response_format", {{"type", "json_object"}}},
        {"continue_final_message", true},
        {"messages", {{{"role", "assistant"}, {"content", "x"}}}}},
       {"continue_final_message", "together with response_format"}},
  };
  for (const auto& [fields, want] : cases) {
    json body = fields;
    if (!body.contains("messages")) body["messages"] = kHi;
    const HttpResponse response = post("/v1/chat/completions", body);
    EXPECT_EQ(response.status, 400) << fields;
    EXPECT_EQ(error_of(response)["param"], want.first) << response.body;
    EXPECT_THAT(error_of(response)["message"].get<std::string>(), HasSubstr(want.second));
  }
  // A tool that is not strict is called with any object then.
  write_at_random();
  const json answer = chat({{"tools", {tool("f", {{"not", json::object()}})}},
                            {"tool_choice", "required"},
                            {"parallel_tool_calls", false}});
  const json& call = answer["choices"][0]["message"]["tool_calls"][0];
  EXPECT_TRUE(json::parse(call["function"]["arguments"].get<std::string>()).is_object());
}

TEST_F(ResponseFormatTest, ATokenizerWithoutAllBytesHasNone) {
  service.info.eos_token_ids.clear();
  start();
  const HttpResponse response = post(
      "/v1/chat/completions", {{"messages", kHi}, {"response_format", {{"type", "json_object"}}}});
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(error_of(response)["param"], "response_format");
}

}  // namespace
}  // namespace deepflight
