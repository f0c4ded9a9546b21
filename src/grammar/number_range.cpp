// Digit by digit against both bounds: a state knows whether the digits so far are still those of
// the lower bound, and of the upper one.
#include "grammar/number_range.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>

namespace deepflight {
namespace {

constexpr int kMaxDigits = 15;
constexpr int kMaxFreeDigits = 9;  // of integers that are multiples, where no bound says more
constexpr int kFractionDigits = 6;

// A number's decimal digits, exactly as its shortest spelling has them.
struct Decimal {
  bool is_negative = false;
  std::string whole = "0";
  std::string fraction;  // without zeros at the end

  bool is_zero() const { return whole == "0" && fraction.empty(); }
  // Digit `at` counted from the point: negative before it.
  char digit(int at) const {
    if (at >= 0) return at < std::ssize(fraction) ? fraction[at] : '0';
    return whole[static_cast<size_t>(std::ssize(whole) + at)];
  }
};

Result<Decimal> parse_decimal(const nlohmann::ordered_json& number) {
  const std::string text = number.dump();
  Decimal decimal;
  std::string digits;
  int point = -1, exponent = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '-') {
      decimal.is_negative = true;
    } else if (c == '.') {
      point = static_cast<int>(digits.size());
    } else if (c == 'e' || c == 'E') {
      exponent = std::atoi(text.c_str() + i + 1);
      break;
    } else {
      digits += c;
    }
  }
  const Error too_long = unsupported("a bound of more than {} digits is not supported", kMaxDigits);
  if (point < 0) point = static_cast<int>(digits.size());
  point += exponent;
  if (std::abs(point) > 2 * kMaxDigits) return too_long;
  if (point <= 0) {
    digits.insert(0, static_cast<size_t>(1 - point), '0');
    point = 1;
  }
  if (point > std::ssize(digits)) digits.append(static_cast<size_t>(point) - digits.size(), '0');
  decimal.whole = digits.substr(0, static_cast<size_t>(point));
  decimal.fraction = digits.substr(static_cast<size_t>(point));
  decimal.whole.erase(0, std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size() - 1));
  while (decimal.fraction.ends_with('0')) decimal.fraction.pop_back();
  if (decimal.whole.size() + decimal.fraction.size() > kMaxDigits) return too_long;
  if (decimal.is_zero()) decimal.is_negative = false;
  return decimal;
}

struct Limit {
  Decimal value;
  bool is_exclusive = false;
};

// Magnitudes between two limits, the upper one absent where there is none.
class MagnitudeWriter {
 public:
  MagnitudeWriter(GrammarBuilder& builder, Limit low, std::optional<Limit> high, int num_fraction,
                  int64_t multiple_of)
      : builder_(builder),
        low_(std::move(low)),
        high_(std::move(high)),
        num_fraction_(num_fraction),
        multiple_of_(multiple_of) {}

  void write(NodeId from, NodeId to) {
    to_ = to;
    const int shortest = static_cast<int>(low_.value.whole.size());
    const int longest = high_              ? static_cast<int>(high_->value.whole.size())
                        : multiple_of_ > 1 ? std::max(shortest, kMaxFreeDigits)
                                           : kMaxDigits;
    for (int length = shortest; length <= longest; ++length) {
      const bool at_low = length == shortest;
      const bool at_high = high_ && length == longest;
      builder_.jump(from, state({-length, length, at_low, at_high, 0}));
    }
  }

 private:
  // Where a number of `length` whole digits is: `at` digits behind the point (negative: before it).
  struct State {
    int at = 0;
    int length = 0;
    bool at_low = false;
    bool at_high = false;
    int64_t remainder = 0;
    friend auto operator<=>(const State&, const State&) = default;
  };

  NodeId state(const State& key) {
    const auto [entry, is_new] = states_.try_emplace(key, 0);
    if (!is_new || builder_.overflowed()) return entry->second;
    const NodeId node = entry->second = builder_.new_state();
    if (key.at >= 0 && may_end(key)) builder_.jump(node, to_);
    if (key.at < num_fraction_) {
      add_digits(key.at == 0 ? builder_.literal(node, ".") : node, key);
    }
    return node;
  }

  void add_digits(NodeId node, const State& key) {
    const bool leads = key.at == -key.length && key.length > 1;
    const char first = key.at_low ? low_.value.digit(key.at) : leads ? '1' : '0';
    const char last = key.at_high ? high_->value.digit(key.at) : '9';
    for (char digit = first; digit <= last; ++digit) {
      State next = key;
      ++next.at;
      next.at_low = key.at_low && digit == first;
      next.at_high = key.at_high && digit == last;
      next.remainder = (key.remainder * 10 + (digit - '0')) % multiple_of_;
      builder_.edge(node, static_cast<Symbol>(digit), static_cast<Symbol>(digit), state(next));
    }
  }

  // The digits not written are zeros.
  bool may_end(const State& key) const {
    const auto has_more = [&](const Limit& limit) {
      return key.at < std::ssize(limit.value.fraction);
    };
    if (key.remainder != 0) return false;
    if (key.at_low && (low_.is_exclusive || has_more(low_))) return false;
    return !(key.at_high && high_->is_exclusive && !has_more(*high_));
  }

  GrammarBuilder& builder_;
  const Limit low_;
  const std::optional<Limit> high_;
  const int num_fraction_;
  const int64_t multiple_of_;
  NodeId to_ = 0;
  std::map<State, NodeId> states_;
};

}  // namespace

Result<RuleId> compile_number_range(GrammarBuilder& builder, const NumberRange& range) {
  std::optional<Limit> low, high;
  int num_fraction = range.is_integer ? 0 : kFractionDigits;
  for (const auto& [bound, limit] : {std::pair(&range.low, &low), std::pair(&range.high, &high)}) {
    if (!*bound) continue;
    ASSIGN_OR_RETURN(Decimal value, parse_decimal((*bound)->value));
    if (!range.is_integer) {
      // All numbers differ as doubles that differ in these digits.
      const int room = kMaxDigits - static_cast<int>(value.whole.size());
      num_fraction =
          std::max(std::min(num_fraction, room), static_cast<int>(value.fraction.size()));
    }
    *limit = Limit{std::move(value), (*bound)->is_exclusive};
  }
  const RuleId rule = builder.new_rule();
  const NodeId start = builder.start(rule);
  const NodeId final = builder.final(rule);
  const Limit zero;
  const auto magnitude = [&](NodeId from, Limit least, std::optional<Limit> most) {
    MagnitudeWriter(builder, std::move(least), std::move(most), num_fraction, range.multiple_of)
        .write(from, final);
  };
  if (!high || !high->value.is_negative) {
    magnitude(start, low && !low->value.is_negative ? *low : zero, high);
  }
  if (!low || low->value.is_negative) {
    const Limit below_zero{Decimal(), true};
    std::optional<Limit> most = low;
    if (most) most->value.is_negative = false;
    Limit least = high && high->value.is_negative ? *high : below_zero;
    magnitude(builder.literal(start, "-"), least, most);
  }
  return rule;
}

}  // namespace deepflight
