// For tests and benches of grammars: tokenizers with tokens of one's choice.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "grammar/vocabulary.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace deepflight {

// Ids 0 to 255 are the bytes, then come `texts`, then `added`.
inline Tokenizer tokenizer_of(const std::vector<std::string>& texts,
                              const std::vector<std::string>& added) {
  using nlohmann::json;
  const auto spelt = [](std::string_view bytes) {
    std::string text;
    for (const char c : bytes) append_code_point(text, byte_to_alphabet(static_cast<uint8_t>(c)));
    return text;
  };
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[spelt(std::string(1, static_cast<char>(byte)))] = byte;
  int id = 256;
  for (const std::string& text : texts) vocab[spelt(text)] = id++;
  json added_tokens = json::array();
  for (const std::string& content : added) {
    added_tokens.push_back({{"id", id++},
                            {"content", content},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", false}});
  }
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json file = {{"version", "1.0"},
                     {"added_tokens", added_tokens},
                     {"pre_tokenizer", byte_level},
                     {"decoder", byte_level},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
  return Tokenizer::from_json(file.dump()).value();
}

// Words such as a trained vocabulary has: most of plain text, many with a space in front, some with
// quotes, brackets, line breaks and parts of characters.
inline std::vector<std::string> made_up_words(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::set<std::string> words;
  const std::vector<std::string> json_parts = {"\"", "\":",  "\",",  "\"}", "{\"", "[",  "]",  "},",
                                               "\\", "\\n",  "\\u",  ": ",  ", ",  "\n", "  ", "1",
                                               "42", "true", "null", "-",   ".5",  "e"};
  while (words.size() < count) {
    std::string word;
    const unsigned kind = random() % 100;
    if (kind < 90) {
      if (random() % 2) word = " ";
      const size_t length = 2 + random() % 9;
      while (word.size() < length) word += static_cast<char>('a' + random() % 26);
    } else if (kind < 95) {
      for (size_t i = 1 + random() % 4; i > 0; --i)
        word += json_parts[random() % json_parts.size()];
    } else if (kind < 97) {
      word = std::string(1 + random() % 3, static_cast<char>(0x80 + random() % 0x40));
    } else {
      for (size_t i = 1 + random() % 4; i > 0; --i)
        append_code_point(word, 0x4E00 + random() % 0x5000);
      if (random() % 4 == 0) word.pop_back();
    }
    if (word.size() > 1) words.insert(word);
  }
  return {words.begin(), words.end()};
}

}  // namespace deepflight
