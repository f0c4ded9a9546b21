// CharSet: a set of Unicode characters, and how one of them is written inside a JSON string. What
// JSON lets a writer choose is settled here: a character that needs no escape has none, and the
// others have the shortest, so each text has one spelling.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/grammar.h"

namespace deepflight {

class CharSet {
 public:
  struct Range {
    char32_t first = 0;
    char32_t last = 0;  // inclusive
    friend auto operator<=>(const Range&, const Range&) = default;
  };

  CharSet() = default;
  static CharSet all();  // every character but the surrogates, which are none

  CharSet& add(char32_t first, char32_t last);
  CharSet& add(char32_t character) { return add(character, character); }
  CharSet& add(const CharSet& other);
  CharSet complement() const;
  CharSet intersection(const CharSet& other) const;

  bool empty() const { return ranges_.empty(); }
  bool contains(char32_t character) const;
  const std::vector<Range>& ranges() const { return ranges_; }
  friend auto operator<=>(const CharSet&, const CharSet&) = default;

 private:
  std::vector<Range> ranges_;  // ascending, with gaps between them
};

// From `from` to `to` by any one character of the set, as it stands in a JSON string.
void add_json_characters(GrammarBuilder& builder, NodeId from, NodeId to, const CharSet& set);

// From `from` to `to` by the UTF-8 of a character in [first, last], which holds no surrogate.
void add_utf8_range(GrammarBuilder& builder, NodeId from, NodeId to, char32_t first, char32_t last);

}  // namespace deepflight
