// JSON's own grammar.
#include "grammar/json_rules.h"

#include <algorithm>
#include <set>

namespace deepflight {
namespace {

constexpr int32_t kMaxIndent = 16;
constexpr int32_t kMaxTabs = 8;
constexpr int32_t kMaxDigits = 15;
constexpr int32_t kMaxExponentDigits = 2;
constexpr int32_t kMaxNameLength = 64;

void add_hex_digit(GrammarBuilder& builder, NodeId from, NodeId to) {
  builder.edge(from, '0', '9', to);
  builder.edge(from, 'a', 'f', to);
  builder.edge(from, 'A', 'F', to);
}

}  // namespace

NodeId JsonRules::space(NodeId from) {
  if (!space_) {
    space_ = builder_.new_rule();
    const NodeId start = builder_.start(*space_);
    const NodeId final = builder_.final(*space_);
    builder_.edge(start, ' ', ' ', final);
    const NodeId line = builder_.literal(start, "\n");
    const RuleId blank = builder_.new_rule();
    builder_.edge(builder_.start(blank), ' ', ' ', builder_.final(blank));
    builder_.jump(builder_.repeat(line, blank, 0, kMaxIndent), final);
    const RuleId tab = builder_.new_rule();
    builder_.edge(builder_.start(tab), '\t', '\t', builder_.final(tab));
    builder_.jump(builder_.repeat(line, tab, 1, kMaxTabs), final);
  }
  const NodeId to = builder_.new_state();
  builder_.jump(from, to);
  builder_.call(from, *space_, to);
  return to;
}

RuleId JsonRules::plain_character() {
  if (plain_character_) return *plain_character_;
  plain_character_ = builder_.new_rule();
  const CharSet set = CharSet().add(0, 0x1F).add('"').add('\\').complement();
  add_json_characters(builder_, builder_.start(*plain_character_),
                      builder_.final(*plain_character_), set);
  return *plain_character_;
}

RuleId JsonRules::character() {
  if (character_) return *character_;
  character_ = builder_.new_rule();
  const NodeId start = builder_.start(*character_);
  const NodeId final = builder_.final(*character_);
  const CharSet set = CharSet().add(0, 0x1F).add('"').add('\\').complement();
  add_json_characters(builder_, start, final, set);
  const NodeId escape = builder_.literal(start, "\\");
  for (const char c : std::string_view("\"\\/bfnrt")) {
    builder_.edge(escape, static_cast<Symbol>(c), static_cast<Symbol>(c), final);
  }
  // \uXXXX, but for the surrogates D800 to DFFF: those characters come as they are.
  const NodeId u = builder_.literal(escape, "u");
  const NodeId one = builder_.new_state();
  builder_.edge(u, '0', '9', one);
  builder_.edge(u, 'a', 'c', one);
  builder_.edge(u, 'A', 'C', one);
  builder_.edge(u, 'e', 'f', one);
  builder_.edge(u, 'E', 'F', one);
  const NodeId two = builder_.new_state();
  add_hex_digit(builder_, one, two);
  const NodeId d = builder_.new_state();
  builder_.edge(u, 'd', 'd', d);
  builder_.edge(u, 'D', 'D', d);
  builder_.edge(d, '0', '7', two);
  const NodeId three = builder_.new_state();
  add_hex_digit(builder_, two, three);
  add_hex_digit(builder_, three, final);
  return *character_;
}

RuleId JsonRules::characters(const CharSet& set) {
  const auto [entry, is_new] = sets_.try_emplace(set, 0);
  if (is_new) {
    entry->second = builder_.new_rule();
    add_json_characters(builder_, builder_.start(entry->second), builder_.final(entry->second),
                        set);
  }
  return entry->second;
}

void JsonRules::text(NodeId from, NodeId to, int32_t min, int32_t max) {
  const NodeId begin = builder_.literal(from, "\"");
  const NodeId end = builder_.repeat(begin, character(), min, max, /*is_text=*/true);
  builder_.edge(end, '"', '"', to);
}

RuleId JsonRules::string() {
  if (string_) return *string_;
  string_ = builder_.new_rule();
  text(builder_.start(*string_), builder_.final(*string_), 0, kUnbounded);
  return *string_;
}

RuleId JsonRules::digits(int32_t min, int32_t max) {
  if (!digit_) {
    digit_ = builder_.new_rule();
    builder_.edge(builder_.start(*digit_), '0', '9', builder_.final(*digit_));
  }
  const RuleId rule = builder_.new_rule();
  builder_.jump(builder_.repeat(builder_.start(rule), *digit_, min, max), builder_.final(rule));
  return rule;
}

RuleId JsonRules::integer() {
  if (integer_) return *integer_;
  integer_ = builder_.new_rule();
  const NodeId start = builder_.start(*integer_);
  const NodeId final = builder_.final(*integer_);
  const NodeId magnitude = builder_.new_state();
  builder_.jump(start, magnitude);
  builder_.edge(start, '-', '-', magnitude);
  builder_.edge(magnitude, '0', '0', final);
  const NodeId first = builder_.new_state();
  builder_.edge(magnitude, '1', '9', first);
  builder_.call(first, digits(0, kMaxDigits - 1), final);
  return *integer_;
}

RuleId JsonRules::number() {
  if (number_) return *number_;
  number_ = builder_.new_rule();
  const NodeId final = builder_.final(*number_);
  const NodeId whole = builder_.call(builder_.start(*number_), integer());
  builder_.jump(whole, final);
  const NodeId fraction = builder_.call(builder_.literal(whole, "."), digits(1, kMaxDigits));
  builder_.jump(fraction, final);
  const NodeId exponent = builder_.new_state();
  for (const NodeId from : {whole, fraction}) {
    builder_.edge(from, 'e', 'e', exponent);
    builder_.edge(from, 'E', 'E', exponent);
  }
  const NodeId power = builder_.new_state();
  builder_.jump(exponent, power);
  builder_.edge(exponent, '+', '+', power);
  builder_.edge(exponent, '-', '-', power);
  builder_.call(power, digits(1, kMaxExponentDigits), final);
  return *number_;
}

void JsonRules::literals(NodeId from, NodeId to, std::span<const std::string> texts) {
  // A trie: alternatives share their beginnings.
  std::map<std::pair<NodeId, char>, NodeId> known;
  for (const std::string& text : texts) {
    NodeId at = from;
    for (const char c : text) {
      const auto [entry, is_new] = known.try_emplace({at, c}, 0);
      if (is_new) entry->second = builder_.literal(at, std::string_view(&c, 1));
      at = entry->second;
    }
    builder_.jump(at, to);
  }
}

NodeId JsonRules::other_name(NodeId from, std::span<const std::string> names) {
  const NodeId end = builder_.new_state();
  const NodeId open = builder_.literal(from, "\"");
  const NodeId rest = builder_.new_state();  // no name begins like this any more
  const NodeId after_rest =
      builder_.repeat(rest, plain_character(), 0, kMaxNameLength, /*is_text=*/true);
  builder_.edge(after_rest, '"', '"', end);

  // Along the names, as a trie of bytes; a byte that leaves it leads to the rest. The bytes of a
  // character that is left half way are finished first.
  struct Branch {
    NodeId node = 0;
    std::map<uint8_t, size_t> children;
    bool is_name = false;
    int num_missing = 0;  // bytes until the character is whole
  };
  std::vector<Branch> trie = {{open, {}, false, 0}};
  for (const std::string& name : names) {
    size_t at = 0;
    for (const char c : name) {
      const auto byte = static_cast<uint8_t>(c);
      const auto found = trie[at].children.find(byte);
      if (found != trie[at].children.end()) {
        at = found->second;
        continue;
      }
      const int missing = trie[at].num_missing > 0 ? trie[at].num_missing - 1
                          : byte >= 0xF0           ? 3
                          : byte >= 0xE0           ? 2
                          : byte >= 0xC0           ? 1
                                                   : 0;
      const NodeId node = builder_.literal(trie[at].node, std::string_view(&c, 1));
      trie[at].children[byte] = trie.size();
      at = trie.size();
      trie.push_back({node, {}, false, missing});
    }
    trie[at].is_name = true;
  }
  for (const Branch& branch : trie) {
    if (branch.num_missing > 0) continue;  // see below
    if (!branch.is_name && branch.node != open) builder_.edge(branch.node, '"', '"', end);
    if (branch.node == open && !branch.is_name) builder_.edge(open, '"', '"', end);
    CharSet others = CharSet().add(0, 0x1F).add('"').add('\\').complement();
    CharSet taken;
    for (const auto& [byte, child] : branch.children) {
      // NOTE: of a name that goes on past ASCII, no character past ASCII leaves the trie: fewer
      // names can be made up, and none of them is wrong.
      if (byte < 0x80) {
        taken.add(byte);
      } else {
        taken.add(0x80, 0x10FFFF);
      }
    }
    others = others.intersection(taken.complement());
    if (!others.empty()) builder_.call(branch.node, characters(others), rest);
  }
  return end;
}

RuleId JsonRules::pair(RuleId value, std::span<const std::string> taken_names) {
  const RuleId rule = builder_.new_rule();
  NodeId at = builder_.new_state();
  if (taken_names.empty()) {
    text(builder_.start(rule), at, 0, kMaxNameLength);
  } else {
    at = other_name(builder_.start(rule), taken_names);
  }
  at = space(builder_.literal(at, ":"));
  builder_.call(at, value, builder_.final(rule));
  return rule;
}

// What {...} and [...] have in common: nothing, or parts with commas between them.
static void add_list(JsonRules& rules, RuleId list, char open, char close, RuleId part) {
  GrammarBuilder& builder = rules.builder();
  NodeId at = rules.space(builder.literal(builder.start(list), std::string_view(&open, 1)));
  const NodeId end = builder.new_state();
  builder.jump(at, end);
  const RuleId more = builder.new_rule();
  builder.call(rules.space(builder.literal(builder.start(more), ",")), part, builder.final(more));
  at = builder.repeat(builder.call(at, part), more, 0, kUnbounded);
  builder.jump(rules.space(at), end);
  const auto last = static_cast<Symbol>(static_cast<uint8_t>(close));
  builder.edge(end, last, last, builder.final(list));
}

RuleId JsonRules::object() {
  if (object_) return *object_;
  object_ = builder_.new_rule();
  add_list(*this, *object_, '{', '}', pair(value(), {}));
  return *object_;
}

RuleId JsonRules::array() {
  if (array_) return *array_;
  array_ = builder_.new_rule();
  add_list(*this, *array_, '[', ']', value());
  return *array_;
}

RuleId JsonRules::value() {
  if (value_) return *value_;
  value_ = builder_.new_rule();
  const NodeId start = builder_.start(*value_);
  const NodeId final = builder_.final(*value_);
  const std::string words[] = {"true", "false", "null"};
  literals(start, final, words);
  for (const RuleId rule : {string(), number(), object(), array()}) {
    builder_.call(start, rule, final);
  }
  return *value_;
}

}  // namespace deepflight
