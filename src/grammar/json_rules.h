// JsonRules: the rules of JSON that every schema needs, made when they are first asked for. Where
// JSON sets no bound, one is set here, so that a model cannot go on for ever without a word:
// white space is a space or a line break with up to 16 spaces or 8 tabs, numbers have up to 15
// digits before and behind the point and two in the exponent, and names that no schema gives have
// up to 64 characters.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "grammar/char_set.h"
#include "grammar/grammar.h"

namespace deepflight {

class JsonRules {
 public:
  explicit JsonRules(GrammarBuilder& builder) : builder_(builder) {}

  GrammarBuilder& builder() { return builder_; }

  // White space between two things, or none. Returns where it ends.
  NodeId space(NodeId from);
  RuleId character();        // one of a string, escaped in any way; no surrogates by \u
  RuleId plain_character();  // one without an escape
  RuleId characters(const CharSet& set);  // one of the set
  RuleId string();
  RuleId number();
  RuleId integer();
  RuleId object();  // any
  RuleId array();
  RuleId value();

  // Any one of the texts.
  void literals(NodeId from, NodeId to, std::span<const std::string> texts);
  // min to max characters between quotes.
  void text(NodeId from, NodeId to, int32_t min, int32_t max);
  // A string that is none of `names`, without escapes.
  NodeId other_name(NodeId from, std::span<const std::string> names);
  // Zero or more ", NAME: VALUE" or "NAME: VALUE, ..." pairs with names other than those given.
  RuleId pair(RuleId value, std::span<const std::string> taken_names);

 private:
  RuleId digits(int32_t min, int32_t max);

  GrammarBuilder& builder_;
  std::optional<RuleId> space_, character_, plain_character_, string_, number_, integer_, object_,
      array_, value_, digit_;
  std::map<CharSet, RuleId> sets_;
};

}  // namespace deepflight
