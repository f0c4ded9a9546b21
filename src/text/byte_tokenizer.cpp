// A tokenizer.json without merges, made in memory and read like any other.
#include "text/byte_tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "text/unicode.h"

namespace deepflight {
namespace {

using nlohmann::json;

constexpr int kNumBytes = 256;

std::string special_token(int32_t id) { return fmt::format("<special_{}>", id); }

// A string in GPT-2's byte alphabet.
std::string in_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    append_code_point(text, byte_to_alphabet(static_cast<uint8_t>(byte)));
  }
  return text;
}

}  // namespace

Result<Tokenizer> make_byte_tokenizer(int32_t vocab_size, std::span<const int32_t> special_ids) {
  std::set<int32_t> special;
  for (const int32_t id : special_ids) {
    if (id >= 0 && id < vocab_size) special.insert(id);
  }
  if (vocab_size - static_cast<int32_t>(special.size()) < kNumBytes) {
    return unsupported("vocab_size {}: too small for a tokenizer of bytes", vocab_size);
  }
  auto vocab = json::object();
  auto added_tokens = json::array();
  int num_bytes = 0;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (special.contains(id)) {
      vocab[special_token(id)] = id;
      added_tokens.push_back({{"id", id},
                              {"content", special_token(id)},
                              {"single_word", false},
                              {"lstrip", false},
                              {"rstrip", false},
                              {"normalized", false},
                              {"special", true}});
    } else if (num_bytes < kNumBytes) {
      const char byte = static_cast<char>(num_bytes++);
      vocab[in_alphabet({&byte, 1})] = id;
    } else {
      vocab[in_alphabet(fmt::format(" t{}", id))] = id;
    }
  }
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json file = {
      {"version", "1.0"},
      {"added_tokens", std::move(added_tokens)},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", json::array()}}}};
  return Tokenizer::from_json(file.dump());
}

TokenizerConfig byte_tokenizer_config(int32_t bos_id) {
  TokenizerConfig config;
  if (bos_id >= 0) config.bos_token = special_token(bos_id);
  config.add_bos_token = bos_id >= 0;
  config.chat_templates.push_back(
      {"default",
       "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"});
  return config;
}

}  // namespace deepflight
