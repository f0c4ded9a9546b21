// Sorting tokens into tries and masks.
#include "grammar/vocabulary.h"

#include <algorithm>
#include <string>

#include "text/unicode.h"

namespace deepflight {
namespace {

struct Entry {
  std::vector<Symbol> symbols;
  int32_t id = 0;
};

// Characters of a token that can stand in a JSON string as they are; -1 if it has others.
int plain_length(std::string_view bytes) {
  if (!is_valid_utf8(bytes)) return -1;
  for (const char byte : bytes) {
    if (static_cast<uint8_t>(byte) < 0x20 || byte == '"' || byte == '\\') return -1;
  }
  return static_cast<int>(count_code_points(bytes));
}

// `entries` in the order of their symbols.
TokenVocabulary::Trie make_trie(const std::vector<const Entry*>& entries) {
  TokenVocabulary::Trie trie;
  std::vector<uint32_t> path;  // nodes from the root to the last token
  const std::vector<Symbol>* last = nullptr;
  const auto close_to = [&](size_t depth) {
    while (path.size() > depth) {
      trie.nodes[path.back()].subtree_end = static_cast<uint32_t>(trie.nodes.size());
      path.pop_back();
    }
  };
  for (const Entry* entry : entries) {
    const auto& symbols = entry->symbols;
    size_t shared = 0;
    if (last != nullptr) {
      const size_t most = std::min(last->size(), symbols.size());
      while (shared < most && (*last)[shared] == symbols[shared]) ++shared;
    }
    close_to(shared);
    for (size_t i = shared; i < symbols.size(); ++i) {
      path.push_back(static_cast<uint32_t>(trie.nodes.size()));
      trie.nodes.push_back({.symbol = symbols[i],
                            .depth = static_cast<uint16_t>(i + 1),
                            .first_token = static_cast<uint32_t>(trie.ids.size())});
    }
    ++trie.nodes[path.back()].num_tokens;
    trie.ids.push_back(entry->id);
    trie.max_depth = std::max(trie.max_depth, static_cast<int>(symbols.size()));
    last = &symbols;
  }
  close_to(0);
  return trie;
}

// Every byte that UTF-8 text of JSON may have is a token, so whatever a grammar asks for can come.
bool spells_all_bytes(const std::vector<std::string>& tokens) {
  std::vector<bool> found(256);
  for (const std::string& token : tokens) {
    if (token.size() == 1) found[static_cast<uint8_t>(token[0])] = true;
  }
  for (int byte = 0x20; byte < 0xF5; ++byte) {
    if (!found[byte] && byte != 0x7F && byte != 0xC0 && byte != 0xC1) return false;
  }
  return found['\n'];
}

}  // namespace

Result<std::shared_ptr<const TokenVocabulary>> TokenVocabulary::create(
    const Tokenizer& tokenizer, int32_t vocab_size, std::span<const int32_t> end_ids,
    std::span<const std::string_view> marks) {
  CHECK(std::ssize(marks) <= kMaxMarks, marks.size());
  std::shared_ptr<TokenVocabulary> made(new TokenVocabulary);
  made->vocab_size_ = vocab_size;
  for (const int32_t id : end_ids) {
    if (id >= 0 && id < vocab_size) made->end_ids_.push_back(id);
  }
  for (const std::string_view mark : marks) {
    const int32_t id = tokenizer.token_to_id(mark);
    if (id >= 0 && id < vocab_size) made->marks_.emplace_back(mark, id);
  }
  made->bytes_.resize(static_cast<size_t>(std::min(vocab_size, tokenizer.vocab_size())));
  for (size_t id = 0; id < made->bytes_.size(); ++id) {
    made->bytes_[id] = tokenizer.token_bytes(static_cast<int32_t>(id));
  }
  const auto leave_out = [&](int32_t id) {
    if (static_cast<size_t>(id) < made->bytes_.size()) made->bytes_[static_cast<size_t>(id)] = {};
  };
  for (const AddedToken& added : tokenizer.added_tokens()) leave_out(added.id);
  for (const int32_t id : made->end_ids_) leave_out(id);
  if (made->end_ids_.empty()) return unsupported("the model has no token that ends an output");
  if (!spells_all_bytes(made->bytes_)) {
    return unsupported("the tokenizer has no token for some byte");
  }

  std::vector<Entry> entries;
  made->plain_.assign(kMaxPlainLength + 1, TokenMask(mask_words(vocab_size)));
  std::vector<bool> is_plain;
  for (int32_t id = 0; id < std::ssize(made->bytes_); ++id) {
    Entry entry{made->symbols(id), id};
    if (!entry.symbols.empty() && entry.symbols.size() <= UINT16_MAX) {
      entries.push_back(std::move(entry));
    }
  }
  std::ranges::sort(entries, {},
                    [](const Entry& entry) { return std::tie(entry.symbols, entry.id); });
  std::vector<const Entry*> all, special;
  for (const Entry& entry : entries) {
    all.push_back(&entry);
    const int length = plain_length(made->bytes_[static_cast<size_t>(entry.id)]);
    if (length < 1 || length > kMaxPlainLength) {
      special.push_back(&entry);
    } else {
      for (int i = length; i <= kMaxPlainLength; ++i) allow_token(made->plain_[i], entry.id);
    }
  }
  made->all_ = make_trie(all);
  made->special_ = make_trie(special);
  return std::shared_ptr<const TokenVocabulary>(std::move(made));
}

bool TokenVocabulary::is_end(int32_t id) const {
  return std::ranges::find(end_ids_, id) != end_ids_.end();
}

std::optional<Symbol> TokenVocabulary::mark(std::string_view token) const {
  const auto found = std::ranges::find(marks_, token, &std::pair<std::string, int32_t>::first);
  if (found == marks_.end()) return std::nullopt;
  return static_cast<Symbol>(kFirstMark + (found - marks_.begin()));
}

std::vector<Symbol> TokenVocabulary::symbols(int32_t id) const {
  for (size_t i = 0; i < marks_.size(); ++i) {
    if (marks_[i].second == id) return {static_cast<Symbol>(kFirstMark + i)};
  }
  if (id < 0 || id >= std::ssize(bytes_)) return {};
  std::vector<Symbol> symbols;
  for (const char byte : bytes_[static_cast<size_t>(id)]) {
    symbols.push_back(static_cast<Symbol>(static_cast<uint8_t>(byte)));
  }
  return symbols;
}

}  // namespace deepflight
