// Every field of a request: what it becomes, and which error names it when it is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/api_request.h"

namespace deepflight {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

const RequestLimits kLimits{.vocab_size = 1000, .max_model_len = 4096};

const json kChat = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
const json kCompletion = {{"prompt", "hi"}};

ApiResult<ApiRequest> parse(Endpoint endpoint, const json& extra) {
  json body = endpoint == Endpoint::kChat ? kChat : kCompletion;
  body.update(extra);
  return parse_api_request(endpoint, body.dump(), kLimits);
}

ApiRequest parsed(Endpoint endpoint, const json& extra) {
  auto result = parse(endpoint, extra);
  if (const auto* error = std::get_if<ApiError>(&result)) {
    ADD_FAILURE() << extra << ": " << error->message;
    return {};
  }
  return std::get<ApiRequest>(std::move(result));
}

ApiRequest chat(const json& extra = json::object()) { return parsed(Endpoint::kChat, extra); }
ApiRequest completion(const json& extra = json::object()) {
  return parsed(Endpoint::kCompletions, extra);
}

TEST(RequestParser, Defaults) {
  const ApiRequest request = chat();
  EXPECT_EQ(request.model, "");
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.num_choices, 1);
  EXPECT_FALSE(request.sampling.num_logprobs);
  EXPECT_FALSE(request.max_tokens);
  EXPECT_FALSE(request.output.stream);
  EXPECT_TRUE(request.output.separate_reasoning);
  EXPECT_TRUE(request.output.skip_special_tokens);
  EXPECT_TRUE(request.add_generation_prompt);
  EXPECT_FALSE(request.thinking);
  ASSERT_EQ(request.messages.size(), 1u);
  EXPECT_EQ(request.messages[0].role, "user");
  EXPECT_EQ(request.messages[0].content, "hi");
}

TEST(RequestParser, SamplingFields) {
  const SamplingParams sampling = chat({{"temperature", 0.25},
                                        {"top_p", 0.5},
                                        {"top_k", 40},
                                        {"min_p", 0.05},
                                        {"repetition_penalty", 1.1},
                                        {"presence_penalty", -1.5},
                                        {"frequency_penalty", 2},
                                        {"n", 3},
                                        {"seed", 42},
                                        {"stop", {"a", "b"}},
                                        {"stop_token_ids", {7, 8}},
                                        {"ignore_eos", true},
                                        {"min_tokens", 5},
                                        {"logit_bias", {{"3", -100}, {"4", 1.5}}}})
                                      .sampling;
  EXPECT_FLOAT_EQ(sampling.temperature, 0.25f);
  EXPECT_FLOAT_EQ(sampling.top_p, 0.5f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.05f);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(sampling.presence_penalty, -1.5f);
  EXPECT_FLOAT_EQ(sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(sampling.num_choices, 3);
  EXPECT_EQ(sampling.seed, 42u);
  EXPECT_THAT(sampling.stop, ElementsAre("a", "b"));
  EXPECT_THAT(sampling.stop_token_ids, ElementsAre(7, 8));
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_EQ(sampling.min_tokens, 5);
  EXPECT_THAT(sampling.logit_bias, UnorderedElementsAre(Pair(3, -100.0f), Pair(4, 1.5f)));
}

TEST(RequestParser, OtherSpellings) {
  EXPECT_THAT(chat({{"stop", "x"}}).sampling.stop, ElementsAre("x"));
  EXPECT_THAT(chat({{"stop", nullptr}}).sampling.stop, IsEmpty());
  EXPECT_EQ(chat({{"top_k", -1}}).sampling.top_k, -1);
  EXPECT_EQ(chat({{"n", 2.0}}).sampling.num_choices, 2);
  EXPECT_EQ(chat({{"seed", -1}}).sampling.seed, ~uint64_t{0});
  EXPECT_EQ(chat({{"seed", ~uint64_t{0}}}).sampling.seed, ~uint64_t{0});
  EXPECT_EQ(chat({{"best_of", 2}, {"n", 2}}).sampling.num_choices, 2);
  EXPECT_EQ(chat({{"temperature", 0}}).sampling.greedy(), true);
  EXPECT_EQ(chat({{"temperature", nullptr}}).sampling.temperature, 1.0f);
}

TEST(RequestParser, MaxTokens) {
  EXPECT_EQ(chat({{"max_tokens", 9}}).max_tokens, 9);
  EXPECT_EQ(chat({{"max_completion_tokens", 8}}).max_tokens, 8);
  const ApiRequest both = chat({{"max_tokens", 9}, {"max_completion_tokens", 8}});
  EXPECT_EQ(both.max_tokens, 8);
  EXPECT_EQ(both.max_tokens_param, "max_completion_tokens");
  EXPECT_EQ(completion({{"max_tokens", 7}}).max_tokens, 7);
  EXPECT_EQ(completion({{"max_completion_tokens", 6}}).max_tokens, 6);
}

TEST(RequestParser, OutputFields) {
  const ApiRequest request =
      chat({{"model", "m"},
            {"stream", true},
            {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}},
            {"return_token_ids", true},
            {"separate_reasoning", false},
            {"skip_special_tokens", false},
            {"cache_salt", "tenant"},
            {"user", "somebody"}});
  EXPECT_EQ(request.model, "m");
  EXPECT_TRUE(request.output.stream);
  EXPECT_TRUE(request.output.include_usage);
  EXPECT_TRUE(request.output.continuous_usage_stats);
  EXPECT_TRUE(request.output.return_token_ids);
  EXPECT_FALSE(request.output.separate_reasoning);
  EXPECT_FALSE(request.output.skip_special_tokens);
  EXPECT_EQ(request.cache_salt, "tenant");
  EXPECT_TRUE(completion({{"echo", true}}).output.echo);
}

