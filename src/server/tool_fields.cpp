// Reading and checking; what is kept is rebuilt field by field.
#include "server/tool_fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/chat_template.h"

namespace deepflight {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxTools = 128;
constexpr size_t kMaxToolBytes = size_t{256} << 10;  // of all definitions
constexpr size_t kMaxCalls = 128;                    // in a message
constexpr size_t kMaxArgumentBytes = size_t{1} << 20;
constexpr size_t kMaxIdBytes = 1024;
constexpr size_t kMaxNameBytes = 64;

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

// The object `name` of `fields`, or null after an error.
const json* required_object(JsonFields& fields, std::string_view name) {
  const json* value = fields.find(name);
  if (fields.failed()) return nullptr;
  if (value != nullptr && value->is_object()) return value;
  fields.fail(name, value == nullptr ? "is required" : "must be an object");
  return nullptr;
}

bool check_type(JsonFields& fields) {
  const json* type = fields.find("type");
  if (fields.failed() || type == nullptr || *type == "function") return !fields.failed();
  fields.fail("type", "must be \"function\"");
  return false;
}

void check_tool(const json& tool, size_t index, std::optional<ApiError>& error) {
  const std::string name = fmt::format("tools[{}]", index);
  if (!tool.is_object()) {
    error = bad_field(name, name + " must be an object");
    return;
  }
  JsonFields fields(tool, name + ".", error);
  if (!check_type(fields)) return;
  const json* function = required_object(fields, "function");
  if (function == nullptr) return;
  JsonFields parts(*function, name + ".function.", error);
  const json* function_name = parts.find("name");
  if (function_name == nullptr || !function_name->is_string() ||
      !is_name(function_name->get_ref<const std::string&>())) {
    return parts.fail("name", "must be 1 to 64 letters, digits, '_', '-' or '.'");
  }
  std::string description;
  parts.text("description", kMaxToolBytes, description);
  const json* parameters = parts.find("parameters");
  if (parameters != nullptr && !parameters->is_object()) {
    parts.fail("parameters", "must be an object (a JSON schema)");
  }
}

void parse_choice(JsonFields& fields, ToolOptions& tools, std::optional<ApiError>& error) {
  const json* choice = fields.find("tool_choice");
  if (fields.failed()) return;
  const bool any = !tools.definitions.empty();
  if (choice == nullptr || *choice == "auto") {
    tools.choice = any ? ToolChoice::kAuto : ToolChoice::kNone;
  } else if (*choice == "none") {
    tools.choice = ToolChoice::kNone;
  } else if (*choice == "required") {
    tools.choice = ToolChoice::kRequired;
  } else if (choice->is_object()) {
    JsonFields parts(*choice, "tool_choice.", error);
    if (!check_type(parts)) return;
    const json* function = required_object(parts, "function");
    if (function == nullptr) return;
    JsonFields(*function, "tool_choice.function.", error).text("name", kMaxNameBytes, tools.name);
    tools.choice = ToolChoice::kNamed;
  } else {
    return fields.fail("tool_choice",
                       "must be \"none\", \"auto\", \"required\" or name a function");
  }
  if (fields.failed() || tools.choice == ToolChoice::kNone || tools.choice == ToolChoice::kAuto) {
    return;
  }
  if (!any) return fields.fail("tool_choice", "needs tools");
  const bool known = std::ranges::any_of(tools.definitions, [&](const ordered_json& tool) {
    return tool.at("function").at("name") == tools.name;
  });
  if (tools.choice == ToolChoice::kNamed && !known) {
    fields.fail("tool_choice", "names a function that is not among the tools");
  }
}

}  // namespace

void parse_tools(JsonFields& fields, std::string_view body, ToolOptions& tools,
                 std::optional<ApiError>& error) {
  fields.boolean("parallel_tool_calls", tools.parallel_calls);
  const json* list = fields.find("tools");
  if (fields.failed()) return;
  if (list != nullptr && !list->is_array()) {
    return fields.fail("tools", fmt::format("must be a list, not {}", json_type_name(*list)));
  }
  if (list != nullptr && !list->empty()) {
    if (list->size() > kMaxTools) {
      return fields.fail(
          "tools", fmt::format("has {} entries, at most {} are allowed", list->size(), kMaxTools));
    }
    if (list->dump(-1, ' ', false, json::error_handler_t::replace).size() > kMaxToolBytes) {
      return fields.fail("tools", fmt::format("has more than {} bytes", kMaxToolBytes));
    }
    for (size_t i = 0; i < list->size() && !error; ++i) check_tool((*list)[i], i, error);
    if (error) return;
    auto ordered = parse_ordered_json(body, "the body");
    if (!ordered.ok()) {
      error = bad_field("tools", ordered.error().message);
      return;
    }
    tools.definitions = std::move(ordered.value()["tools"]);
    for (ordered_json& tool : tools.definitions) tool["type"] = "function";
  }
  parse_choice(fields, tools, error);
}

ordered_json parse_tool_calls(JsonFields& message_fields, std::optional<ApiError>& error) {
  const json* list = message_fields.find("tool_calls");
  if (list == nullptr || error) return nullptr;
  if (!list->is_array() || list->size() > kMaxCalls) {
    message_fields.fail("tool_calls", fmt::format("must be a list of at most {} calls", kMaxCalls));
    return nullptr;
  }
  ordered_json calls = ordered_json::array();
  for (size_t i = 0; i < list->size() && !error; ++i) {
    const std::string name = message_fields.full_name(fmt::format("tool_calls[{}]", i));
    const json& item = (*list)[i];
    if (!item.is_object()) {
      error = bad_field(name, name + " must be an object");
      break;
    }
    JsonFields fields(item, name + ".", error);
    if (!check_type(fields)) break;
    std::string id, function_name, arguments;
    fields.text("id", kMaxIdBytes, id);
    const json* function = required_object(fields, "function");
    if (function == nullptr) break;
    JsonFields parts(*function, name + ".function.", error);
    if (!parts.text("name", kMaxNameBytes, function_name)) parts.fail("name", "is required");
    parts.text("arguments", kMaxArgumentBytes, arguments);
    calls.push_back({{"id", id},
                     {"type", "function"},
                     {"function", {{"name", function_name}, {"arguments", arguments}}}});
  }
  if (error || calls.empty()) return nullptr;
  return calls;
}

}  // namespace deepflight
