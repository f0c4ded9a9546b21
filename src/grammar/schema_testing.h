// For tests of grammars: documents against a schema, byte by byte.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "grammar/json_schema.h"
#include "grammar/walk.h"

namespace deepflight {

inline Result<Grammar> compile_schema(std::string_view schema) {
  const auto json = nlohmann::ordered_json::parse(schema);
  GrammarBuilder builder;
  SchemaCompiler compiler(builder);
  ASSIGN_OR_RETURN(const RuleId root, compiler.compile(json));
  return std::move(builder).finish(root);
}

// A compiled schema that documents are tried against.
class SchemaLanguage {
 public:
  explicit SchemaLanguage(std::string_view schema)
      : grammar_(compile_schema(schema).value()), walk_(grammar_) {}

  // After the text; kNoConfig if it cannot come.
  ConfigId after(std::string_view text) {
    ConfigId config = walk_.start();
    for (const char c : text) {
      config = walk_.step(config, static_cast<Symbol>(static_cast<uint8_t>(c)));
      if (config == kNoConfig) break;
    }
    return config;
  }
  bool has(std::string_view document) {
    const ConfigId config = after(document);
    return config != kNoConfig && walk_.accepts(config);
  }
  GrammarWalk& walk() { return walk_; }

 private:
  const Grammar grammar_;
  GrammarWalk walk_;
};

}  // namespace deepflight
