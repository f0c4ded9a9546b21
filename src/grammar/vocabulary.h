// TokenVocabulary: a tokenizer's tokens as the grammar's matcher wants them, built once a server.
// All tokens lie in a trie, in the order of a depth-first walk, so that a mask is one pass over an
// array that leaps over what cannot come. Tokens of nothing but plain text, of which most of a
// vocabulary consists, also have masks by their length: inside a JSON string they need no walk.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/grammar.h"
#include "text/tokenizer.h"

namespace deepflight {

// One bit a token id: 1 if it may come. Ids past the tokenizer's have none.
using TokenMask = std::vector<uint32_t>;

constexpr size_t mask_words(int64_t vocab_size) {
  return static_cast<size_t>((vocab_size + 31) / 32);
}
inline void allow_token(TokenMask& mask, int32_t id) {
  mask[static_cast<size_t>(id) / 32] |= 1u << (id % 32);
}
inline bool allows_token(const TokenMask& mask, int32_t id) {
  return mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1u;
}

class TokenVocabulary {
 public:
  struct TrieNode {
    Symbol symbol = 0;
    uint16_t depth = 0;        // 1 for the first symbol of a token
    uint32_t first_token = 0;  // of `num_tokens` that end here, in ids()
    uint32_t num_tokens = 0;
    uint32_t subtree_end = 0;  // the next node that is not below this one
  };
  struct Trie {
    std::vector<TrieNode> nodes;
    std::vector<int32_t> ids;
    int max_depth = 0;
  };
  // Plain tokens of more characters than this are walked like others.
  static constexpr int kMaxPlainLength = 48;

  // `vocab_size`: of the logits. `end_ids` end an output. `marks`: tokens that are one symbol each;
  // those that the tokenizer has not as one token are left out. Added tokens that are no marks are
  // in no language. Error: kUnsupported if text cannot be spelt byte by byte, or nothing
  // ends it.
  static Result<std::shared_ptr<const TokenVocabulary>> create(
      const Tokenizer& tokenizer, int32_t vocab_size, std::span<const int32_t> end_ids,
      std::span<const std::string_view> marks);

  int32_t vocab_size() const { return vocab_size_; }
  std::span<const int32_t> end_ids() const { return end_ids_; }
  bool is_end(int32_t id) const;
  std::optional<Symbol> mark(std::string_view token) const;
  // What a token appends; a mark's is its symbol. Empty: not in any language.
  std::vector<Symbol> symbols(int32_t id) const;

  const Trie& all() const { return all_; }
  const Trie& special() const { return special_; }  // all but those of the plain masks
  // Plain tokens of up to `length` characters, which is at most kMaxPlainLength.
  const TokenMask& plain(int length) const { return plain_[length]; }

 private:
  TokenVocabulary() = default;

  int32_t vocab_size_ = 0;
  std::vector<int32_t> end_ids_;
  std::vector<std::pair<std::string, int32_t>> marks_;  // text, id
  std::vector<std::string> bytes_;                      // by id; empty for added tokens
  Trie all_;
  Trie special_;
  std::vector<TokenMask> plain_;
};

}  // namespace deepflight
