// Drafts around the modules: rows that sample behind drafts, what is accepted, states one token on,
// and the chain of the next drafts.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/draft_testing.h"
#include "compute/cpu/op_testing.h"

namespace deepflight {
namespace {

using namespace testing;  // NOLINT: the helpers of op_testing.h

// A row behind j drafts samples what a lone row samples when those drafts are output already.
TEST(SampleDrafts, RowsSeeTheDraftsBeforeThem) {
  constexpr int kVocab = 60;
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int draft_len = 1 + round % 4;
    DraftWorld world(/*num_slots=*/3, kVocab, draft_len);
    world.randomize(random, /*with_lists=*/true);
    const std::vector<int32_t> slots{2, 0};
    const Matrix logits = Matrix::random(2 * (1 + draft_len), kVocab, round, 0, 2.0f);
    const auto outcome = world.sample(slots, logits);
    for (size_t i = 0; i < slots.size(); ++i) {
      DraftWorld advanced = world;
      const int32_t slot = slots[i];
      for (int j = 0; j <= draft_len; ++j) {
        const auto row = static_cast<int64_t>(i) * (1 + draft_len) + j;
        Matrix one(1, kVocab);
        std::copy_n(logits.row(row), kVocab, one.row(0));
        EXPECT_EQ(outcome.tokens[row], advanced.sample_one(slot, one)) << round << ", row " << row;
        if (j < draft_len) advanced.take_output(slot, world.drafts.values[slot * draft_len + j]);
      }
    }
  }
}

// The distribution of what comes out, for any draft: that of the model. Two tokens a sequence, the
// second one's logits depending on the first.
TEST(SampleDrafts, AcceptanceKeepsTheDistribution) {
  constexpr int kVocab = 8, kDraws = 20'000;
  const Matrix first = Matrix::random(1, kVocab, 5), second = Matrix::random(kVocab, kVocab, 6);
  const auto probability = [](const float* logits, int token) {
    double total = 0;
    for (int i = 0; i < kVocab; ++i) total += std::exp(logits[i] / 0.8);
    return std::exp(logits[token] / 0.8) / total;
  };
  for (const int32_t draft : {0, 3, 5}) {
    DraftWorld world(kDraws, kVocab, /*draft_len=*/1);
    std::vector<int32_t> slots(kDraws);
    Matrix logits(2 * kDraws, kVocab);
    for (int i = 0; i < kDraws; ++i) {
      slots[i] = i;
      world.sampling[i].temperature = 0.8f;
      world.sampling[i].seed = 777 + i;
      world.drafts.values[i] = draft;
      std::copy_n(first.row(0), kVocab, logits.row(2 * i));
      std::copy_n(second.row(draft), kVocab, logits.row(2 * i + 1));
    }
    const auto outcome = world.sample(slots, logits);
    const auto accepted = world.update(slots, outcome.tokens);
    std::vector<int> counts(kVocab * kVocab);
    std::vector<int> firsts(kVocab);
    int num_accepted = 0;
    for (int i = 0; i < kDraws; ++i) {
      ++firsts[outcome.tokens[2 * i]];
      ASSERT_EQ(accepted[i], outcome.tokens[2 * i] == draft ? 2 : 1);
      if (accepted[i] == 1) continue;
      ++num_accepted;
      ++counts[outcome.tokens[2 * i + 1]];
    }
    double chi_square = 0, chi_square_second = 0;
    for (int token = 0; token < kVocab; ++token) {
      const double expected = kDraws * probability(first.row(0), token);
      chi_square += (firsts[token] - expected) * (firsts[token] - expected) / expected;
      const double then = num_accepted * probability(second.row(draft), token);
      chi_square_second += (counts[token] - then) * (counts[token] - then) / then;
    }
    EXPECT_LT(chi_square, 18.48) << draft;  // 7 degrees of freedom, p = 0.01
    EXPECT_LT(chi_square_second, 18.48) << draft;
    EXPECT_GT(num_accepted, 200);
  }
}

TEST(SampleDrafts, RelaxedWhileThinkingOnly) {
  constexpr int kVocab = 20, kStart = 18, kEnd = 19;
  // Probabilities 0.4, 0.3, 0.2, ...: logits in the order of ids 7, 3, 11.
  Matrix logits(3, kVocab);
  for (int row = 0; row < 3; ++row) {
    for (int i = 0; i < kVocab; ++i) logits.at(row, i) = -20.0f;
    logits.at(row, 7) = std::log(0.45f);
    logits.at(row, 3) = std::log(0.30f);
    logits.at(row, 11) = std::log(0.25f);
  }
  const auto sampled = [&](std::vector<int32_t> drafts, bool thinking, int topn, float delta) {
    DraftWorld world(1, kVocab, 2);
    world.sampling[0].temperature = 0.0f;
    world.sampling[0].relaxed_topn = topn;
    world.sampling[0].relaxed_delta = delta;
    world.sampling[0].think_start = kStart;
    world.sampling[0].think_end = kEnd;
    world.thinking.values[0] = thinking;
    world.drafts.values = std::move(drafts);
    return world.sample({0}, logits).tokens;
  };
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(sampled({3, 11}, true, 10, 0.6f), (Tokens{3, 11, 7}));
  EXPECT_EQ(sampled({3, 11}, false, 10, 0.6f), (Tokens{7, 7, 7})) << "not thinking";
  EXPECT_EQ(sampled({3, 11}, true, 0, 0.6f), (Tokens{7, 7, 7})) << "strict";
  EXPECT_EQ(sampled({3, 11}, true, 2, 0.6f), (Tokens{3, 7, 7})) << "third of two";
  EXPECT_EQ(sampled({3, 11}, true, 10, 0.18f), (Tokens{3, 7, 7})) << "0.2 below the best";
  EXPECT_EQ(sampled({3, 11}, true, 10, 0.1f), (Tokens{7, 7, 7}));
  EXPECT_EQ(sampled({3, 5}, true, 10, 0.6f), (Tokens{3, 5, 7})) << "0 >= 0.45 - 0.6";
  EXPECT_EQ(sampled({kEnd, 3}, true, 20, 1.0f), (Tokens{kEnd, 7, 7})) << "thinking ends";
  EXPECT_EQ(sampled({kStart, 3}, false, 20, 1.0f), (Tokens{7, 3, 7})) << "thinking begins";
  EXPECT_EQ(sampled({-1, -1}, true, 20, 1.0f), (Tokens{7, 7, 7})) << "no drafts";
}

TEST(SampleDrafts, SimulatedAcceptance) {
  constexpr int kVocab = 30, kDraws = 4000;
  for (const float share : {0.0f, 0.7f, 1.0f}) {
    DraftWorld world(kDraws, kVocab, 1);
    std::vector<int32_t> slots(kDraws);
    for (int i = 0; i < kDraws; ++i) {
      slots[i] = i;
      world.sampling[i].temperature = 0.0f;
      world.sampling[i].seed = i;
      world.sampling[i].simulated_acceptance = share;
      world.drafts.values[i] = i % kVocab;  // some are what the model says
    }
    const auto outcome = world.sample(slots, Matrix::random(2 * kDraws, kVocab, 3));
    const auto accepted = world.update(slots, outcome.tokens);
    int num_accepted = 0;
    for (const int32_t count : accepted) num_accepted += count - 1;
    EXPECT_NEAR(num_accepted, share * kDraws, share == 0.7f ? 120 : 0);
  }
}

TEST(UpdateState, AcceptsDraftsUntilOneIsWrong) {
  constexpr int kVocab = 10, kStart = 8, kEnd = 9;
  DraftWorld world(4, kVocab, 3);
  for (auto& sampling : world.sampling) {
    sampling.think_start = kStart;
    sampling.think_end = kEnd;
  }
  world.kv_lens.values = {5, 64, 100, 7};
  world.num_outputs.values = {1, 2, 3, 4};
  world.thinking.values = {1, 1, 0, 0};
  world.drafts.values = {1, 2, 3, /**/ 4, kEnd, 6, /**/ 1, 2, 3, /**/ -1, 5, 5};
  const std::vector<int32_t> slots{1, 0, -1, 3, 2};
  // Slot 1: two right, then wrong. 0: none right. 3: no draft at the first place. 2: all right.
  const std::vector<int32_t> tokens{4,      kEnd, 1, 1, /**/ 2, 2, 3, 3,     /**/ 0, 0, 0, 0,
                                    /**/ 5, 5,    5, 5, /**/ 1, 2, 3, kStart};
  EXPECT_EQ(world.update(slots, tokens), (std::vector<int32_t>{3, 1, 0, 1, 4}));
  EXPECT_EQ(world.kv_lens.values, (std::vector<int32_t>{6, 67, 104, 8}));
  EXPECT_EQ(world.num_outputs.values, (std::vector<int32_t>{2, 5, 7, 5}));
  EXPECT_EQ(world.last_tokens.values, (std::vector<int32_t>{2, 1, kStart, 5}));
  EXPECT_EQ(world.thinking.values, (std::vector<int32_t>{1, 0, 1, 0}));
  std::vector<int32_t> counts(4 * kVocab, 0);
  for (const auto& [slot, token] :
       {std::pair{1, 4}, {1, kEnd}, {1, 1}, {0, 2}, {3, 5}, {2, 1}, {2, 2}, {2, 3}, {2, kStart}}) {
    ++counts[slot * kVocab + token];
  }
  EXPECT_EQ(world.counts.values, counts);
}

TEST(PrepareStep, RowsWithDrafts) {
  DraftWorld world(3, 20, 2);
  world.last_tokens.values = {10, 11, 12};
  world.kv_lens.values = {5, 64, 0};
  world.drafts.values = {1, 2, 3, -1, 5, 6};
  const Ints slots{1, -1, 0}, kv_lens{-9, -9, -9};
  const Ints tokens(std::vector<int32_t>(9, -9)), positions(std::vector<int32_t>(9, -9));
  StepInputs inputs;
  inputs.num_decode_rows = 3;
  inputs.draft_len = 2;
  inputs.num_tokens = 9;
  inputs.token_ids = tokens.view();
  inputs.positions = positions.view();
  inputs.absorbed.slots = slots.view();
  inputs.absorbed.kv_lens = kv_lens.view();
  CpuBackend({.num_threads = 1}).prepare_step(world.state(), inputs);
  EXPECT_EQ(tokens.values, (std::vector<int32_t>{11, 3, 0, 0, 0, 0, 10, 1, 2}));
  EXPECT_EQ(positions.values, (std::vector<int32_t>{64, 65, 66, 0, 0, 0, 5, 6, 7}));
  EXPECT_EQ(kv_lens.values, (std::vector<int32_t>{67, 0, 8}));
}

// Two decode rows of two drafts, one of them padding, and a chunk that samples.
TEST(BeginDrafts, PlacesOfTheNextDrafts) {
  DraftWorld world(3, 20, 2);
  world.kv_lens.values = {12, 0, 31};
  world.last_tokens.values = {7, 0, 9};
  world.drafts.values = {1, 2, 3, 4, 5, 6};
  DraftArrays arrays(/*num_rows=*/7, /*num_results=*/3);
  const Ints sampled_slots{0, 0, 0, -1, -1, -1, 2}, sampled_idx{0, 1, 2, 3, 4, 5, 8};
  const Ints positions{10, 11, 12, 0, 0, 0, 28, 29, 30}, accepted{2, 1, 1};
  StepInputs inputs;
  inputs.num_decode_rows = 2;
  inputs.draft_len = 2;
  inputs.num_tokens = 9;
  inputs.positions = positions.view();
  inputs.num_sampled_rows = 7;
  inputs.sampled_slots = sampled_slots.view();
  inputs.sampled_token_idx = sampled_idx.view();
  SampledTokens sampled;
  sampled.num_accepted = accepted.view();
  CpuBackend backend({.num_threads = 1});
  backend.begin_drafts(world.state(), inputs, sampled, arrays.inputs());
  EXPECT_EQ(arrays.verified_positions.values, (std::vector<int32_t>{11, 12, 13, 0, 0, 0, 31}));
  EXPECT_EQ(arrays.last_rows.values, (std::vector<int32_t>{1, 3, 6}));
  EXPECT_EQ(arrays.token_ids.values, (std::vector<int32_t>{7, 0, 9}));
  EXPECT_EQ(arrays.positions.values, (std::vector<int32_t>{12, 0, 31}));
  EXPECT_EQ(arrays.slots.values, (std::vector<int32_t>{0, -1, 2}));
  EXPECT_EQ(arrays.offsets.values, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(arrays.kv_lens.values, (std::vector<int32_t>{13, 0, 32}));
  EXPECT_EQ(world.drafts.values, (std::vector<int32_t>{-1, -1, 3, 4, -1, -1}));

  // Slot 2 wants one draft only.
  world.sampling[2].max_drafts = 1;
  Matrix logits = Matrix::random(3, 20, 1);
  logits.at(0, 4) = logits.at(0, 15) = 100.0f;
  logits.at(2, 17) = 100.0f;
  backend.take_drafts(world.state(), logits.view(), 0, arrays.inputs());
  EXPECT_EQ(world.drafts.values, (std::vector<int32_t>{4, -1, 3, 4, 17, -1}));
  EXPECT_EQ(arrays.token_ids.values, (std::vector<int32_t>{4, 0, 17}));
  EXPECT_EQ(arrays.positions.values, (std::vector<int32_t>{13, 0, 32}));
  EXPECT_EQ(arrays.kv_lens.values, (std::vector<int32_t>{14, 0, 33}));
  backend.take_drafts(world.state(), logits.view(), 1, arrays.inputs());
  EXPECT_EQ(world.drafts.values, (std::vector<int32_t>{4, 4, 3, 4, 17, -1}));
}

// Every token gets the state of the one before it, wherever that was left.
TEST(ShiftStates, AcrossStepsAndPages) {
  constexpr int kWidth = 6, kLevels = 2;
  StateWorld world(/*num_slots=*/2, /*num_pages=*/6, kWidth, kLevels);
  CpuBackend backend({.num_threads = 1});
  for (const int64_t level : {0, 1}) {
    const auto feed = [&](const std::vector<StateWorld::Run>& runs) {
      const StateWorld::Tokens tokens = world.tokens(runs);
      Matrix out(tokens.num_tokens(), kWidth);
      const Matrix states = world.states(tokens, level);
      backend.shift_states(world.state(), tokens.inputs(), world.pool(), level, states.view(),
                           out.view());
      backend.keep_states(world.state(), tokens.inputs(), world.pool(), level, states.view());
      for (int64_t t = 0; t < tokens.num_tokens(); ++t) {
        for (int64_t i = 0; i < kWidth; ++i) {
          ASSERT_EQ(out.at(t, i), world.state_before(tokens, t, level, i)) << t;
        }
      }
    };
    for (const auto& runs : StateWorld::steps_over_pages()) feed(runs);
  }
}

}  // namespace
}  // namespace deepflight
