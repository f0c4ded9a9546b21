// Objects and arrays of a schema.
#include <algorithm>

#include "grammar/json_schema.h"

namespace deepflight {

Result<std::vector<SchemaCompiler::Property>> SchemaCompiler::properties_of(
    const Pending& at, const Json* additional) {
  const Json& schema = *at.schema;
  std::vector<Property> properties;
  if (schema.contains("properties")) {
    const Json& list = schema["properties"];
    if (!list.is_object()) return invalid_argument("{}.properties: must be an object", at.path);
    if (list.size() > kMaxProperties) {
      return make_error(ErrorCode::kTooLarge, "{}.properties: {} of them, at most {} are allowed",
                        at.path, list.size(), kMaxProperties);
    }
    for (const auto& [name, value] : list.items()) {
      const std::string path = fmt::format("{}.properties.{}", at.path, name.substr(0, 64));
      if (!value.is_object() && !value.is_boolean()) {
        return invalid_argument("{}: must be an object or a boolean", path);
      }
      properties.push_back({name, rule_of(value, path), false});
    }
  }
  if (!schema.contains("required")) return properties;
  const Json& required = schema["required"];
  if (!required.is_array() || required.size() > kMaxProperties) {
    return invalid_argument("{}.required: must be a list of at most {} names", at.path,
                            kMaxProperties);
  }
  for (const Json& name : required) {
    if (!name.is_string()) return invalid_argument("{}.required: must hold strings", at.path);
    const auto property = std::ranges::find(properties, name.get<std::string>(), &Property::name);
    if (property != properties.end()) {
      property->is_required = true;
    } else if (additional != nullptr) {
      properties.push_back(
          {name.get<std::string>(), rule_of(*additional, at.path + ".additionalProperties"), true});
    } else {
      return invalid_argument("{}.required: \"{}\" is not among the properties", at.path,
                              name.get<std::string>().substr(0, 64));
    }
  }
  return properties;
}

Status SchemaCompiler::add_object(NodeId from, NodeId to, const Pending& at) {
  static const Json kAnything = true;
  const Json& schema = *at.schema;
  // Who lists properties means those; who lists none means any.
  const Json* additional = schema.contains("properties") ? nullptr : &kAnything;
  if (schema.contains("additionalProperties")) {
    const Json& given = schema["additionalProperties"];
    if (!given.is_boolean() && !given.is_object()) {
      return invalid_argument("{}.additionalProperties: must be a schema or a boolean", at.path);
    }
    additional = given.is_boolean() ? (given.get<bool>() ? &kAnything : nullptr) : &given;
  }
  ASSIGN_OR_RETURN(const auto properties, properties_of(at, additional));
  if (additional == nullptr) {
    add_properties(from, to, properties, nullptr);
    return ok_status();
  }
  std::vector<std::string> names;
  for (const Property& property : properties) names.push_back(property.name);
  const RuleId more = rules_.pair(rule_of(*additional, at.path + ".additionalProperties"), names);
  add_properties(from, to, properties, &more);
  return ok_status();
}

// In the order of the schema, each once or, if it is not required, not at all; then any number of
// `more`. `bare` is where nothing has been written yet and `after` where a comma has to come first.
void SchemaCompiler::add_properties(NodeId from, NodeId to, const std::vector<Property>& properties,
                                    const RuleId* more) {
  NodeId bare = rules_.space(builder_.literal(from, "{"));
  NodeId after = builder_.new_state();
  for (const Property& property : properties) {
    const NodeId key = builder_.new_state();
    builder_.jump(bare, key);
    builder_.jump(rules_.space(builder_.literal(after, ",")), key);
    const std::string name = Json(property.name).dump() + ":";
    const NodeId value = rules_.space(builder_.literal(key, name));
    const NodeId next_bare = builder_.new_state();
    const NodeId next_after = builder_.new_state();
    builder_.call(value, property.value, next_after);
    if (!property.is_required) {
      builder_.jump(bare, next_bare);
      builder_.jump(after, next_after);
    }
    bare = next_bare;
    after = next_after;
  }
  if (more != nullptr) {
    const RuleId next = builder_.new_rule();
    builder_.call(rules_.space(builder_.literal(builder_.start(next), ",")), *more,
                  builder_.final(next));
    const NodeId end = builder_.new_state();
    builder_.jump(builder_.repeat(after, next, 0, kUnbounded), end);
    builder_.jump(builder_.repeat(builder_.call(bare, *more), next, 0, kUnbounded), end);
    after = end;
  }
  const NodeId close = builder_.new_state();
  builder_.jump(bare, close);
  builder_.jump(rules_.space(after), close);
  builder_.edge(close, '}', '}', to);
}

Status SchemaCompiler::add_array(NodeId from, NodeId to, const Pending& at) {
  static const Json kAnything = true;
  const Json& schema = *at.schema;
  ASSIGN_OR_RETURN(const int32_t min, schema_count(schema, "minItems", 0, at.path));
  ASSIGN_OR_RETURN(int32_t max, schema_count(schema, "maxItems", kUnbounded, at.path));
  const Json& items = schema.contains("items") ? schema["items"] : kAnything;
  if (!items.is_boolean() && !items.is_object()) {
    return invalid_argument("{}.items: must be a schema or a boolean", at.path);
  }
  const Json none = Json::array();
  const Json& prefix = schema.contains("prefixItems") ? schema["prefixItems"] : none;
  if (!prefix.is_array()) return invalid_argument("{}.prefixItems: must be a list", at.path);
  const auto num_first = static_cast<int32_t>(prefix.size());
  if (num_first > min) {
    return unsupported("{}.prefixItems: needs minItems of at least their number", at.path);
  }
  if (items.is_boolean() && !items.get<bool>()) max = std::min(max, num_first);

  // Lists of zero, one and more of what `items` says; what prefixItems says comes before it.
  NodeId next = rules_.space(builder_.literal(from, "["));
  const NodeId end = builder_.new_state();
  if (min == 0) builder_.jump(next, end);
  for (int32_t i = 0; i < num_first; ++i) {
    const std::string path = fmt::format("{}.prefixItems[{}]", at.path, i);
    if (i > 0) next = rules_.space(builder_.literal(next, ","));
    next = builder_.call(next, rule_of(prefix[static_cast<size_t>(i)], path));
  }
  if (max > num_first || min > num_first) {
    const RuleId item = rule_of(items, at.path + ".items");
    const RuleId more = builder_.new_rule();
    builder_.call(rules_.space(builder_.literal(builder_.start(more), ",")), item,
                  builder_.final(more));
    const int32_t num_before = std::max(num_first, 1);
    if (num_first == 0) next = builder_.call(next, item);
    next = builder_.repeat(next, more, std::max(min - num_before, 0),
                           max == kUnbounded ? kUnbounded : max - num_before);
    builder_.jump(rules_.space(next), end);
  } else if (num_first > 0 && max >= num_first) {
    builder_.jump(rules_.space(next), end);
  }
  builder_.edge(end, ']', ']', to);
  return ok_status();
}

}  // namespace deepflight
