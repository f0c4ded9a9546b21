// Any text as a schema: it is compiled or refused; documents written at random under it never get
// stuck, and what they consist of is JSON.
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "grammar/json_schema.h"
#include "grammar/walk.h"

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"type":"object","properties":{"a":{"type":"integer","minimum":-3,"maximum":1200},)"
      R"("b":{"type":"string","pattern":"^a[b-d]{2,3}(x|y)*$"}},"required":["b"],)"
      R"("additionalProperties":{"type":"boolean"}})",
      R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"array","minItems":1,"maxItems":3,)"
      R"("items":{"anyOf":[{"$ref":"#/$defs/n"},{"type":["number","null"]}]}}}})",
      R"({"enum":["a",1,null,{"b":[true]}]})",
      R"({"type":"string","format":"date-time"})",
      R"({"type":"string","pattern":"^((a{0,9}b?){0,9}|(a|){3,7}){0,9}$"})",
      R"({"type":"string","pattern":"^((.{0,9}b?){3,5}){0,9}$"})",
      R"({"type":"number","exclusiveMinimum":-0.5,"maximum":1e3})",
      R"({"type":"integer","multipleOf":7,"minimum":3})",
      R"({"type":"string","minLength":2,"maxLength":5})",
      R"({"type":"array","prefixItems":[{"const":"x"},{}],"minItems":2,"items":false})",
  };
}

namespace {

// All documents of one schema. A step has its own bound (walk.cpp); hundreds of the dearest in turn
// are only slow.
constexpr int64_t kMaxVisits = 1'000'000;

// A document of at most `max_bytes`, or what there is of it then.
std::string write_document(deepflight::GrammarWalk& walk, std::mt19937& random, int max_bytes,
                           bool* is_whole) {
  std::string document;
  deepflight::ConfigId config = walk.start();
  for (int i = 0; i < max_bytes && walk.num_visits() < kMaxVisits; ++i) {
    std::vector<std::pair<uint8_t, deepflight::ConfigId>> next;
    for (int byte = 0; byte < 256; ++byte) {
      const auto to = walk.step(config, static_cast<deepflight::Symbol>(byte));
      if (to != deepflight::kNoConfig) next.emplace_back(static_cast<uint8_t>(byte), to);
    }
    *is_whole = walk.accepts(config);
    CHECK(*is_whole || !next.empty(), document);
    if (next.empty() || (*is_whole && random() % 4 == 0)) return document;
    const auto& [byte, to] = next[random() % next.size()];
    document += static_cast<char>(byte);
    config = to;
  }
  *is_whole = walk.accepts(config);
  return document;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using Json = nlohmann::ordered_json;
  const Json schema =
      Json::parse(std::string_view(reinterpret_cast<const char*>(data), size), nullptr, false);
  if (schema.is_discarded()) return 0;
  deepflight::GrammarBuilder builder;
  deepflight::SchemaCompiler compiler(builder);
  const auto root = compiler.compile(schema);
  if (!root.ok()) return 0;
  const auto grammar = std::move(builder).finish(*root);
  if (!grammar.ok()) return 0;
  std::mt19937 random(static_cast<uint32_t>(size));
  deepflight::GrammarWalk walk(*grammar);
  for (int i = 0; i < 3; ++i) {
    bool is_whole = false;
    const std::string document = write_document(walk, random, 300, &is_whole);
    if (is_whole) CHECK(!Json::parse(document, nullptr, false).is_discarded(), document);
  }
  return 0;
}
