// Numbers between two bounds, as grammar.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "base/result.h"
#include "grammar/json_rules.h"

namespace deepflight {

struct NumberRange {
  struct Bound {
    nlohmann::ordered_json value;  // a number
    bool is_exclusive = false;
  };
  std::optional<Bound> low;
  std::optional<Bound> high;
  bool is_integer = false;
  int64_t multiple_of = 1;  // of integers, at least 1
};

inline constexpr int64_t kMaxMultipleOf = 1000;

// Written without an exponent, with up to 15 digits and, if not integers, with up to 6 of them
// behind the point (or as many as the bounds have). Errors: kUnsupported for a bound of more than
// 15 digits or past 10^15.
Result<RuleId> compile_number_range(GrammarBuilder& builder, const NumberRange& range);

}  // namespace deepflight
