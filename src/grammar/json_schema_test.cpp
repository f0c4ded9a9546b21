// Schemas and documents: which are in, which are out, and which schemas are refused by what name.
#include "grammar/json_schema.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "grammar/schema_testing.h"

namespace deepflight {
namespace {

struct Case {
  const char* name;
  const char* schema;
  std::vector<const char*> in;
  std::vector<const char*> out;
};

void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }

class SchemaCases : public ::testing::TestWithParam<Case> {};

TEST_P(SchemaCases, Documents) {
  SchemaLanguage language(GetParam().schema);
  for (const char* document : GetParam().in) EXPECT_TRUE(language.has(document)) << document;
  for (const char* document : GetParam().out) EXPECT_FALSE(language.has(document)) << document;
}

INSTANTIATE_TEST_SUITE_P(
    All, SchemaCases,
    ::testing::Values(
        Case{"null", R"({"type":"null"})", {"null"}, {"nul", "nulll", "", "true", "0"}},
        Case{"boolean", R"({"type":"boolean"})", {"true", "false"}, {"True", "tru", "null"}},
        Case{"integer",
             R"({"type":"integer"})",
             {"0", "-0", "7", "-12", "999999999999999"},
             {"01", "1.0", "1e3", "+1", "-", "", " 1", "1 ", "9999999999999999"}},
        Case{"number",
             R"({"type":"number"})",
             {"0", "-0.5", "3.25", "1e10", "1E-9", "12.5e+2"},
             {".5", "1.", "1e", "1e999", "00", "-.1", "NaN", "Infinity"}},
        Case{"string",
             R"({"type":"string"})",
             {R"("")", R"("a b")", R"("\n\u0041\"\\\/")", "\"\xE4\xBD\xA0\xF0\x9F\x98\x80\"",
              R"("\uD7FF\uE000")"},
             {"\"\n\"", "\"", R"("\x")", R"("\ud800")", R"("\u12")", "\"\xFF\"", "\"\xC0\x80\"",
              "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE4\xBD\""}},
        Case{"length",
             R"({"type":"string","minLength":2,"maxLength":3})",
             {R"("ab")", R"("abc")", R"("\n\u0041")", "\"\xE4\xBD\xA0\xF0\x9F\x98\x80\""},
             {R"("")", R"("a")", R"("abcd")", "\"\xF0\x9F\x98\x80\""}},
        Case{"enum",
             R"({"enum":["red","green",3,null,{"a":[1,true]},"re\"d"]})",
             {R"("red")", R"("green")", "3", "null", R"({"a":[1,true]})", R"("re\"d")"},
             {R"("re")", R"("blue")", "33", R"({"a": [1,true]})"}},
        Case{"enum of a type",
             R"({"type":"integer","enum":[1,"2",3]})",
             {"1", "3"},
             {R"("2")", "2"}},
        Case{"const", R"({"const":"x y"})", {R"("x y")"}, {R"("x  y")", "x y"}},
        Case{"types", R"({"type":["string","null"]})", {R"("s")", "null"}, {"1", "true"}},
        Case{"object",
             R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},
                 "required":["a","b"],"additionalProperties":false})",
             {R"({"a":1,"b":"x"})", R"({"a": 1, "b": "x"})", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
             {R"({"b":"x","a":1})", R"({"a":1})", R"({})", R"({"a":1,"b":"x",})",
              R"({"a":1,"b":"x","c":2})", R"({"a":"1","b":"x"})", R"({"a":1 ,"b":"x"})"}},
        Case{"optional properties",
             R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},
                 "c":{"type":"integer"}},"required":["b"]})",
             {R"({"b":1})", R"({"a":1,"b":2})", R"({"b":1,"c":2})", R"({"a":1,"b":2,"c":3})"},
             {R"({})", R"({"a":1})", R"({"a":1,"c":2})", R"({"a":1,,"b":2})", R"({,"b":1})",
              R"({"b":1,"d":2})"}},
        Case{"none required",
             R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})",
             {"{}", "{ }", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
             {R"({"a":1,})", "{,}"}},
        Case{"more properties",
             R"({"type":"object","properties":{"ab":{"type":"integer"},"ac":{"type":"integer"}},
                 "required":["ab"],"additionalProperties":{"type":"boolean"}})",
             {R"({"ab":1})", R"({"ab":1,"x":true})", R"({"ab":1,"ac":2,"a":true,"abc":false})",
              R"({"ab":1,"":true})", "{\"ab\":1,\"\xC3\xA9\":true}"},
             {R"({"x":true})", R"({"ab":1,"ab":true})", R"({"ab":1,"ac":true})",
              R"({"ab":1,"x":1})", R"({"ab":1,"\u0061b":true})"}},
        Case{"names past ASCII",
             "{\"type\":\"object\",\"properties\":{\"\xC3\xA9\":{\"type\":\"integer\"}},"
             "\"additionalProperties\":{\"type\":\"boolean\"}}",
             {"{\"\xC3\xA9\":1,\"e\":true}", "{\"e\":true}", "{\"e\xC3\xA9\":true}"},
             {"{\"\xC3\xA9\":true}", "{\"\xC3\":true}"}},
        Case{"any object",
             R"({"type":"object"})",
             {"{}", R"({"a":{"b":[1,"2",null,{"c":[]}]},"d":1e5})", R"({"a":1,"a":2})"},
             {"[]", R"({"a"})", R"({"a":})", R"({a:1})", R"({"a":1]})"}},
        Case{"array",
             R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})",
             {"[1]", "[1,2]", "[1, 2, 3]", "[ 1 ]", "[\n1,\n2]"},
             {"[]", "[1,2,3,4]", "[1,]", "[,1]", "[1 2]", R"(["1"])"}},
        Case{"array of none", R"({"type":"array","maxItems":0})", {"[]", "[ ]"}, {"[1]", "[,]"}},
        Case{"array of any",
             R"({"type":"array"})",
             {"[]", R"([1,"a",[[]],{"b":null}])"},
             {"[1,]", "{}"}},
        Case{"tuple",
             R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],
                 "items":false,"minItems":2})",
             {R"([1,"a"])"},
             {"[1]", R"([1,"a",2])", R"(["a",1])", "[]"}},
        Case{"anyOf",
             R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"a":{"type":"null"}},
                 "required":["a"]},{"type":"object","properties":{"ab":{"type":"null"}},
                 "required":["ab"]}]})",
             {"1", R"({"a":null})", R"({"ab":null})"},
             {R"({"a":1})", R"("1")", R"({"abc":null})"}},
        Case{"recursion",
             R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
                 "v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},
                 {"type":"null"}]}},"required":["v","next"]}}})",
             {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
             {R"({"v":1})", R"({"v":1,"next":{"v":2}})"}},
        Case{"recursion of the whole",
             R"({"type":"object","properties":{"c":{"type":"array","items":{"$ref":"#"}}}})",
             {"{}", R"({"c":[]})", R"({"c":[{},{"c":[{}]}]})"},
             {R"({"c":[1]})", R"({"c":{}})"}},
        Case{"a reference to itself says nothing",
             R"({"anyOf":[{"$ref":"#"},{"type":"string","maxLength":1}]})",
             {R"("a")"},
             {R"("ab")", "1"}},
        Case{"no type", R"({"minimum":2,"maximum":4})", {"2", "3.5"}, {"5", R"("a")"}},
        Case{"anything", R"({})", {"1", "null", R"([{"a":"b"}])"}, {"", "nil"}},
        Case{"alternatives that cannot be are passed over",
             R"({"anyOf":[false,{"type":"string","minLength":3,"maxLength":2},{"type":"null"}]})",
             {"null"},
             {R"("abc")"}},
        Case{"pattern",
             R"({"type":"string","pattern":"^[A-Z]{2}-\\d+$"})",
             {R"("AB-1")", R"("ZZ-0123")"},
             {R"("AB-")", R"("ab-1")", R"("ABC-1")", R"("AB-1 ")"}},
        Case{"format",
             R"({"type":"string","format":"date"})",
             {R"("2024-02-28")", R"("1999-12-31")"},
             {R"("2024-13-01")", R"("2024-04-31")", R"("24-01-01")", R"("2024-02-30")"}},
        Case{"allOf of one", R"({"allOf":[{"type":"null"}],"title":"t"})", {"null"}, {"1"}}));

