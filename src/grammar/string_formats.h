// The formats of strings that a schema may ask for.
#pragma once

#include <optional>
#include <string_view>

namespace deepflight {

// The pattern (string_pattern.h) of a format, none for one that is not known. Each is a part of
// what the format allows that is easily told: dates of 1000 to 9999 without 29 February, no leap
// seconds.
std::optional<std::string_view> format_pattern(std::string_view format);

}  // namespace deepflight
