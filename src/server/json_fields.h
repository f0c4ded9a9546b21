// Typed, range-checked reading of a JSON object's fields. The first thing wrong is kept as an
// ApiError that names the field, and later reads do nothing, so a parser reads straight down and
// looks once. A field that is absent or null leaves its default.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace deepflight {

class JsonFields {
 public:
  // Reads fields of `object`; errors go to `error`, which parser and sub-objects share. `prefix`
  // stands before a field's name in errors ("stream_options.").
  JsonFields(const nlohmann::json& object, std::string prefix, std::optional<ApiError>& error)
      : object_(object), prefix_(std::move(prefix)), error_(error) {}

  // The field's value, or null if it is absent, null, or something was wrong before.
  const nlohmann::json* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  // Each returns true if it wrote `out`.
  bool boolean(std::string_view name, bool& out);
  bool text(std::string_view name, size_t max_bytes, std::string& out);
  // In [low, high], or (low, high] if `above_low`.
  bool number(std::string_view name, double low, double high, float& out, bool above_low = false);
  bool integer(std::string_view name, int64_t low, int64_t high, int64_t& out);
  bool integer(std::string_view name, int64_t low, int64_t high, int& out);
  bool integers(std::string_view name, size_t max_count, int64_t low, int64_t high,
                std::vector<int32_t>& out);
  // A string, or a list of them.
  bool texts(std::string_view name, size_t max_count, size_t max_bytes,
             std::vector<std::string>& out);

  // Names that are known and change nothing.
  void ignore(std::initializer_list<std::string_view> names) {
    asked_.insert(names.begin(), names.end());
  }
  // To be called last: fails with a field that is not null and that nothing above asked for.
  void refuse_others();

  void fail(std::string_view name, std::string message);
  bool failed() const { return error_.has_value(); }
  std::string full_name(std::string_view name) const { return prefix_ + std::string(name); }

 private:
  const nlohmann::json& object_;
  const std::string prefix_;
  std::optional<ApiError>& error_;
  mutable std::set<std::string, std::less<>> asked_;
};

// The value of an integer, or of a float without a fraction; empty for anything else or if it does
// not fit.
std::optional<int64_t> as_integer(const nlohmann::json& value);

// "a string", "a list": for messages.
std::string_view json_type_name(const nlohmann::json& value);

}  // namespace deepflight
