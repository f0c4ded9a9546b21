// Patterns against std::regex (ECMA's syntax), for all short strings over a small alphabet.
#include "grammar/string_pattern.h"

#include <gtest/gtest.h>

#include <regex>

#include "grammar/walk.h"

namespace deepflight {
namespace {

Grammar compile(std::string_view pattern) {
  GrammarBuilder builder;
  JsonRules rules(builder);
  const RuleId root = compile_pattern(rules, pattern).value();
  return std::move(builder).finish(root).value();
}

bool has(GrammarWalk& walk, std::string_view text) {
  ConfigId config = walk.start();
  for (const char c : text) {
    config = walk.step(config, static_cast<uint8_t>(c));
    if (config == kNoConfig) return false;
  }
  return walk.accepts(config);
}

TEST(Pattern, AgreesWithEcmaScript) {
  const char* patterns[] = {"a",
                            "^a$",
                            "^(a|b)*c$",
                            "b+$",
                            "^[^a]b?",
                            "a.c",
                            "^a{2,3}$",
                            "^(ab){2,}$",
                            "^$",
                            "",
                            "^a|b$",
                            "^(?:a|bc)+$",
                            "[b-c]{2}$",
                            "^a*?b",
                            "\\w-\\d",
                            "^\\S+$",
                            "^[\\w-]+$",
                            "(a|)b$",
                            "^(a*)*b$",
                            "^.{3}$",
                            "^(a{0,2}){3}$",
                            "^((a|b?){2,3}c?){2}$",
                            "^((a*){1,2}b?)+$",
                            "^(((a?)?){2})*b$",
                            "^((|a){2}(b|)){2,3}$"};
  const std::string alphabet = "abc-1 ";
  for (const char* pattern : patterns) {
    const Grammar grammar = compile(pattern);
    GrammarWalk walk(grammar);
    const std::regex regex(pattern);
    for (int length = 0; length <= 5; ++length) {
      size_t count = 1;
      for (int i = 0; i < length; ++i) count *= alphabet.size();
      for (size_t n = 0; n < count; ++n) {
        std::string text;
        for (size_t rest = n; std::ssize(text) < length; rest /= alphabet.size()) {
          text += alphabet[rest % alphabet.size()];
        }
        ASSERT_EQ(has(walk, text), std::regex_search(text, regex)) << pattern << " in " << text;
      }
    }
  }
}

// Each of these was more work than anybody has time for, in one closure.
TEST(Pattern, EmptyRoundsAreNotCounted) {
  for (const char* pattern :
       {"^(((a{0,50}){0,50}){0,50}){0,50}$", "^((((a{0,99}){0,99}){0,99}){0,99}){0,99}$",
        "^((((a?){99}){99}){99}){99}$", "^((((((a*)*)*)*)*){9}){9}$",
        "^(((a{1,99}){1,99}){1,99}){1,99}$"}) {
    const Grammar grammar = compile(pattern);
    GrammarWalk walk(grammar);
    ConfigId config = walk.start();
    for (int i = 0; i < 20; ++i) {
      const int64_t num_visits = walk.num_visits();
      config = walk.step(config, 'a');
      ASSERT_NE(config, kNoConfig) << pattern;
      EXPECT_TRUE(walk.accepts(config)) << pattern;
      EXPECT_LE(walk.num_visits() - num_visits, 20'000) << pattern;
    }
    EXPECT_EQ(walk.step(config, 'b'), kNoConfig) << pattern;
  }
}

// All 256 symbols together cost little more than one of each kind: 200'000 visits one by one.
TEST(Pattern, SymbolsThatAreAlikeAreWalkedOnce) {
  const Grammar grammar = compile("^((.{0,9}b?){3,5}){0,9}$");
  GrammarWalk walk(grammar);
  ConfigId config = walk.start();
  for (int i = 0; i < 30; ++i) {
    const int64_t num_visits = walk.num_visits();
    for (Symbol symbol = 0; symbol < kNumSymbols; ++symbol) {
      const bool is_part_of_text = symbol >= 0x20 && symbol < 0x80 && symbol != '"';
      EXPECT_EQ(walk.step(config, symbol) != kNoConfig,
                is_part_of_text || (symbol >= 0xC2 && symbol < 0xF5))
          << symbol;
    }
    EXPECT_LE(walk.num_visits() - num_visits, 30'000) << i;
    EXPECT_EQ(walk.step(config, 'a'), walk.step(config, 'z'));
    config = walk.step(config, 'a');
  }
}

TEST(Pattern, CharactersAreWrittenAsJsonHasThem) {
  const Grammar grammar = compile("^[\"\\\\\\n\\x01\\u00e9\\u4f60]$");
  GrammarWalk walk(grammar);
  for (const char* in : {"\\\"", "\\\\", "\\n", "\\u0001", "\xC3\xA9", "\xE4\xBD\xA0"}) {
    EXPECT_TRUE(has(walk, in)) << in;
  }
  for (const char* out : {"\"", "\\", "\n", "\\u000a", "\\u00e9", "\xC3", "n"}) {
    EXPECT_FALSE(has(walk, out)) << out;
  }
}

TEST(Pattern, EveryRangeOfUtf8IsExact) {
  // Ranges that begin and end within each length, against the characters one by one.
  const std::pair<char32_t, char32_t> ranges[] = {
      {0x21, 0x21},      {0x7E, 0x83},         {0x7F0, 0x812}, {0xD7F0, 0xE010},
      {0xFFF0, 0x10020}, {0x10FFF0, 0x10FFFF}, {0x3A, 0x20FFF}};
  for (const auto& [first, last] : ranges) {
    GrammarBuilder builder;
    const RuleId root = builder.new_rule();
    add_json_characters(builder, builder.start(root), builder.final(root),
                        CharSet().add(first, last).intersection(CharSet::all()));
    const Grammar grammar = std::move(builder).finish(root).value();
    GrammarWalk walk(grammar);
    const char32_t from = first < 0x40 ? 0 : first - 0x40;
    for (char32_t c = from; c <= std::min<char32_t>(last + 0x40, 0x10FFFF); ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      if (c < 0x20 || c == '"' || c == '\\') continue;
      std::string text;
      if (c < 0x80) {
        text = {static_cast<char>(c)};
      } else if (c < 0x800) {
        text = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
      } else if (c < 0x10000) {
        text = {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
                static_cast<char>(0x80 | (c & 63))};
      } else {
        text = {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
                static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
      }
      ASSERT_EQ(has(walk, text), first <= c && c <= last) << static_cast<uint32_t>(c);
    }
  }
}

TEST(Pattern, WhatIsNotSupportedIsSaid) {
  const std::pair<const char*, const char*> refusals[] = {
      {"(?<n>a)", "a group beginning with '(?'"},
      {"a\\b", "'\\b'"},
      {"(a)\\1", "'\\1'"},
      {"\\p{L}", "'\\p'"},
      {"a^b", "'^' but at the beginning"},
      {"(^a)", "'^' but at the beginning"},
      {"a$b", "'$' but at the end"},
      {"[z-a]", "a range that is none"},
      {"(a", "'(' without ')'"},
      {"a)", "')' without '('"},
      {"[a", "'[' without ']'"},
      {"a{3,2}", "a quantifier whose bounds are the wrong way round"},
      {"*a", "a quantifier of nothing"},
      {"a++", "a quantifier of a quantifier"},
      {"\\ud800", "a surrogate"},
  };
  for (const auto& [pattern, message] : refusals) {
    GrammarBuilder builder;
    JsonRules rules(builder);
    const auto rule = compile_pattern(rules, pattern);
    ASSERT_FALSE(rule.ok()) << pattern;
    EXPECT_TRUE(rule.error().message.starts_with(message)) << rule.error().message;
  }
}

}  // namespace
}  // namespace deepflight
