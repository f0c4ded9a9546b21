// TokenGrammar: a grammar as a mask over a vocabulary's tokens. One is shared by all outputs that
// are held to it, each of which keeps a Position, so masks are computed once for each place that
// any of them comes to. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "grammar/vocabulary.h"
#include "grammar/walk.h"

namespace deepflight {

class TokenGrammar {
  struct Table;

 public:
  using Mask = std::shared_ptr<const TokenMask>;

  // Where an output is. Copies go their own way.
  class Position {
   public:
    Position() = default;

   private:
    friend class TokenGrammar;
    std::shared_ptr<Table> table_;
    ConfigId config_ = kNoConfig;
  };

  TokenGrammar(Grammar grammar, std::shared_ptr<const TokenVocabulary> vocabulary);

  Position start();
  // Takes a token in. False if it cannot come here; the position is then what it was. Ends of an
  // output are no part of the text: they are accepted where can_end().
  bool accept(Position& position, int32_t token);
  // The tokens that may come; at least one always does.
  Mask mask(Position& position);
  bool can_end(const Position& position);

  const TokenVocabulary& vocabulary() const { return *vocabulary_; }
  const Grammar& grammar() const { return grammar_; }

  struct Stats {
    int64_t num_masks = 0;           // asked for
    int64_t num_computed_masks = 0;  // of those, not found ready
    size_t num_configs = 0;
  };
  Stats stats();

 private:
  void settle(Position& position);
  Mask compute_mask(Table& table, ConfigId config);
  void walk_trie(GrammarWalk& walk, ConfigId config, const TokenVocabulary::Trie& trie,
                 TokenMask& mask);

  const Grammar grammar_;
  const std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::mutex mutex_;  // of all below
  std::shared_ptr<Table> table_;
  Stats stats_;
};

}  // namespace deepflight