TEST(Schema, FormatsHaveTheirExamples) {
  const std::vector<std::pair<std::string, std::vector<const char*>>> cases = {
      {"date-time", {"2024-01-31T23:59:59Z", "2024-01-31T00:00:00.123+05:30"}},
      {"time", {"12:00:00Z", "23:59:59.5-08:00"}},
      {"duration", {"P3Y6M4DT12H30M5S", "PT15M", "P1W", "P1D"}},
      {"email", {"a.b@example.org", "x@y.de"}},
      {"hostname", {"localhost", "a-b.example.com"}},
      {"ipv4", {"127.0.0.1", "255.255.255.255"}},
      {"ipv6", {"2001:0db8:85a3:0000:0000:8a2e:0370:7334", "::1", "fe80::1"}},
      {"uuid", {"123e4567-e89b-12d3-a456-426614174000"}},
      {"uri", {"https://example.org/a/b?c=d#e", "http://localhost:8080"}}};
  for (const auto& [format, examples] : cases) {
    SchemaLanguage language(R"({"type":"string","format":")" + format + "\"}");
    for (const char* example : examples) {
      EXPECT_TRUE(language.has("\"" + std::string(example) + "\"")) << format << " " << example;
    }
    EXPECT_FALSE(language.has(R"("no such thing!")")) << format;
    EXPECT_FALSE(language.has(R"("")")) << format;
  }
}

struct Refusal {
  const char* schema;
  const char* message;
};

