// The tokenizer of bytes: every id has text, every text its bytes.
#include "text/byte_tokenizer.h"

#include <gtest/gtest.h>

#include "text/chat_template.h"

namespace deepflight {
namespace {

constexpr int32_t kSpecial[] = {0, 1, 900, 5000};  // one beyond the vocabulary, which is left out

TEST(ByteTokenizer, TextIsItsBytes) {
  const Tokenizer tokenizer = make_byte_tokenizer(1000, kSpecial).value();
  std::string text;
  for (int byte = 1; byte < 128; ++byte) text += static_cast<char>(byte);
  text += "Größe 数 t999 <special_7>";
  const auto ids = tokenizer.encode(text).value();
  ASSERT_EQ(ids.size(), text.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(ids[i], 2 + static_cast<uint8_t>(text[i])) << i;
  }
  EXPECT_EQ(tokenizer.decode(ids, true), text);
}

TEST(ByteTokenizer, EveryIdHasText) {
  const Tokenizer tokenizer = make_byte_tokenizer(1000, kSpecial).value();
  EXPECT_EQ(tokenizer.vocab_size(), 1000);
  for (int32_t id = 0; id < 1000; ++id) EXPECT_FALSE(tokenizer.token_bytes(id).empty()) << id;
  EXPECT_EQ(tokenizer.token_bytes(999), " t999");
  EXPECT_EQ(tokenizer.token_bytes(257), std::string_view("\xff"));
  EXPECT_EQ(tokenizer.token_bytes(258), " t258");
  EXPECT_TRUE(tokenizer.is_special(900));
  EXPECT_FALSE(tokenizer.is_special(899));
  EXPECT_EQ(tokenizer.encode("<special_900>").value(), std::vector<int32_t>{900});
}

TEST(ByteTokenizer, PromptsBeginWithBos) {
  const Tokenizer tokenizer = make_byte_tokenizer(1000, kSpecial).value();
  EXPECT_EQ(encode_prompt(tokenizer, byte_tokenizer_config(0), "A", true).value(),
            (std::vector<int32_t>{0, 2 + 'A'}));
  EXPECT_EQ(encode_prompt(tokenizer, byte_tokenizer_config(-1), "A", true).value(),
            (std::vector<int32_t>{2 + 'A'}));
  EXPECT_TRUE(ChatTemplate::parse(*byte_tokenizer_config(0).chat_template(false)).ok());
}

TEST(ByteTokenizer, NeedsRoomForAllBytes) {
  EXPECT_TRUE(make_byte_tokenizer(259, kSpecial).ok());  // 900 is not in the vocabulary
  EXPECT_TRUE(make_byte_tokenizer(258, kSpecial).ok());
  EXPECT_EQ(make_byte_tokenizer(257, kSpecial).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace deepflight