TEST(RequestParser, Logprobs) {
  EXPECT_EQ(chat({{"logprobs", true}}).sampling.num_logprobs, 0);
  EXPECT_EQ(chat({{"logprobs", true}, {"top_logprobs", 5}}).sampling.num_logprobs, 5);
  EXPECT_FALSE(chat({{"logprobs", false}, {"top_logprobs", 0}}).sampling.num_logprobs);
  EXPECT_EQ(completion({{"logprobs", 3}}).sampling.num_logprobs, 3);
  EXPECT_TRUE(completion({{"logprobs", 0}}).output.logprobs);
  EXPECT_FALSE(completion({{"logprobs", nullptr}}).output.logprobs);
}

TEST(RequestParser, Messages) {
  const ApiRequest request =
      chat({{"messages",
             {{{"role", "developer"}, {"content", "be brief"}},
              {{"role", "user"},
               {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}}},
               {"name", "ann"}},
              {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", json::array()}},
              {{"role", "tool"}, {"content", "42"}, {"tool_call_id", "x"}}}}});
  ASSERT_EQ(request.messages.size(), 4u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].content, "ab");
  EXPECT_EQ(request.messages[2].content, "");
  EXPECT_EQ(request.messages[3].role, "tool");
}

TEST(RequestParser, TemplateOptions) {
  EXPECT_EQ(chat({{"chat_template_kwargs", {{"thinking", true}}}}).thinking, true);
  EXPECT_EQ(chat({{"chat_template_kwargs", {{"enable_thinking", false}}}}).thinking, false);
  EXPECT_FALSE(chat({{"add_generation_prompt", false}}).add_generation_prompt);
  const ApiRequest request = chat({{"continue_final_message", true},
                                   {"messages", {{{"role", "assistant"}, {"content", "It is"}}}}});
  EXPECT_TRUE(request.continue_final_message);
  EXPECT_FALSE(request.add_generation_prompt);
}

TEST(RequestParser, Prompts) {
  using Ids = std::vector<int32_t>;
  const auto prompts = [](const json& prompt) { return completion({{"prompt", prompt}}).prompts; };
  EXPECT_THAT(prompts("text"), ElementsAre(ApiPrompt("text")));
  EXPECT_THAT(prompts({"a", "b"}), ElementsAre(ApiPrompt("a"), ApiPrompt("b")));
  EXPECT_THAT(prompts({1, 2}), ElementsAre(ApiPrompt(Ids{1, 2})));
  EXPECT_THAT(prompts(json::array({{1, 2}, {3}})),
              ElementsAre(ApiPrompt(Ids{1, 2}), ApiPrompt(Ids{3})));
}

