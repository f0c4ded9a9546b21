// A recursive-descent parser into a small tree, then the tree into nodes.
#include "grammar/string_pattern.h"

#include <memory>
#include <vector>

#include "text/unicode.h"

namespace deepflight {
namespace {

constexpr int kMaxDepth = 32;
constexpr int32_t kMaxRepeat = 10'000;

struct Part {
  enum class Kind : uint8_t { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd };
  Kind kind = Kind::kSequence;
  CharSet set;
  std::vector<Part> parts;  // of a sequence or choice; the one of a repeat
  int32_t min = 0;
  int32_t max = 0;
};

CharSet digits() { return CharSet().add('0', '9'); }
CharSet word() { return digits().add('A', 'Z').add('a', 'z').add('_'); }
CharSet white_space() { return CharSet().add('\t', '\r').add(' '); }
// What Python or ECMA count as white space beyond that.
CharSet all_white_space() {
  return white_space()
      .add(0x1C, 0x1F)
      .add(0x85)
      .add(0xA0)
      .add(0x1680)
      .add(0x2000, 0x200A)
      .add(0x2028, 0x2029)
      .add(0x202F)
      .add(0x205F)
      .add(0x3000)
      .add(0xFEFF);
}
CharSet ascii() { return CharSet().add(0, 0x7F); }
CharSet line_ends() { return CharSet().add('\n').add('\r').add(0x2028, 0x2029); }

class PatternParser {
 public:
  explicit PatternParser(std::string_view pattern) : pattern_(pattern) {}

  Result<Part> parse() {
    ASSIGN_OR_RETURN(Part whole, choice(0));
    if (at_ < pattern_.size()) return fail("')' without '('");
    return whole;
  }

 private:
  bool done() const { return at_ >= pattern_.size(); }
  bool next_is(char c) const { return !done() && pattern_[at_] == c; }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t take_character() {
    const CodePoint c = decode_code_point(pattern_, at_);
    at_ += c.num_bytes;
    return c.value;
  }
  template <typename... Args>
  Error fail(fmt::format_string<Args...> format, Args&&... args) const {
    return unsupported("{} at byte {} is not supported",
                       fmt::format(format, std::forward<Args>(args)...), at_);
  }

  Result<Part> choice(int depth) {
    if (depth > kMaxDepth) return fail("nesting deeper than {}", kMaxDepth);
    Part part{.kind = Part::Kind::kChoice};
    do {
      ASSIGN_OR_RETURN(Part branch, sequence(depth));
      part.parts.push_back(std::move(branch));
    } while (take("|"));
    return part;
  }

  Result<Part> sequence(int depth) {
    Part part{.kind = Part::Kind::kSequence};
    while (!done() && !next_is('|') && !next_is(')')) {
      if (take("^")) {
        if (depth > 0 || !part.parts.empty()) return fail("'^' but at the beginning");
        part.parts.push_back({.kind = Part::Kind::kBegin});
        continue;
      }
      if (take("$")) {
        if (depth > 0 || !(done() || next_is('|'))) return fail("'$' but at the end");
        part.parts.push_back({.kind = Part::Kind::kEnd});
        continue;
      }
      ASSIGN_OR_RETURN(Part piece, atom(depth));
      RETURN_IF_ERROR(quantify(piece));
      part.parts.push_back(std::move(piece));
    }
    return part;
  }

  Result<Part> atom(int depth) {
    if (take("(")) {
      if (next_is('?') && !take("?:")) return fail("a group beginning with '(?'");
      ASSIGN_OR_RETURN(Part group, choice(depth + 1));
      if (!take(")")) return fail("'(' without ')'");
      return group;
    }
    Part part{.kind = Part::Kind::kSet};
    if (take("[")) {
      ASSIGN_OR_RETURN(part.set, char_class());
    } else if (take(".")) {
      part.set = line_ends().complement();
    } else if (take("\\")) {
      ASSIGN_OR_RETURN(part.set, escape(/*in_class=*/false));
    } else if (next_is('*') || next_is('+') || next_is('?')) {
      return fail("a quantifier of nothing");
    } else if (next_is('{') || next_is('}') || next_is(']')) {
      return fail("'{}' without a backslash", pattern_[at_]);
    } else {
      part.set.add(take_character());
    }
    return part;
  }

