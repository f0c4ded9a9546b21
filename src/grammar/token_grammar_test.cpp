// Masks against their definition: a token may come if all of its symbols can, one after the other.
#include "grammar/token_grammar.h"

#include <gtest/gtest.h>

#include <random>

#include "grammar/output_form.h"
#include "grammar/schema_testing.h"
#include "grammar/vocabulary_testing.h"
#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

const std::vector<std::string_view> kMarks = {kToolCallsBegin, kToolCallsEnd, kToolCallBegin,
                                              kToolCallEnd, kToolSeparator};

// Bytes, 800 words, then the marks, <think>, </think> and the end of the output.
std::shared_ptr<const TokenVocabulary> make_vocabulary() {
  std::vector<std::string> added(kMarks.begin(), kMarks.end());
  added.insert(added.end(), {"<think>", "</think>", "<end>"});
  const Tokenizer tokenizer = tokenizer_of(made_up_words(800, 5), added);
  const int32_t end = tokenizer.token_to_id("<end>");
  // A few logits more than there are tokens, as models have them.
  return TokenVocabulary::create(tokenizer, tokenizer.vocab_size() + 9, {{end}}, kMarks).value();
}

TokenMask mask_by_definition(const Grammar& grammar, const TokenVocabulary& vocabulary,
                             const std::vector<Symbol>& text) {
  GrammarWalk walk(grammar);
  const auto run = [&](ConfigId from, const std::vector<Symbol>& symbols) {
    for (const Symbol symbol : symbols) {
      if (from != kNoConfig) from = walk.step(from, symbol);
    }
    return from;
  };
  const ConfigId here = run(walk.start(), text);
  CHECK(here != kNoConfig);
  TokenMask mask(mask_words(vocabulary.vocab_size()));
  for (int32_t id = 0; id < vocabulary.vocab_size(); ++id) {
    const auto symbols = vocabulary.symbols(id);
    const bool in = vocabulary.is_end(id) ? walk.accepts(here)
                                          : !symbols.empty() && run(here, symbols) != kNoConfig;
    if (in) allow_token(mask, id);
  }
  return mask;
}

// Walks at random through the outputs of a form, comparing every mask.
void check_form(const OutputForm& form, int num_rounds, int max_tokens) {
  const auto vocabulary = make_vocabulary();
  OutputFormCompiler compiler(vocabulary);
  const auto grammar = compiler.compile(form).value();
  ASSERT_EQ(compiler.compile(form).value(), grammar);
  std::mt19937 random(3);
  for (int round = 0; round < num_rounds; ++round) {
    auto position = grammar->start();
    std::vector<Symbol> text;
    for (int i = 0; i < max_tokens; ++i) {
      const auto mask = grammar->mask(position);
      ASSERT_EQ(*mask, mask_by_definition(grammar->grammar(), *vocabulary, text)) << i;
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < vocabulary->vocab_size(); ++id) {
        auto copy = position;
        const bool in = allows_token(*mask, id);
        if (in) allowed.push_back(id);
        if (id % 17 == 0) {
          ASSERT_EQ(grammar->accept(copy, id), in) << id;
        }
      }
      ASSERT_FALSE(allowed.empty());
      const int32_t token = allowed[random() % allowed.size()];
      ASSERT_TRUE(grammar->accept(position, token));
      if (vocabulary->is_end(token)) break;
      for (const Symbol symbol : vocabulary->symbols(token)) text.push_back(symbol);
    }
  }
}

OutputForm schema_form(std::string_view schema) {
  OutputForm form;
  form.schema = nlohmann::ordered_json::parse(schema);
  return form;
}

TEST(TokenGrammar, MasksOfStrings) {
  check_form(schema_form(R"({"type":"string"})"), 4, 15);
  check_form(schema_form(R"({"type":"string","minLength":5,"maxLength":14})"), 12, 12);
  check_form(schema_form(R"({"type":"string","minLength":90})"), 2, 20);
  check_form(schema_form(R"({"type":"string","pattern":"^[a-m ]+(\\d|x)*$"})"), 6, 12);
  check_form(schema_form(R"({"anyOf":[{"type":"string","maxLength":6},{"type":"string",
      "pattern":"^a"},{"const":"quite a long constant"}]})"),
             12, 10);
}

TEST(TokenGrammar, MasksOfObjects) {
  check_form(schema_form(R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},
      "n":{"type":"integer","minimum":-7,"maximum":120},"tags":{"type":"array","items":
      {"enum":["a","ab","abc"]},"maxItems":3}},"required":["name","tags"],
      "additionalProperties":{"type":"boolean"}})"),
             10, 40);
  check_form(schema_form(R"({"type":"object"})"), 5, 40);
}

