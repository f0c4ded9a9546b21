// The tokenizer of a model that has none: bytes, so that a folder with nothing but a config.json
// (--load-format dummy) can be served and asked in text. Used by apps/local_engine.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace deepflight {

// Every id of [0, vocab_size) has a spelling, so that random output is text too. The 256 lowest ids
// that are not special stand for the bytes and are all that text encodes to; id n beyond them reads
// " tn"; a special one reads "<special_n>" and is left out where special tokens are.
// kUnsupported: no room for 256 bytes.
Result<Tokenizer> make_byte_tokenizer(int32_t vocab_size, std::span<const int32_t> special_ids);

// Prompts begin with bos_id (none if negative); a chat is its messages' text, a line each.
TokenizerConfig byte_tokenizer_config(int32_t bos_id);

}  // namespace deepflight