TEST(RequestParser, UnknownFieldsAreIgnoredOnlyWhenAskedTo) {
  RequestLimits limits = kLimits;
  limits.ignore_unknown_fields = true;
  json body = kChat;
  body["max_token"] = 5;
  EXPECT_TRUE(
      std::holds_alternative<ApiRequest>(parse_api_request(Endpoint::kChat, body.dump(), limits)));
  const auto refused = parse_api_request(Endpoint::kChat, body.dump(), kLimits);
  EXPECT_EQ(std::get<ApiError>(refused).code, "unknown_parameter");
  EXPECT_EQ(std::get<ApiError>(refused).message, "unrecognized field: max_token");
}

TEST(RequestParser, HarmlessFieldsAreIgnored) {
  chat({{"metadata", {{"k", "v"}}}, {"service_tier", "auto"}, {"no_such_field", nullptr}});
  chat({{"echo", false}, {"length_penalty", 1.0}, {"include_reasoning", true}});
  chat({{"tools", json::array()}, {"tool_choice", "none"}, {"parallel_tool_calls", true}});
  chat({{"response_format", {{"type", "text"}}}, {"modalities", {"text"}}, {"store", false}});
  completion({{"suffix", nullptr}, {"use_beam_search", false}});
}

struct BadField {
  Endpoint endpoint;
  json extra;
  std::string param;
};

