// Sets as sorted ranges; ranges as UTF-8.
#include "grammar/char_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

namespace deepflight {
namespace {

constexpr char32_t kLast = 0x10FFFF;
constexpr char32_t kFirstSurrogate = 0xD800;
constexpr char32_t kLastSurrogate = 0xDFFF;

struct Utf8 {
  std::array<uint8_t, 4> bytes{};
  int size = 0;
};

Utf8 encode(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<uint8_t>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) return {{static_cast<uint8_t>(c)}, 1};
  if (c < 0x800) return {{static_cast<uint8_t>(0xC0 | (c >> 6)), tail(0)}, 2};
  if (c < 0x10000) return {{static_cast<uint8_t>(0xE0 | (c >> 12)), tail(6), tail(0)}, 3};
  return {{static_cast<uint8_t>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)}, 4};
}

// From `from` to `to` by what lies between two sequences of one length, from byte `at` on, all
// bytes before being the same.
void add_between(GrammarBuilder& builder, NodeId from, NodeId to, Utf8 low, Utf8 high, int at) {
  if (at == low.size - 1) return builder.edge(from, low.bytes[at], high.bytes[at], to);
  const auto step = [&](uint8_t first, uint8_t last) {
    const NodeId next = builder.new_state();
    builder.edge(from, first, last, next);
    return next;
  };
  const auto rest_is = [&](const Utf8& bytes, uint8_t value) {
    return std::all_of(bytes.bytes.begin() + at + 1, bytes.bytes.begin() + bytes.size,
                       [value](uint8_t byte) { return byte == value; });
  };
  if (low.bytes[at] == high.bytes[at]) {
    return add_between(builder, step(low.bytes[at], low.bytes[at]), to, low, high, at + 1);
  }
  Utf8 lowest = low, highest = high;  // of any rest
  std::fill(lowest.bytes.begin() + at + 1, lowest.bytes.end(), 0x80);
  std::fill(highest.bytes.begin() + at + 1, highest.bytes.end(), 0xBF);
  uint8_t first = low.bytes[at];
  uint8_t last = high.bytes[at];
  if (!rest_is(low, 0x80)) {
    add_between(builder, step(first, first), to, low, highest, at + 1);
    ++first;
  }
  if (!rest_is(high, 0xBF)) {
    add_between(builder, step(last, last), to, lowest, high, at + 1);
    --last;
  }
  if (first <= last) add_between(builder, step(first, last), to, lowest, highest, at + 1);
}

// The escape of a character that must have one.
std::string json_escape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  }
}

const CharSet& escaped_characters() {
  static const CharSet set = CharSet().add(0, 0x1F).add('"').add('\\');
  return set;
}

}  // namespace

CharSet CharSet::all() {
  return CharSet().add(0, kFirstSurrogate - 1).add(kLastSurrogate + 1, kLast);
}

CharSet& CharSet::add(char32_t first, char32_t last) {
  if (first > last) return *this;
  ranges_.push_back({first, last});
  std::ranges::sort(ranges_);
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
  return *this;
}

CharSet& CharSet::add(const CharSet& other) {
  for (const Range& range : std::vector(other.ranges_)) add(range.first, range.last);
  return *this;
}

CharSet CharSet::complement() const {
  CharSet result;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) result.add(next, range.first - 1);
    next = range.last + 1;
  }
  if (next <= kLast) result.add(next, kLast);
  return result.intersection(all());
}

CharSet CharSet::intersection(const CharSet& other) const {
  CharSet result;
  for (const Range& a : ranges_) {
    for (const Range& b : other.ranges_) {
      result.add(std::max(a.first, b.first), std::min(a.last, b.last));
    }
  }
  return result;
}

bool CharSet::contains(char32_t character) const {
  return std::ranges::any_of(ranges_, [character](const Range& range) {
    return range.first <= character && character <= range.last;
  });
}

void add_utf8_range(GrammarBuilder& builder, NodeId from, NodeId to, char32_t first,
                    char32_t last) {
  for (const char32_t end : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}, kLast}) {
    if (first > last) return;
    if (first > end) continue;
    const char32_t part_last = std::min(last, end);
    add_between(builder, from, to, encode(first), encode(part_last), 0);
    first = part_last + 1;
  }
}

void add_json_characters(GrammarBuilder& builder, NodeId from, NodeId to, const CharSet& set) {
  const CharSet plain = set.intersection(escaped_characters().complement());
  for (const CharSet::Range& range : plain.ranges()) {
    add_utf8_range(builder, from, to, range.first, range.last);
  }
  const CharSet escaped = set.intersection(escaped_characters());
  for (const CharSet::Range& range : escaped.ranges()) {
    for (char32_t c = range.first; c <= range.last; ++c) {
      const std::string escape = json_escape(c);
      const NodeId before_last =
          builder.literal(from, std::string_view(escape).substr(0, escape.size() - 1));
      const auto last = static_cast<Symbol>(static_cast<uint8_t>(escape.back()));
      builder.edge(before_last, last, last, to);
    }
  }
}

}  // namespace deepflight