TEST(Schema, RefusalsNameTheirPlace) {
  const Refusal refusals[] = {
      {R"({"not":{}})", "schema: the keyword \"not\" is not supported"},
      {R"({"type":"object","properties":{"a":{"if":{}}}})",
       "schema.properties.a: the keyword \"if\" is not supported"},
      {R"({"type":"array","uniqueItems":true})",
       "schema: the keyword \"uniqueItems\" is not supported"},
      {R"({"oneOf":[{},{}]})", "schema.oneOf: of more than one schema is not supported; anyOf is"},
      {R"({"$ref":"http://x"})",
       "schema.$ref: only references within the schema (#...) are supported"},
      {R"({"$ref":"#/$defs/a"})", "schema.$ref: there is no #/$defs/a"},
      {R"({"type":"int"})", "schema.type: no type of JSON schema"},
      {R"x({"type":"string","pattern":"(?=a)"})x",
       "schema.pattern: a group beginning with '(?' at byte 1 is not supported"},
      {R"({"type":"string","pattern":"a{99999}"})",
       "schema.pattern: a repetition above 10000 at byte 7 is not supported"},
      {R"({"type":"string","format":"color"})", "schema.format: \"color\" is not supported"},
      {R"({"type":"string","minLength":-1})", "schema.minLength: must be a whole number"},
      {R"({"type":"string","pattern":"a","maxLength":3})",
       "schema: only one of pattern, format and lengths is supported for a string"},
      {R"({"type":"number","multipleOf":0.1})", "schema.multipleOf: must be a whole number"},
      {R"({"anyOf":[]})", "schema.anyOf: must be a list of at least one schema"},
      {R"({"anyOf":[{}],"properties":{}})",
       "schema: \"anyOf\" beside other keywords is not supported"},
      {R"({"type":"object","properties":{},"required":["a"]})",
       "schema.required: \"a\" is not among the properties"},
      {R"(3)", "schema: must be an object or a boolean"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})",
       "nothing can satisfy it"},
      {R"({"type":"integer","minimum":3,"maximum":2})", "nothing can satisfy it"},
      {R"(false)", "nothing can satisfy it"},
  };
  for (const Refusal& refusal : refusals) {
    const auto grammar = compile_schema(refusal.schema);
    ASSERT_FALSE(grammar.ok()) << refusal.schema;
    EXPECT_EQ(grammar.error().message, refusal.message);
  }
}

TEST(Schema, SizesAreBounded) {
  std::string deep = "{}";
  for (int i = 0; i < 100; ++i) deep = R"({"type":"array","items":)" + deep + "}";
  EXPECT_EQ(compile_schema(deep).error().code, ErrorCode::kTooLarge);
  nlohmann::ordered_json wide = {{"type", "object"}};
  for (int i = 0; i < 3000; ++i) wide["properties"][std::to_string(i)] = {{"type", "null"}};
  EXPECT_EQ(compile_schema(wide.dump()).error().code, ErrorCode::kTooLarge);
  nlohmann::ordered_json ranges = {{"type", "object"}};
  for (int i = 0; i < 2000; ++i) {
    ranges["properties"][std::to_string(i)] = {
        {"type", "integer"}, {"minimum", 0}, {"multipleOf", 997}};
  }
  EXPECT_EQ(compile_schema(ranges.dump()).error().code, ErrorCode::kTooLarge);
}

// Documents written at random never get stuck and come to an end when they are told to: from
// everywhere there is a way out.
TEST(Schema, NoWalkGetsStuck) {
  const char* schemas[] = {
      R"({"type":"object"})",
      R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"array","minItems":1,"maxItems":2,
          "items":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"integer"}]}}}})",
      R"({"type":"object","properties":{"d":{"type":"string","format":"date-time"},
          "p":{"type":"string","pattern":"a+b{2,5}(c|d)*e"},
          "x":{"type":"number","exclusiveMinimum":-3.5,"maximum":1000}},"required":["p"],
          "additionalProperties":{"type":"string","maxLength":5}})",
  };
  std::mt19937 random(7);
  for (const char* schema : schemas) {
    const Grammar grammar = compile_schema(schema).value();
    for (int round = 0; round < 60; ++round) {
      GrammarWalk walk(grammar);
      ConfigId config = walk.start();
      for (int i = 0; i < 3000 && !walk.is_complete(config); ++i) {
        std::vector<ConfigId> next;
        for (Symbol symbol = 0; symbol < 256; ++symbol) {
          // Open brackets more often than not: the bound on nesting is met.
          const int weight = symbol == '[' || symbol == '{' ? 30 : 1;
          const ConfigId to = walk.step(config, symbol);
          if (to != kNoConfig) next.insert(next.end(), static_cast<size_t>(weight), to);
        }
        ASSERT_TRUE(!next.empty() || walk.accepts(config)) << schema;
        if (next.empty()) break;
        config = next[random() % next.size()];
      }
    }
  }
}

}  // namespace
}  // namespace deepflight