TEST(RequestParser, EachErrorNamesItsField) {
  constexpr Endpoint kC = Endpoint::kChat;
  constexpr Endpoint kT = Endpoint::kCompletions;
  const json user = {{"role", "user"}, {"content", "x"}};
  const auto messages = [](json list) { return json{{"messages", std::move(list)}}; };
  const auto one = [&](json message) { return messages(json::array({std::move(message)})); };
  const std::vector<BadField> cases = {
      {kC, {{"model", 5}}, "model"},
      {kC, {{"temperature", -0.1}}, "temperature"},
      {kC, {{"temperature", 2.1}}, "temperature"},
      {kC, {{"temperature", "1"}}, "temperature"},
      {kC, {{"temperature", true}}, "temperature"},
      {kC, {{"temperature", 1e300}}, "temperature"},
      {kC, {{"top_p", 0}}, "top_p"},
      {kC, {{"top_p", 1e-300}}, "top_p"},
      {kC, {{"top_p", 1.01}}, "top_p"},
      {kC, {{"top_k", -2}}, "top_k"},
      {kC, {{"top_k", 1.5}}, "top_k"},
      {kC, {{"top_k", int64_t{1} << 40}}, "top_k"},
      {kC, {{"min_p", 1.5}}, "min_p"},
      {kC, {{"repetition_penalty", 0}}, "repetition_penalty"},
      {kC, {{"presence_penalty", 2.5}}, "presence_penalty"},
      {kC, {{"frequency_penalty", -2.5}}, "frequency_penalty"},
      {kC, {{"n", 0}}, "n"},
      {kC, {{"n", 129}}, "n"},
      {kC, {{"n", "2"}}, "n"},
      {kC, {{"seed", 1.5}}, "seed"},
      {kC, {{"seed", "x"}}, "seed"},
      {kC, {{"max_tokens", 0}}, "max_tokens"},
      {kC, {{"max_tokens", -1}}, "max_tokens"},
      {kC, {{"max_tokens", 99999999999}}, "max_tokens"},
      {kC, {{"max_completion_tokens", 0}}, "max_completion_tokens"},
      {kC, {{"min_tokens", -1}}, "min_tokens"},
      {kC, {{"min_tokens", 5}, {"max_tokens", 4}}, "min_tokens"},
      {kC, {{"stop", 1}}, "stop"},
      {kC, {{"stop", ""}}, "stop"},
      {kC, {{"stop", json::array({1})}}, "stop"},
      {kC, {{"stop", std::vector<std::string>(17, "x")}}, "stop"},
      {kC, {{"stop", std::string(2000, 'x')}}, "stop"},
      {kC, {{"stop_token_ids", 5}}, "stop_token_ids"},
      {kC, {{"stop_token_ids", {1000}}}, "stop_token_ids"},
      {kC, {{"stop_token_ids", {-1}}}, "stop_token_ids"},
      {kC, {{"stop_token_ids", std::vector<int>(65, 1)}}, "stop_token_ids"},
      {kC, {{"logit_bias", {1, 2}}}, "logit_bias"},
      {kC, {{"logit_bias", {{"x", 1}}}}, "logit_bias"},
      {kC, {{"logit_bias", {{"1000", 1}}}}, "logit_bias"},
      {kC, {{"logit_bias", {{"-1", 1}}}}, "logit_bias"},
      {kC, {{"logit_bias", {{"1", 101}}}}, "logit_bias"},
      {kC, {{"logit_bias", {{"1", "x"}}}}, "logit_bias"},
      {kC, {{"ignore_eos", 1}}, "ignore_eos"},
      {kC, {{"stream", "yes"}}, "stream"},
      {kC, {{"stream_options", {{"include_usage", true}}}}, "stream_options"},
      {kC, {{"stream", true}, {"stream_options", 1}}, "stream_options"},
      {kC,
       {{"stream", true}, {"stream_options", {{"include_usage", 1}}}},
       "stream_options.include_usage"},
      {kC, {{"logprobs", 5}}, "logprobs"},
      {kC, {{"top_logprobs", 5}}, "top_logprobs"},
      {kC, {{"logprobs", true}, {"top_logprobs", 21}}, "top_logprobs"},
      {kC, {{"cache_salt", 1}}, "cache_salt"},
      {kC, {{"user", std::string(5000, 'u')}}, "user"},
      {kC, {{"best_of", 2}}, "best_of"},
      {kC, {{"messages", nullptr}}, "messages"},
      {kC, {{"messages", "hi"}}, "messages"},
      {kC, messages(json::array()), "messages"},
      {kC, messages(json(5000, user)), "messages"},
      {kC, one("hi"), "messages[0]"},
      {kC, one({{"content", "x"}}), "messages[0].role"},
      {kC, one({{"role", "robot"}, {"content", "x"}}), "messages[0].role"},
      {kC, messages({user, {{"role", "user"}}}), "messages[1].content"},
      {kC, one({{"role", "user"}, {"content", 5}}), "messages[0].content"},
      {kC, one({{"role", "user"}, {"content", {"x"}}}), "messages[0].content"},
      {kC, one({{"role", "user"}, {"content", {{{"type", "image_url"}}}}}), "messages[0].content"},
      {kC, one({{"role", "user"}, {"content", {{{"type", "text"}}}}}), "messages[0].content"},
      {kC, one({{"role", "assistant"}, {"content", ""}, {"tool_calls", {1}}}),
       "messages[0].tool_calls[0]"},
      {kC, {{"continue_final_message", true}}, "continue_final_message"},
      {kC,
       {{"continue_final_message", true},
        {"add_generation_prompt", true},
        {"messages", {{{"role", "assistant"}, {"content", "x"}}}}},
       "continue_final_message"},
      {kC, {{"chat_template_kwargs", 1}}, "chat_template_kwargs"},
      {kC, {{"chat_template_kwargs", {{"thinking", 1}}}}, "chat_template_kwargs.thinking"},
      {kC, {{"chat_template_kwargs", {{"tokenize", true}}}}, "chat_template_kwargs.tokenize"},
      {kC, {{"chat_template", "{{ 1 }}"}}, "chat_template"},
      {kC, {{"tools", {{{"type", "function"}}}}}, "tools[0].function"},
      {kC, {{"tool_choice", "required"}}, "tool_choice"},
      {kC, {{"response_format", {{"type", "grammar"}}}}, "response_format"},
      {kC, {{"reasoning_effort", "high"}}, "reasoning_effort"},
      {kC, {{"audio", {{"voice", "x"}}}}, "audio"},
      {kC, {{"functions", {1}}}, "functions"},
      {kC, {{"guided_json", "{}"}}, "guided_json"},
      {kC, {{"skip_special_tokens", false}, {"stop", "x"}}, "skip_special_tokens"},
      {kC, {{"max_token", 5}}, "max_token"},
      {kC, {{"prompt", "x"}}, "prompt"},
      {kC, {{"echo", true}}, "echo"},
      {kC, {{"stream", true}, {"stream_options", {{"usage", true}}}}, "stream_options.usage"},
      {kC, {{std::string(5000, 'k'), 1}}, std::string(64, 'k')},
      {kT, {{"messages", json::array()}}, "messages"},
      {kT, {{"tools", json::array()}}, "tools"},
      {kT, {{"prompt", nullptr}}, "prompt"},
      {kT, {{"prompt", 5}}, "prompt"},
      {kT, {{"prompt", json::array()}}, "prompt"},
      {kT, {{"prompt", {1, "x"}}}, "prompt"},
      {kT, {{"prompt", {"x", 1}}}, "prompt"},
      {kT, {{"prompt", {1, -1}}}, "prompt"},
      {kT, {{"prompt", {1000}}}, "prompt"},
      {kT, {{"prompt", json::array({json::array()})}}, "prompt"},
      {kT, {{"prompt", std::vector<int>(4096, 1)}}, "prompt"},
      {kT, {{"prompt", std::vector<std::string>(129, "x")}}, "prompt"},
      {kT, {{"prompt", {"a", "b"}}, {"n", 100}}, "n"},
      {kT, {{"logprobs", true}}, "logprobs"},
      {kT, {{"logprobs", 21}}, "logprobs"},
      {kT, {{"echo", true}, {"logprobs", 1}}, "echo"},
      {kT, {{"suffix", "x"}}, "suffix"},
      {kT, {{"prompt_logprobs", 1}}, "prompt_logprobs"},
  };
  for (const BadField& bad : cases) {
    const auto result = parse(bad.endpoint, bad.extra);
    const auto* error = std::get_if<ApiError>(&result);
    ASSERT_NE(error, nullptr) << bad.extra.dump().substr(0, 200);
    EXPECT_EQ(error->param, bad.param) << error->message;
    EXPECT_EQ(error->status, 400);
    EXPECT_EQ(error->type, "invalid_request_error");
    EXPECT_THAT(error->message, HasSubstr(bad.param.substr(0, bad.param.find('[')))) << bad.extra;
  }
}

