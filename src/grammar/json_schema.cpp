// Alternatives, references, strings and numbers.
#include "grammar/json_schema.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "grammar/number_range.h"
#include "grammar/string_formats.h"
#include "grammar/string_pattern.h"

namespace deepflight {
namespace {

using Json = SchemaCompiler::Json;

constexpr size_t kMaxReferences = 10'000;  // schemas compiled, of one document
constexpr int32_t kMaxCount = 1 << 20;     // of minLength and the like

constexpr std::array<std::string_view, 16> kDescriptions = {
    "title",    "description", "default",       "examples", "example",     "$schema",
    "$id",      "$comment",    "$defs",         "readOnly", "definitions", "writeOnly",
    "nullable", "deprecated",  "discriminator", "$anchor"};
constexpr std::array<std::string_view, 9> kOfTypes = {
    "type",      "properties", "required",  "additionalProperties", "items", "prefixItems",
    "minLength", "maxLength",  "multipleOf"};
constexpr std::array<std::string_view, 8> kOfTypesToo = {
    "minItems", "maxItems", "pattern",          "format",
    "minimum",  "maximum",  "exclusiveMinimum", "exclusiveMaximum"};
constexpr std::array<std::string_view, 6> kCombiners = {"$ref",  "anyOf", "oneOf",
                                                        "allOf", "enum",  "const"};

template <typename Names>
bool is_one_of(std::string_view key, const Names& names) {
  return std::ranges::find(names, key) != names.end();
}

bool describes(std::string_view key) {
  return is_one_of(key, kDescriptions) || key.starts_with("x-");
}

int depth_of(const Json& json) {
  int depth = 0;
  if (json.is_structured()) {
    for (const Json& item : json) depth = std::max(depth, depth_of(item));
  }
  return depth + 1;
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "number") return value.is_number();
  return type == "integer" &&
         (value.is_number_integer() ||
          (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>()));
}

// What a schema without a type speaks of.
std::vector<std::string> implied_types(const Json& schema) {
  const auto has_any = [&](std::initializer_list<const char*> keys) {
    return std::ranges::any_of(keys, [&](const char* key) { return schema.contains(key); });
  };
  if (has_any({"properties", "required", "additionalProperties"})) return {"object"};
  if (has_any({"items", "prefixItems", "minItems", "maxItems"})) return {"array"};
  if (has_any({"pattern", "format", "minLength", "maxLength"})) return {"string"};
  return {"number"};
}

Result<std::vector<std::string>> types_of(const Json& schema, const std::string& path) {
  if (!schema.contains("type")) return implied_types(schema);
  const Json& type = schema["type"];
  const Json list = type.is_array() ? type : Json::array({type});
  std::vector<std::string> types;
  for (const Json& item : list) {
    constexpr std::array<std::string_view, 7> kTypes = {"null",  "boolean", "string", "object",
                                                        "array", "number",  "integer"};
    if (!item.is_string() || !is_one_of(item.get<std::string>(), kTypes)) {
      return invalid_argument("{}.type: no type of JSON schema", path);
    }
    types.push_back(item.get<std::string>());
  }
  if (types.empty()) return invalid_argument("{}.type: the list is empty", path);
  return types;
}

// The keyword of several alternatives that a schema has, or null.
const char* combiner_of(const Json& schema) {
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    if (schema.contains(key)) return key;
  }
  return nullptr;
}

}  // namespace

bool allows_anything(const Json& schema) {
  if (schema.is_boolean()) return schema.get<bool>();
  return schema.is_object() && std::ranges::all_of(schema.items(), [](const auto& item) {
           return describes(item.key());
         });
}

Result<int32_t> schema_count(const Json& schema, const char* key, int32_t fallback,
                             const std::string& path) {
  if (!schema.contains(key)) return fallback;
  const Json& value = schema[key];
  const double number = value.is_number() ? value.get<double>() : -1.0;
  if (!(number >= 0) || std::floor(number) != number) {
    return invalid_argument("{}.{}: must be a whole number", path, key);
  }
  if (number > kMaxCount) {
    return unsupported("{}.{}: more than {} is not supported", path, key, kMaxCount);
  }
  return static_cast<int32_t>(number);
}

Result<RuleId> SchemaCompiler::compile(const Json& schema) {
  root_ = &schema;
  if (depth_of(schema) > kMaxSchemaDepth) {
    return make_error(ErrorCode::kTooLarge, "the schema is nested deeper than {}", kMaxSchemaDepth);
  }
  const RuleId rule = rule_of(schema, "schema");
  while (!pending_.empty()) {
    const Pending next = std::move(pending_.back());
    pending_.pop_back();
    RETURN_IF_ERROR(compile_pending(next));
    if (builder_.overflowed() || known_.size() > kMaxReferences) {
      return make_error(ErrorCode::kTooLarge, "the schema needs too many states");
    }
  }
  return rule;
}

RuleId SchemaCompiler::rule_of(const Json& schema, const std::string& path) {
  if (allows_anything(schema)) return rules_.value();
  const auto [entry, is_new] = known_.try_emplace(&schema, 0);
  if (is_new) {
    entry->second = builder_.new_rule();
    pending_.push_back({&schema, entry->second, path});
  }
  return entry->second;
}

