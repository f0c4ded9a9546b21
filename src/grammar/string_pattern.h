// Regular expressions of a schema's `pattern`, as grammar. The subset that ECMA 262 and Python read
// alike: characters, classes, \d \w \s, groups, alternatives, quantifiers, and anchors at the two
// ends of an alternative of the whole. \d, \w and \s are ASCII's, and their opposites leave out
// what either of the two counts in, so a string made for a pattern matches it everywhere. Refused:
// look-around, back references, \b, \p.
#pragma once

#include <string_view>

#include "base/result.h"
#include "grammar/json_rules.h"

namespace deepflight {

inline constexpr size_t kMaxPatternBytes = 1024;

// The rule of what stands between the quotes of a JSON string that the pattern, as JSON schema has
// it, finds a match in. Errors say what at which byte.
Result<RuleId> compile_pattern(JsonRules& rules, std::string_view pattern);

}  // namespace deepflight