TEST(RequestParser, UnsupportedIsSaidAsSuch) {
  const auto result = parse(Endpoint::kChat, {{"guided_regex", "a+"}});
  const auto& error = std::get<ApiError>(result);
  EXPECT_EQ(error.code, "unsupported_parameter");
  EXPECT_THAT(error.message, HasSubstr("not supported yet"));
}

TEST(RequestParser, TextIsBounded) {
  RequestLimits limits = kLimits;
  limits.max_prompt_bytes = 10;
  json body = kChat;
  body["messages"] = json::array(
      {{{"role", "user"}, {"content", "123456"}}, {{"role", "user"}, {"content", "123456"}}});
  const auto result = parse_api_request(Endpoint::kChat, body.dump(), limits);
  EXPECT_EQ(std::get<ApiError>(result).param, "messages");
}

TEST(RequestParser, BodiesThatAreNoJsonObject) {
  const std::string deep = std::string(10'000, '[') + std::string(10'000, ']');
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), deep,
        std::string("{\"messages\": \"\xff\xfe\"}"), std::string("{\"temperature\": 1e999}"),
        "{\"x\": \"" + std::string(100'000, 'y')}) {
    const auto result = parse_api_request(Endpoint::kChat, body, kLimits);
    const auto* error = std::get_if<ApiError>(&result);
    ASSERT_NE(error, nullptr) << body.substr(0, 40);
    EXPECT_EQ(error->status, 400);
    EXPECT_EQ(error->param, "");
    EXPECT_LT(error->message.size(), 400u);
    EXPECT_TRUE(json::accept(to_json(*error)));
  }
}

TEST(ApiErrors, AreInOpenAisForm) {
  EXPECT_EQ(json::parse(to_json(bad_field("n", "n is 0"))),
            json::parse(R"({"error": {"message": "n is 0", "type": "invalid_request_error",
                                      "param": "n", "code": null}})"));
  const ApiError internal = api_error(make_error(ErrorCode::kInternal, "file.cpp:12: CHECK"));
  EXPECT_EQ(internal.status, 500);
  EXPECT_EQ(internal.type, "server_error");
  EXPECT_THAT(internal.message, ::testing::Not(HasSubstr("file.cpp")));
  EXPECT_EQ(api_error(make_error(ErrorCode::kUnavailable, "full")).status, 503);
}

}  // namespace
}  // namespace deepflight