  // What comes behind a backslash.
  Result<CharSet> escape(bool in_class) {
    if (done()) return fail("a backslash at the end");
    const char c = pattern_[at_];
    switch (c) {
      case 'd':
        return ++at_, digits();
      case 'D':
        return ++at_, digits().complement().intersection(ascii());
      case 'w':
        return ++at_, word();
      case 'W':
        return ++at_, word().complement().intersection(ascii());
      case 's':
        return ++at_, white_space();
      case 'S':
        return ++at_, all_white_space().complement();
      case 'n':
        return ++at_, CharSet().add('\n');
      case 'r':
        return ++at_, CharSet().add('\r');
      case 't':
        return ++at_, CharSet().add('\t');
      case 'f':
        return ++at_, CharSet().add('\f');
      case 'v':
        return ++at_, CharSet().add('\v');
      case 'x':
        return ++at_, hex_character(2);
      case 'u':
        return ++at_, hex_character(4);
      default:
        break;
    }
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_letter || (c >= '0' && c <= '9') || static_cast<uint8_t>(c) >= 0x80) {
      return fail("'\\{}'{}", static_cast<uint8_t>(c) < 0x80 ? std::string(1, c) : "...",
                  in_class ? " in a class" : "");
    }
    return CharSet().add(take_character());
  }

  Result<CharSet> hex_character(size_t num_digits) {
    char32_t value = 0;
    for (size_t i = 0; i < num_digits; ++i, ++at_) {
      const char c = done() ? ' ' : pattern_[at_];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return fail("an escape with fewer than {} hexadecimal digits", num_digits);
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value >= 0xD800 && value <= 0xDFFF) return fail("a surrogate");
    return CharSet().add(value);
  }

  Result<CharSet> char_class() {
    const bool negated = take("^");
    CharSet set;
    bool first = true;
    while (true) {
      if (done()) return fail("'[' without ']'");
      if (!first && take("]")) break;
      if (first && next_is(']')) return fail("an empty class");
      first = false;
      ASSIGN_OR_RETURN(CharSet item, class_item());
      if (!next_is('-') || pattern_.substr(at_).starts_with("-]")) {
        set.add(item);
        continue;
      }
      ++at_;
      if (done()) return fail("'[' without ']'");
      ASSIGN_OR_RETURN(const CharSet end, class_item());
      const auto is_one = [](const CharSet& of) {
        return of.ranges().size() == 1 && of.ranges()[0].first == of.ranges()[0].last;
      };
      if (!is_one(item) || !is_one(end) || item.ranges()[0].first > end.ranges()[0].first) {
        return fail("a range that is none");
      }
      set.add(item.ranges()[0].first, end.ranges()[0].first);
    }
    // Not through the sets of \d and the like: their opposites are not each other's complement.
    return negated ? set.complement() : set.intersection(CharSet::all());
  }

  Result<CharSet> class_item() {
    if (take("\\")) {
      if (take("b")) return CharSet().add('\b');
      return escape(/*in_class=*/true);
    }
    if (next_is('[')) return fail("'[' in a class");
    return CharSet().add(take_character());
  }

  Status quantify(Part& part) {
    int32_t min = 1, max = 1;
    if (take("*")) {
      min = 0, max = kUnbounded;
    } else if (take("+")) {
      max = kUnbounded;
    } else if (take("?")) {
      min = 0;
    } else if (take("{")) {
      ASSIGN_OR_RETURN(min, count());
      max = min;
      if (take(",")) {
        max = kUnbounded;
        if (!next_is('}')) {
          ASSIGN_OR_RETURN(max, count());
        }
      }
      if (!take("}")) return fail("'{{' without '}}'");
      if (min > max) return fail("a quantifier whose bounds are the wrong way round");
    } else {
      return ok_status();
    }
    take("?");  // lazy: the same strings
    if (next_is('*') || next_is('+') || next_is('?') || next_is('{')) {
      return fail("a quantifier of a quantifier");
    }
    Part repeat{.kind = Part::Kind::kRepeat, .min = min, .max = max};
    repeat.parts.push_back(std::move(part));
    part = std::move(repeat);
    return ok_status();
  }