TEST(TokenGrammar, MasksOfCalls) {
  OutputForm form;
  form.calls = OutputForm::Calls{
      .tools = {
          {"get", nlohmann::ordered_json::parse(
                      R"({"type":"object","properties":{"c":{"type":"string","maxLength":4}}})")},
          {"get_all", nlohmann::ordered_json::parse(R"({"type":"object","properties":{}})")}}};
  check_form(form, 10, 30);
  form.calls->is_fenced = true;
  form.calls->start = OutputForm::CallStart::kCallMark;
  check_form(form, 10, 30);
  form.schema = nlohmann::ordered_json::parse(R"({"type":"null"})");
  form.may_begin_with_line_breaks = true;
  form.calls->start = OutputForm::CallStart::kNothing;
  check_form(form, 10, 30);
}

TEST(TokenGrammar, AddedTokensAreNoText) {
  const auto vocabulary = make_vocabulary();
  TokenGrammar grammar(compile_schema(R"({"type":"string"})").value(), vocabulary);
  auto position = grammar.start();
  ASSERT_TRUE(grammar.accept(position, '"'));
  const auto mask = grammar.mask(position);
  const int32_t first_added = 256 + 800;
  for (int32_t id = first_added; id < vocabulary->vocab_size(); ++id) {
    EXPECT_FALSE(allows_token(*mask, id)) << id;
  }
  EXPECT_FALSE(grammar.can_end(position));
  ASSERT_TRUE(grammar.accept(position, '"'));
  EXPECT_TRUE(grammar.can_end(position));
  const auto at_end = grammar.mask(position);
  int num_allowed = 0;
  for (int32_t id = 0; id < vocabulary->vocab_size(); ++id)
    num_allowed += allows_token(*at_end, id);
  EXPECT_EQ(num_allowed, 1);
  EXPECT_TRUE(allows_token(*at_end, first_added + 7));
}

// A long string of bounded length has one mask for nearly all of its places.
TEST(TokenGrammar, MasksAreShared) {
  TokenGrammar grammar(compile_schema(R"({"type":"string","maxLength":5000})").value(),
                       make_vocabulary());
  auto position = grammar.start();
  ASSERT_TRUE(grammar.accept(position, '"'));
  for (int i = 0; i < 4000; ++i) {
    grammar.mask(position);
    ASSERT_TRUE(grammar.accept(position, 'a'));
  }
  EXPECT_EQ(grammar.stats().num_masks, 4000);
  EXPECT_LE(grammar.stats().num_computed_masks, 2);
}

// A position outlives the table it was made in, and tables do not grow without bound.
TEST(TokenGrammar, TablesAreReplaced) {
  TokenGrammar grammar(
      compile_schema(R"({"type":"array","items":{"type":"integer"},"maxItems":100000})").value(),
      make_vocabulary());
  auto position = grammar.start();
  auto early = position;
  ASSERT_TRUE(grammar.accept(position, '['));
  ASSERT_TRUE(grammar.accept(position, '1'));
  size_t most = 0;
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_TRUE(grammar.accept(position, ','));
    ASSERT_TRUE(grammar.accept(position, '0' + i % 10));
    most = std::max(most, grammar.stats().num_configs);
  }
  EXPECT_LT(most, 20'000u);
  ASSERT_TRUE(grammar.accept(position, ']'));
  EXPECT_TRUE(grammar.can_end(position));
  ASSERT_TRUE(grammar.accept(early, '['));
  EXPECT_TRUE(grammar.accept(early, ']'));
}

// Grammars made to be slow: something always comes, and soon.
TEST(TokenGrammar, WorkIsBounded) {
  std::string alternatives;
  for (int i = 0; i < 400; ++i) {
    alternatives += fmt::format(R"({}{{"type":"string","pattern":"(a|b|{})*x{{{}}}$"}})",
                                i > 0 ? "," : "", static_cast<char>('c' + i % 20), i % 97 + 1);
  }
  TokenGrammar grammar(compile_schema(R"({"anyOf":[)" + alternatives + "]}").value(),
                       make_vocabulary());
  auto position = grammar.start();
  ASSERT_TRUE(grammar.accept(position, '"'));
  for (int i = 0; i < 5; ++i) {
    const auto mask = grammar.mask(position);
    ASSERT_TRUE(allows_token(*mask, 'x'));
    ASSERT_TRUE(grammar.accept(position, 'x'));
  }
}

TEST(Vocabulary, BytesMustBeThere) {
  const auto vocabulary =
      TokenVocabulary::create(tokenizer_of({}, {}), 200, std::vector<int32_t>{}, kMarks);
  ASSERT_FALSE(vocabulary.ok());
  EXPECT_EQ(vocabulary.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace deepflight
