// Masks from walks over the vocabulary's trie.
#include "grammar/token_grammar.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace deepflight {
namespace {

// A table beyond any of these is left to the outputs that are in it, each of which moves at its
// next token.
constexpr size_t kMaxConfigs = 16384;  // of about 1.1 KB
constexpr size_t kMaxFrames = 65536;
constexpr size_t kMaxMasks = 512;  // of 16 KB for 129,280 tokens

// Work of one mask. Only grammars made to be slow come to it; tokens that were not looked at are
// then left out, which leaves the output in the language.
constexpr int64_t kMaxVisits = 100'000;
constexpr size_t kMaxNewConfigs = 8192;

void merge(const TokenMask& from, TokenMask& into) {
  for (size_t i = 0; i < into.size(); ++i) into[i] |= from[i];
}

}  // namespace

struct TokenGrammar::Table {
  explicit Table(const Grammar& grammar) : walk(grammar) {}

  bool is_full() const {
    return walk.num_configs() > kMaxConfigs || walk.num_frames() > kMaxFrames ||
           masks.size() + text_masks.size() > kMaxMasks;
  }

  GrammarWalk walk;
  std::unordered_map<ConfigId, Mask> masks;
  std::map<GrammarWalk::TextState, Mask> text_masks;
};

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const TokenVocabulary> vocabulary)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      table_(std::make_shared<Table>(grammar_)) {}

TokenGrammar::Position TokenGrammar::start() {
  const std::lock_guard lock(mutex_);
  Position position;
  position.table_ = table_;
  position.config_ = table_->walk.start();
  return position;
}

// Moves a position out of a table that has grown too large.
void TokenGrammar::settle(Position& position) {
  CHECK(position.table_ != nullptr);
  if (!position.table_->is_full()) return;
  if (table_->is_full()) table_ = std::make_shared<Table>(grammar_);
  position.config_ = table_->walk.import(position.table_->walk, position.config_);
  position.table_ = table_;
}

bool TokenGrammar::accept(Position& position, int32_t token) {
  const std::lock_guard lock(mutex_);
  settle(position);
  GrammarWalk& walk = position.table_->walk;
  if (vocabulary_->is_end(token)) return walk.accepts(position.config_);
  const std::vector<Symbol> symbols = vocabulary_->symbols(token);
  ConfigId config = symbols.empty() ? kNoConfig : position.config_;
  for (const Symbol symbol : symbols) {
    config = walk.step(config, symbol);
    if (config == kNoConfig) return false;
  }
  if (config == kNoConfig) return false;
  position.config_ = config;
  return true;
}

TokenGrammar::Mask TokenGrammar::mask(Position& position) {
  const std::lock_guard lock(mutex_);
  settle(position);
  Table& table = *position.table_;
  ++stats_.num_masks;
  if (const auto known = table.masks.find(position.config_); known != table.masks.end()) {
    return known->second;
  }
  auto text = table.walk.text_state(position.config_);
  if (text) {
    // Far from both ends of a string one mask is like the other.
    const int32_t far =
        std::max(vocabulary_->all().max_depth, TokenVocabulary::kMaxPlainLength) + 1;
    text->num_left = std::min(text->num_left, far);
    text->num_needed = std::min(text->num_needed, far);
    if (const auto known = table.text_masks.find(*text); known != table.text_masks.end()) {
      return known->second;
    }
  }
  ++stats_.num_computed_masks;
  Mask mask = compute_mask(table, position.config_);
  if (text) {
    table.text_masks.emplace(*text, mask);
  } else {
    table.masks.emplace(position.config_, mask);
  }
  return mask;
}

TokenGrammar::Mask TokenGrammar::compute_mask(Table& table, ConfigId config) {
  GrammarWalk& walk = table.walk;
  auto mask = std::make_shared<TokenMask>(mask_words(vocabulary_->vocab_size()));
  if (const auto text = walk.text_state(config)) {
    merge(vocabulary_->plain(std::min(text->num_left, TokenVocabulary::kMaxPlainLength)), *mask);
    walk_trie(walk, config, vocabulary_->special(), *mask);
  } else if (walk.takes_plain(config)) {
    walk_trie(walk, config, vocabulary_->all(), *mask);
  } else {
    walk_trie(walk, config, vocabulary_->special(), *mask);
  }
  if (walk.accepts(config)) {
    for (const int32_t id : vocabulary_->end_ids()) allow_token(*mask, id);
  }
  return mask;
}

void TokenGrammar::walk_trie(GrammarWalk& walk, ConfigId config, const TokenVocabulary::Trie& trie,
                             TokenMask& mask) {
  const int64_t max_visits = walk.num_visits() + kMaxVisits;
  const size_t max_configs = walk.num_configs() + kMaxNewConfigs;
  std::vector<ConfigId> path(static_cast<size_t>(trie.max_depth) + 1);
  path[0] = config;
  for (size_t i = 0; i < trie.nodes.size();) {
    const TokenVocabulary::TrieNode& node = trie.nodes[i];
    // Past the bound on work only single bytes are looked at, so that something is left.
    const bool affordable =
        node.depth == 1 || (walk.num_visits() < max_visits && walk.num_configs() < max_configs);
    const ConfigId next = affordable ? walk.step(path[node.depth - 1], node.symbol) : kNoConfig;
    if (next == kNoConfig) {
      i = node.subtree_end;
      continue;
    }
    path[node.depth] = next;
    for (uint32_t k = 0; k < node.num_tokens; ++k)
      allow_token(mask, trie.ids[node.first_token + k]);
    ++i;
  }
}

bool TokenGrammar::can_end(const Position& position) {
  const std::lock_guard lock(mutex_);
  return position.table_->walk.accepts(position.config_);
}

TokenGrammar::Stats TokenGrammar::stats() {
  const std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.num_configs = table_->walk.num_configs();
  return stats;
}

}  // namespace deepflight