Status SchemaCompiler::compile_pending(const Pending& pending) {
  std::vector<Pending> alternatives;
  std::vector<const Json*> open;
  RETURN_IF_ERROR(add_alternatives(*pending.schema, pending.path, &alternatives, &open));
  const NodeId start = builder_.start(pending.rule);
  const NodeId final = builder_.final(pending.rule);
  for (const Pending& alternative : alternatives) {
    if (alternative.schema != pending.schema) {
      builder_.call(start, rule_of(*alternative.schema, alternative.path), final);
      continue;
    }
    const Json& schema = *pending.schema;
    if (schema.contains("enum") || schema.contains("const")) {
      RETURN_IF_ERROR(add_values(start, final, schema, pending.path));
      continue;
    }
    ASSIGN_OR_RETURN(const auto types, types_of(schema, pending.path));
    for (const std::string& type : types) {
      // An integer is a number.
      if (type == "integer" && std::ranges::find(types, "number") != types.end()) continue;
      RETURN_IF_ERROR(add_type(start, final, type, pending));
    }
  }
  return ok_status();
}

// The schemas that say themselves what they take, through references and anyOf. `open`: those on
// the way here; one that comes back to itself without anything in between adds nothing.
Status SchemaCompiler::add_alternatives(const Json& schema, const std::string& path,
                                        std::vector<Pending>* alternatives,
                                        std::vector<const Json*>* open) {
  if (std::ranges::find(*open, &schema) != open->end()) return ok_status();
  if (schema.is_boolean()) {
    if (schema.get<bool>()) alternatives->push_back({&schema, 0, path});
    return ok_status();
  }
  if (!schema.is_object()) return invalid_argument("{}: must be an object or a boolean", path);
  RETURN_IF_ERROR(check_keywords(schema, path));
  open->push_back(&schema);
  if (schema.contains("$ref")) {
    if (!schema["$ref"].is_string()) return invalid_argument("{}.$ref: must be a string", path);
    const auto& reference = schema["$ref"].get_ref<const std::string&>();
    ASSIGN_OR_RETURN(const Json* target, resolve(reference, path));
    RETURN_IF_ERROR(add_alternatives(*target, reference, alternatives, open));
  } else if (const char* key = combiner_of(schema)) {
    const Json& list = schema[key];
    if (!list.is_array() || list.empty()) {
      return invalid_argument("{}.{}: must be a list of at least one schema", path, key);
    }
    if (list.size() > 1 && std::string_view(key) != "anyOf") {
      return unsupported("{}.{}: of more than one schema is not supported{}", path, key,
                         std::string_view(key) == "oneOf" ? "; anyOf is" : "");
    }
    if (open->size() > kMaxSchemaDepth) {
      return make_error(ErrorCode::kTooLarge, "{}.{}: nested too deeply", path, key);
    }
    for (size_t i = 0; i < list.size(); ++i) {
      RETURN_IF_ERROR(
          add_alternatives(list[i], fmt::format("{}.{}[{}]", path, key, i), alternatives, open));
    }
  } else {
    alternatives->push_back({&schema, 0, path});
  }
  return ok_status();
}

Result<const Json*> SchemaCompiler::resolve(std::string_view reference,
                                            const std::string& path) const {
  if (!reference.starts_with('#')) {
    return unsupported("{}.$ref: only references within the schema (#...) are supported", path);
  }
  const Json* at = root_;
  std::string_view rest = reference.substr(1);
  while (!rest.empty()) {
    if (rest[0] != '/') return unsupported("{}.$ref: anchors are not supported", path);
    const size_t end = std::min(rest.find('/', 1), rest.size());
    std::string key;
    for (size_t i = 1; i < end; ++i) {
      const bool escaped = rest[i] == '~' && i + 1 < end;
      if (escaped) ++i;
      key += escaped ? (rest[i] == '1' ? '/' : '~') : rest[i];
    }
    rest.remove_prefix(end);
    const bool is_index = at->is_array() && !key.empty() && key.size() < 6 &&
                          std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else if (is_index && std::stoul(key) < at->size()) {
      at = &(*at)[std::stoul(key)];
    } else {
      return invalid_argument("{}.$ref: there is no {}", path, reference.substr(0, 200));
    }
  }
  return at;
}

// Refuses what would not be enforced.
Status SchemaCompiler::check_keywords(const Json& schema, const std::string& path) const {
  int num_combiners = 0, num_of_types = 0;
  for (const auto& [key, value] : schema.items()) {
    if (describes(key)) continue;
    if (is_one_of(key, kCombiners)) {
      ++num_combiners;
    } else if (is_one_of(key, kOfTypes) || is_one_of(key, kOfTypesToo)) {
      num_of_types += key != "type";
    } else if (key == "uniqueItems" && value == false) {
      continue;
    } else {
      return unsupported("{}: the keyword \"{}\" is not supported", path, key.substr(0, 64));
    }
  }
  const bool has_values = schema.contains("enum") || schema.contains("const");
  if (num_combiners > 1 || (num_combiners == 1 && num_of_types > 0) ||
      (num_combiners == 1 && !has_values && schema.contains("type"))) {
    const auto combiner = std::ranges::find_if(
        kCombiners, [&](std::string_view key) { return schema.contains(std::string(key)); });
    return unsupported("{}: \"{}\" beside other keywords is not supported", path, *combiner);
  }
  return ok_status();
}

