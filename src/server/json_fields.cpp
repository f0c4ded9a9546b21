// Reading typed fields and saying what is wrong with them.
#include "server/json_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace deepflight {

using nlohmann::json;

namespace {
constexpr size_t kMaxShownBytes = 64;  // of a name that the client made up
}

std::string_view json_type_name(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "a list";
    case json::value_t::string:
      return "a string";
    case json::value_t::boolean:
      return "a boolean";
    default:
      return "a number";
  }
}

std::optional<int64_t> as_integer(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  constexpr double kLimit = 9007199254740992.0;  // 2^53: beyond it a double is not one integer
  if (!(std::abs(number) <= kLimit) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

const json* JsonFields::find(std::string_view name) const {
  if (error_) return nullptr;
  const auto it = object_.find(name);
  if (it == object_.end() || it->is_null()) return nullptr;
  asked_.emplace(name);
  return &*it;
}

void JsonFields::refuse_others() {
  if (error_) return;
  for (const auto& [name, value] : object_.items()) {
    if (value.is_null() || asked_.contains(name)) continue;
    error_ =
        bad_field(full_name(name.substr(0, kMaxShownBytes)),
                  fmt::format("unrecognized field: {}", full_name(name.substr(0, kMaxShownBytes))));
    error_->code = "unknown_parameter";
    return;
  }
}

void JsonFields::fail(std::string_view name, std::string message) {
  if (!error_) error_ = bad_field(full_name(name), full_name(name) + " " + message);
}

bool JsonFields::boolean(std::string_view name, bool& out) {
  const json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    fail(name, fmt::format("must be a boolean, not {}", json_type_name(*value)));
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool JsonFields::text(std::string_view name, size_t max_bytes, std::string& out) {
  const json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    fail(name, fmt::format("must be a string, not {}", json_type_name(*value)));
    return false;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    fail(name, fmt::format("is {} bytes long, at most {} are allowed", text.size(), max_bytes));
    return false;
  }
  out = text;
  return true;
}

bool JsonFields::number(std::string_view name, double low, double high, float& out,
                        bool above_low) {
  const json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    fail(name, fmt::format("must be a number, not {}", json_type_name(*value)));
    return false;
  }
  const auto number = value->get<double>();
  const auto rounded = static_cast<float>(number);
  // The rounded one too: a tiny number above an open bound must not become the bound.
  const bool inside = number <= high && rounded <= static_cast<float>(high) &&
                      (above_low ? rounded > low : number >= low);
  if (!inside) {
    fail(name,
         fmt::format("is {}, must be in {}{}, {}]", number, above_low ? "(" : "[", low, high));
    return false;
  }
  out = rounded;
  return true;
}

bool JsonFields::integer(std::string_view name, int64_t low, int64_t high, int64_t& out) {
  const json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    fail(name, fmt::format("must be an integer, not {}", json_type_name(*value)));
    return false;
  }
  const auto number = as_integer(*value);
  if (!number || *number < low || *number > high) {
    fail(name, fmt::format("is {}, must be an integer in [{}, {}]", value->dump(), low, high));
    return false;
  }
  out = *number;
  return true;
}

bool JsonFields::integer(std::string_view name, int64_t low, int64_t high, int& out) {
  int64_t wide = 0;
  if (!integer(name, low, high, wide)) return false;
  out = static_cast<int>(wide);
  return true;
}

bool JsonFields::integers(std::string_view name, size_t max_count, int64_t low, int64_t high,
                          std::vector<int32_t>& out) {
  const json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_array()) {
    fail(name, fmt::format("must be a list of integers, not {}", json_type_name(*value)));
    return false;
  }
  if (value->size() > max_count) {
    fail(name, fmt::format("has {} entries, at most {} are allowed", value->size(), max_count));
    return false;
  }
  out.clear();
  for (const json& item : *value) {
    const auto number = as_integer(item);
    if (!number || *number < low || *number > high) {
      fail(name, fmt::format("must hold integers in [{}, {}]", low, high));
      return false;
    }
    out.push_back(static_cast<int32_t>(*number));
  }
  return true;
}

bool JsonFields::texts(std::string_view name, size_t max_count, size_t max_bytes,
                       std::vector<std::string>& out) {
  const json* value = find(name);
  if (value == nullptr) return false;
  const auto take = [&](const json& item) {
    if (!item.is_string()) {
      fail(name,
           fmt::format("must be a string or a list of strings, not {}", json_type_name(item)));
      return false;
    }
    const auto& text = item.get_ref<const std::string&>();
    if (text.empty() || text.size() > max_bytes) {
      fail(name, fmt::format("has a string of {} bytes, must be 1 to {}", text.size(), max_bytes));
      return false;
    }
    out.push_back(text);
    return true;
  };
  out.clear();
  if (!value->is_array()) return take(*value);
  if (value->size() > max_count) {
    fail(name, fmt::format("has {} entries, at most {} are allowed", value->size(), max_count));
    return false;
  }
  for (const json& item : *value) {
    if (!take(item)) return false;
  }
  return true;
}

}  // namespace deepflight
