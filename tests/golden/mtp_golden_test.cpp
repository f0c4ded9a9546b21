// Drafts of MTP modules against the published description, computed apart from this engine: logits
// and tokens of each draft after a prompt, by one module and by a module for each.
#include <gtest/gtest.h>

#include "golden_testing.h"
#include "runtime/executor/deferred_backend_testing.h"
#include "runtime/executor/executor.h"
#include "runtime/executor/plan_testing.h"

namespace deepflight {
namespace {

constexpr double kTolerance = 1e-4;
constexpr const char* kDir = "tests/golden/v3_mtp";

struct DraftGolden {
  Tokens prompt;
  int32_t next_id;
  Tokens ids;  // of the drafts
  std::vector<float> logits;
};

std::vector<DraftGolden> read_draft_goldens(const std::string& mode) {
  const auto file = SafetensorsFile::open(std::filesystem::path(kDir) / "mtp.safetensors").value();
  std::vector<DraftGolden> goldens;
  while (true) {
    const std::string prefix = "prompt_" + std::to_string(goldens.size()) + ".";
    if (file.find(prefix + "token_ids") == nullptr) return goldens;
    goldens.push_back({read_ids(file, prefix + "token_ids"), read_ids(file, prefix + "next_id")[0],
                       read_ids(file, prefix + mode + "_ids"),
                       read_floats(file, prefix + mode + "_logits")});
  }
}

class MtpGoldenTest : public testing::TestWithParam<MtpMode> {
 protected:
  static constexpr int64_t kNumPages = 4;

  MtpGoldenTest() {
    const auto checkpoint = Checkpoint::open(kDir).value();
    weights_ = load_model_weights(config_, checkpoint, kMaxPositions, backend_, {},
                                  static_cast<int>(config_.num_nextn_predict_layers))
                   .value();
  }

  // The prompt in chunks, the last of which samples and drafts.
  void check(const DraftGolden& golden, int chunk) {
    const auto draft_len = static_cast<int>(golden.ids.size());
    ExecutorConfig config;
    config.num_pages = kNumPages;
    config.max_num_slots = 1;
    config.max_batched_tokens = 256;
    config.max_pages_per_slot = kNumPages;
    config.speculative.draft_len = draft_len;
    config.speculative.mode = GetParam();
    DeferredBackend device(backend_);
    Executor executor(config, config_, weights_, device);
    const auto length = static_cast<int>(golden.prompt.size());
    StepResult result;
    for (int start = 0; start < length; start += chunk) {
      const int count = std::min(chunk, length - start);
      TestPlan plan;
      if (start == 0) plan = TestPlan().admit(0, golden.prompt, {2, 0, 3, 1});
      plan.prefill_chunks.push_back({0, ChunkKind::kPrompt, start, count, start + count == length});
      plan.next_draft_len = draft_len;
      executor.launch(std::move(plan));
      result = executor.collect();
    }
    ASSERT_EQ(result.rows.size(), 1u);
    EXPECT_EQ(result.rows[0].tokens, Tokens{golden.next_id});
    device.synchronize();
    const int32_t* drafts = device.last_state.draft_tokens.row<int32_t>(0);
    EXPECT_EQ(Tokens(drafts, drafts + draft_len), golden.ids);
    ASSERT_EQ(device.draft_logits.size(), golden.logits.size());
    EXPECT_LT(relative_error(device.draft_logits.data(), golden.logits), kTolerance);
  }

  const DeepseekConfig config_ = DeepseekConfig::load(kDir).value();
  CpuBackend backend_{{.num_threads = 2}};
  ModelWeights weights_;
};

TEST_P(MtpGoldenTest, DraftsAreThePublishedModules) {
  const auto goldens = read_draft_goldens(GetParam() == MtpMode::kEagle ? "eagle" : "vanilla");
  ASSERT_GE(goldens.size(), 6u);
  for (const DraftGolden& golden : goldens) {
    for (const int chunk : {1000, 7}) {
      SCOPED_TRACE(testing::Message() << golden.prompt.size() << " tokens, chunks of " << chunk);
      check(golden, chunk);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, MtpGoldenTest, testing::Values(MtpMode::kEagle, MtpMode::kVanilla));

}  // namespace
}  // namespace deepflight