Status SchemaCompiler::add_values(NodeId from, NodeId to, const Json& schema,
                                  const std::string& path) {
  const bool is_enum = schema.contains("enum");
  if (is_enum && !schema["enum"].is_array()) {
    return invalid_argument("{}.enum: must be a list", path);
  }
  const Json values = is_enum ? schema["enum"] : Json::array({schema["const"]});
  if (values.size() > kMaxEnumValues) {
    return make_error(ErrorCode::kTooLarge, "{}.enum: {} values, at most {} are allowed", path,
                      values.size(), kMaxEnumValues);
  }
  std::vector<std::string> types;
  if (schema.contains("type")) {
    ASSIGN_OR_RETURN(types, types_of(schema, path));
  }
  std::vector<std::string> texts;
  for (const Json& value : values) {
    const bool fits = types.empty() || std::ranges::any_of(types, [&](const std::string& type) {
                        return has_type(value, type);
                      });
    if (fits) texts.push_back(value.dump());
  }
  rules_.literals(from, to, texts);
  return ok_status();
}

Status SchemaCompiler::add_type(NodeId from, NodeId to, std::string_view type, const Pending& at) {
  if (type == "object") return add_object(from, to, at);
  if (type == "array") return add_array(from, to, at);
  if (type == "string") return add_string(from, to, at);
  if (type == "number" || type == "integer") return add_number(from, to, type == "integer", at);
  static const std::string words[] = {"true", "false", "null"};
  const std::span<const std::string> all(words);
  rules_.literals(from, to, type == "null" ? all.subspan(2) : all.first(2));
  return ok_status();
}

Status SchemaCompiler::add_string(NodeId from, NodeId to, const Pending& at) {
  const Json& schema = *at.schema;
  const bool has_lengths = schema.contains("minLength") || schema.contains("maxLength");
  const bool has_pattern = schema.contains("pattern");
  const bool has_format = schema.contains("format");
  if (has_lengths + has_pattern + has_format > 1) {
    return unsupported("{}: only one of pattern, format and lengths is supported for a string",
                       at.path);
  }
  if (!has_pattern && !has_format) {
    ASSIGN_OR_RETURN(const int32_t min, schema_count(schema, "minLength", 0, at.path));
    ASSIGN_OR_RETURN(const int32_t max, schema_count(schema, "maxLength", kUnbounded, at.path));
    rules_.text(from, to, min, max);
    return ok_status();
  }
  const char* key = has_pattern ? "pattern" : "format";
  if (!schema[key].is_string()) return invalid_argument("{}.{}: must be a string", at.path, key);
  std::string pattern = schema[key].get<std::string>();
  if (has_format) {
    const auto known = format_pattern(pattern);
    if (!known) {
      return unsupported("{}.format: \"{}\" is not supported", at.path, pattern.substr(0, 64));
    }
    pattern = *known;
  }
  const auto body = compile_pattern(rules_, pattern);
  if (!body.ok()) {
    return make_error(body.error().code, "{}.{}: {}", at.path, key, body.error().message);
  }
  const NodeId end = builder_.call(builder_.literal(from, "\""), *body);
  builder_.edge(end, '"', '"', to);
  return ok_status();
}

Status SchemaCompiler::add_number(NodeId from, NodeId to, bool is_integer, const Pending& at) {
  const Json& schema = *at.schema;
  NumberRange range{.is_integer = is_integer};
  bool is_bounded = false;
  for (const char* key : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
    if (!schema.contains(key)) continue;
    const std::string_view name = key;
    auto& bound = name.ends_with("inimum") ? range.low : range.high;
    if (!schema[key].is_number()) return invalid_argument("{}.{}: must be a number", at.path, key);
    if (bound) {
      return unsupported("{}: \"{}\" beside another bound of that side is not supported", at.path,
                         key);
    }
    bound = {schema[key], name.starts_with("exclusive")};
    is_bounded = true;
  }
  if (schema.contains("multipleOf")) {
    ASSIGN_OR_RETURN(const int32_t multiple, schema_count(schema, "multipleOf", 1, at.path));
    if (!is_integer || multiple < 1 || multiple > kMaxMultipleOf) {
      return unsupported("{}.multipleOf: only for integers and from 1 to {} it is supported",
                         at.path, kMaxMultipleOf);
    }
    range.multiple_of = multiple;
    is_bounded = is_bounded || multiple > 1;
  }
  if (!is_bounded) {
    builder_.call(from, is_integer ? rules_.integer() : rules_.number(), to);
    return ok_status();
  }
  const auto rule = compile_number_range(builder_, range);
  if (!rule.ok()) return make_error(rule.error().code, "{}: {}", at.path, rule.error().message);
  builder_.call(from, *rule, to);
  return ok_status();
}

}  // namespace deepflight
