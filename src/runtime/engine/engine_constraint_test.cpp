// Outputs held to a grammar, by every road: alone, batched with others, in chunks, one step ahead
// or not, through preemption, in captured steps. The outputs are the same, documents all of them,
// and those of the requests beside them are what they are without such company.
#include <gtest/gtest.h>

#include "grammar/output_form.h"
#include "grammar/vocabulary_testing.h"
#include "runtime/engine/engine_testing.h"
#include "runtime/executor/deferred_backend_testing.h"

namespace deepflight {
namespace {

constexpr int kVocab = 320;
constexpr int kNumRequests = 48;
constexpr int32_t kThinkEnd = 40;  // '(' in these tests' prompts and outputs: it comes by itself

const char* const kSchemas[] = {
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string","maxLength":6}},
        "required":["a"]})",
    R"({"type":"array","items":{"enum":["x","yes",1]},"maxItems":4})",
    R"({"type":"string","pattern":"^[a-f]{2,6}$"})",
};

class EngineConstraintTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = new TinyModel(1, 1, kVocab);
    tokenizer_ = new Tokenizer(tokenizer_of(made_up_words(kVocab - 256, 4), {}));
    const std::vector<int32_t> ends = {kTinyEos};
    forms_ = new OutputFormCompiler(TokenVocabulary::create(*tokenizer_, kVocab, ends, {}).value());
  }
  static void TearDownTestSuite() {
    delete forms_;
    delete tokenizer_;
    delete model_;
  }

  // Every third is free, every third held from the start, every third held behind a token.
  static GenerationRequest request(int index) {
    GenerationRequest request =
        greedy_request(std::to_string(index), make_prompt(1 + index * 7 % 90, 7000 + index), 60);
    request.sampling.temperature = index % 2 == 0 ? 1.0f : 0.0f;
    request.sampling.seed = index;
    request.sampling.ignore_eos = false;
    if (index % 3 == 0) return request;
    OutputForm form;
    form.schema = nlohmann::ordered_json::parse(kSchemas[index % 5 % 3]);
    request.constraint.grammar = forms_->compile(form).value();
    if (index % 3 == 1) return request;
    request.constraint.after_token = kThinkEnd;
    request.constraint.is_required = true;
    request.sampling.logit_bias = {{kThinkEnd, 3.0f}};
    request.sampling.max_tokens = 150;
    return request;
  }

  static std::vector<Tokens> outputs_alone() {
    SchedulerConfig config = small_scheduler();
    config.max_steps_in_flight = 1;
    EngineRig rig(*model_, config, tokenizer_);
    std::vector<Tokens> outputs;
    for (int i = 0; i < kNumRequests; ++i) outputs.push_back(rig.run_one(request(i)).tokens);
    rig.expect_all_returned();
    return outputs;
  }

  static void expect_same(EngineRig& rig, const std::vector<Tokens>& alone) {
    std::vector<Watch> watches;
    for (int i = 0; i < kNumRequests; ++i) watches.push_back(rig.submit(request(i)));
    for (int i = 0; i < kNumRequests; ++i) {
      ASSERT_EQ(watches[i].wait_one().tokens, alone[i]) << "request " << i;
    }
    rig.expect_all_returned();
  }

  static TinyModel* model_;
  static Tokenizer* tokenizer_;
  static OutputFormCompiler* forms_;
};
TinyModel* EngineConstraintTest::model_ = nullptr;
Tokenizer* EngineConstraintTest::tokenizer_ = nullptr;
OutputFormCompiler* EngineConstraintTest::forms_ = nullptr;

TEST_F(EngineConstraintTest, OutputsAreDocuments) {
  EngineRig rig(*model_, small_scheduler(), tokenizer_);
  int num_documents = 0, num_behind_token = 0;
  for (int i = 0; i < kNumRequests; ++i) {
    const GenerationRequest asked = request(i);
    if (!asked.constraint) continue;
    const Output output = rig.run_one(asked);
    std::string text = output.text;
    if (i % 3 == 2) {
      const size_t end = text.find('(');
      ASSERT_TRUE(end != std::string::npos || output.finish_reason == FinishReason::kLength);
      if (end == std::string::npos) continue;
      text = text.substr(end + 1);
      ++num_behind_token;
    }
    if (output.finish_reason == FinishReason::kLength) continue;
    EXPECT_EQ(output.tokens.back(), kTinyEos);
    EXPECT_TRUE(nlohmann::json::accept(text)) << i << ": " << text;
    ++num_documents;
  }
  EXPECT_GT(num_documents, kNumRequests / 3);
  EXPECT_GT(num_behind_token, kNumRequests / 6);
}

TEST_F(EngineConstraintTest, TheRoadDoesNotMatter) {
  const auto alone = outputs_alone();
  for (const int steps_in_flight : {1, 2}) {
    for (const int chunk : {16, 128}) {
      for (const int num_pages : {6, 64}) {
        SCOPED_TRACE(fmt::format("{} steps in flight, chunks of {}, {} pages", steps_in_flight,
                                 chunk, num_pages));
        SchedulerConfig config = small_scheduler();
        config.max_steps_in_flight = steps_in_flight;
        config.max_chunk_tokens = chunk;
        config.num_pages = num_pages;
        config.watermark = 0;
        EngineRig rig(*model_, config, tokenizer_);
        expect_same(rig, alone);
        EXPECT_EQ(rig.engine.stats().num_preemptions > 0, num_pages == 6);
        if (HasFatalFailure()) return;
      }
    }
  }
  SchedulerConfig config = small_scheduler();
  config.decode_batch_sizes = {1, 2, 4, 8};
  DeferredBackend late(model_->backend);
  EngineRig rig(*model_, late, config, tokenizer_);
  expect_same(rig, alone);
  EXPECT_GT(rig.engine.stats().num_graph_steps, 0);
}

// Choices go their own ways through one grammar, and a cancelled one leaves nothing behind.
TEST_F(EngineConstraintTest, ChoicesAndCancels) {
  EngineRig rig(*model_, small_scheduler(), tokenizer_);
  GenerationRequest many = request(4);
  many.sampling.num_choices = 6;
  many.sampling.num_logprobs = 2;
  const Watch watch = rig.submit(many);
  GenerationRequest gone = request(1);
  gone.request_id = "gone";
  const Watch cancelled = rig.submit(gone);
  rig.engine.cancel("gone");
  for (const Output& output : watch.wait()) {
    EXPECT_EQ(output.logprobs.size(), output.tokens.size());
    if (output.finish_reason == FinishReason::kStop) {
      EXPECT_TRUE(nlohmann::json::accept(output.text)) << output.text;
    }
  }
  cancelled.wait();
  rig.expect_all_returned();
}

TEST_F(EngineConstraintTest, AnotherVocabularysGrammarIsRefused) {
  TinyModel small;
  EngineRig rig(small);
  GenerationRequest asked = request(1);
  const Watch watch;
  EXPECT_FALSE(rig.engine.submit(asked, watch.callback()).ok());
}

}  // namespace
}  // namespace deepflight