  Result<int32_t> count() {
    int32_t value = 0;
    const size_t begin = at_;
    while (!done() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
      value = value * 10 + (pattern_[at_++] - '0');
      if (value > kMaxRepeat) return fail("a repetition above {}", kMaxRepeat);
    }
    if (at_ == begin) return fail("a quantifier without a number");
    return value;
  }

  const std::string_view pattern_;
  size_t at_ = 0;
};

class PatternWriter {
 public:
  explicit PatternWriter(JsonRules& rules) : rules_(rules), builder_(rules.builder()) {}

  // From `from`; returns where it ends.
  NodeId write(NodeId from, const Part& part) {
    switch (part.kind) {
      case Part::Kind::kSet: {
        const NodeId to = builder_.new_state();
        const auto& ranges = part.set.ranges();
        if (ranges.size() == 1 && ranges[0].first == ranges[0].last) {
          add_json_characters(builder_, from, to, part.set);
        } else if (!ranges.empty()) {
          builder_.call(from, rules_.characters(part.set), to);
        }
        return to;
      }
      case Part::Kind::kSequence:
        for (const Part& piece : part.parts) from = write(from, piece);
        return from;
      case Part::Kind::kChoice: {
        if (part.parts.size() == 1) return write(from, part.parts[0]);
        const NodeId to = builder_.new_state();
        for (const Part& branch : part.parts) {
          const NodeId start = builder_.new_state();
          builder_.jump(from, start);
          builder_.jump(write(start, branch), to);
        }
        return to;
      }
      case Part::Kind::kRepeat:
        return builder_.repeat(from, rule_of(part.parts[0]), part.min, part.max);
      case Part::Kind::kBegin:
      case Part::Kind::kEnd:
        break;
    }
    return from;
  }

  // An alternative of the whole: where it is not anchored anything may stand.
  NodeId write_anchored(NodeId from, const Part& sequence) {
    const auto& parts = sequence.parts;
    const bool begins = !parts.empty() && parts.front().kind == Part::Kind::kBegin;
    const bool ends = !parts.empty() && parts.back().kind == Part::Kind::kEnd;
    if (!begins) from = anything(from);
    from = write(from, sequence);
    return ends ? from : anything(from);
  }

 private:
  NodeId anything(NodeId from) {
    return builder_.repeat(from, rules_.character(), 0, kUnbounded, /*is_text=*/true);
  }

  RuleId rule_of(const Part& part) {
    if (part.kind == Part::Kind::kSet && !part.set.empty()) return rules_.characters(part.set);
    const RuleId rule = builder_.new_rule();
    builder_.jump(write(builder_.start(rule), part), builder_.final(rule));
    return rule;
  }

  JsonRules& rules_;
  GrammarBuilder& builder_;
};

}  // namespace

Result<RuleId> compile_pattern(JsonRules& rules, std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return invalid_argument("{} bytes, at most {} are allowed", pattern.size(), kMaxPatternBytes);
  }
  if (!is_valid_utf8(pattern)) return invalid_argument("it is not UTF-8");
  ASSIGN_OR_RETURN(const Part whole, PatternParser(pattern).parse());
  const RuleId rule = rules.builder().new_rule();
  PatternWriter writer(rules);
  for (const Part& branch : whole.parts) {
    const NodeId start = rules.builder().new_state();
    rules.builder().jump(rules.builder().start(rule), start);
    rules.builder().jump(writer.write_anchored(start, branch), rules.builder().final(rule));
  }
  return rule;
}

}  // namespace deepflight
