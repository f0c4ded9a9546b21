// SchemaCompiler: JSON schemas as grammar, in the subset that can be enforced token by token. Every
// document of the grammar is valid; of the valid ones those are left out that need another order of
// keys, other white space or other escapes (json_rules.h, char_set.h).
//
// Done: type (also a list), enum, const, anyOf, oneOf and allOf of one, $ref within the schema with
// recursion; properties, required, additionalProperties; items, prefixItems, minItems, maxItems;
// minLength, maxLength, pattern, format; minimum, maximum and the exclusive ones, multipleOf for
// integers. Keywords that only describe are passed over; all others are refused by name.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "grammar/json_rules.h"

namespace deepflight {

inline constexpr size_t kMaxSchemaBytes = size_t{256} << 10;
inline constexpr int kMaxSchemaDepth = 64;
inline constexpr size_t kMaxEnumValues = 2048;
inline constexpr size_t kMaxProperties = 2048;  // of one object

class SchemaCompiler {
 public:
  using Json = nlohmann::ordered_json;

  explicit SchemaCompiler(GrammarBuilder& builder) : builder_(builder), rules_(builder) {}

  // The rule of a document that fulfils `schema`, which must stay alive and in place as long as
  // this compiler. Errors name the place in the schema: kInvalidArgument, kUnsupported, kTooLarge.
  Result<RuleId> compile(const Json& schema);

  JsonRules& rules() { return rules_; }

 private:
  // A schema that something refers to: compiled when its turn comes.
  struct Pending {
    const Json* schema = nullptr;
    RuleId rule = 0;
    std::string path;
  };

  RuleId rule_of(const Json& schema, const std::string& path);
  Status compile_pending(const Pending& pending);
  Status add_alternatives(const Json& schema, const std::string& path,
                          std::vector<Pending>* alternatives, std::vector<const Json*>* open);
  Result<const Json*> resolve(std::string_view reference, const std::string& path) const;
  Status check_keywords(const Json& schema, const std::string& path) const;
  Status add_values(NodeId from, NodeId to, const Json& schema, const std::string& path);
  Status add_type(NodeId from, NodeId to, std::string_view type, const Pending& at);
  Status add_string(NodeId from, NodeId to, const Pending& at);
  Status add_number(NodeId from, NodeId to, bool is_integer, const Pending& at);

  // schema_objects.cpp
  Status add_object(NodeId from, NodeId to, const Pending& at);
  Status add_array(NodeId from, NodeId to, const Pending& at);
  struct Property {
    std::string name;
    RuleId value = 0;
    bool is_required = false;
  };
  Result<std::vector<Property>> properties_of(const Pending& at, const Json* additional);
  void add_properties(NodeId from, NodeId to, const std::vector<Property>& properties,
                      const RuleId* more);

  GrammarBuilder& builder_;
  JsonRules rules_;
  const Json* root_ = nullptr;
  std::unordered_map<const Json*, RuleId> known_;
  std::vector<Pending> pending_;
};

// Whether the schema is `true`, `{}` or has nothing but descriptions.
bool allows_anything(const nlohmann::ordered_json& schema);

// The non-negative integer under `key`; `fallback` if there is none.
Result<int32_t> schema_count(const nlohmann::ordered_json& schema, const char* key,
                             int32_t fallback, const std::string& path);

}  // namespace deepflight
