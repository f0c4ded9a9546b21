// What a step derives from the slots before it runs, and what it leaves in them.
#include <gtest/gtest.h>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/op_testing.h"

namespace deepflight {
namespace {

using namespace testing;  // NOLINT: the helpers of op_testing.h

TEST(PrepareStep, DecodeRowsReadTheirSlotsAndChunksStay) {
  CpuBackend backend({.num_threads = 1});
  const Ints last_tokens{10, 11, 12, 13}, kv_lens{5, 64, 0, 129};
  StepState state;
  state.last_tokens = last_tokens.view();
  state.kv_lens = kv_lens.view();
  StepInputs inputs;
  inputs.num_decode_rows = 2;
  inputs.num_tokens = 4;
  inputs.num_absorbed_tokens = 3;
  const Ints tokens{-1, -1, 77, 78}, positions{-1, -1, 30, 31}, slots{3, 0, 1};
  const Ints batch_lens{-1, -1, 31};
  inputs.token_ids = tokens.view();
  inputs.positions = positions.view();
  inputs.absorbed.slots = slots.view();
  inputs.absorbed.kv_lens = batch_lens.view();
  backend.prepare_step(state, inputs);
  EXPECT_EQ(tokens.values, (std::vector<int32_t>{13, 10, 77, 78}));
  EXPECT_EQ(positions.values, (std::vector<int32_t>{129, 5, 30, 31}));
  EXPECT_EQ(batch_lens.values, (std::vector<int32_t>{130, 6, 31}));
  EXPECT_EQ(kv_lens.values, (std::vector<int32_t>{5, 64, 0, 129}));
}

TEST(UpdateState, LengthsTokensAndCounts) {
  CpuBackend backend({.num_threads = 1});
  const Ints last_tokens{10, 11, 12, 13}, kv_lens{5, 64, 0, 129}, num_outputs{3, 0, 0, 7};
  Ints counts;
  counts.values.assign(4 * 6, 0);
  counts.values[3 * 6 + 2] = 4;
  StepState state;
  state.last_tokens = last_tokens.view();
  state.kv_lens = kv_lens.view();
  state.num_outputs = num_outputs.view();
  state.output_counts = counts.view(4, 6);
  // A decode row of slot 3, a chunk of slot 1 that does not sample, one of slot 2 that does.
  const Ints token_slots{3, 1, 1, 2, 2, 2}, positions{129, 64, 65, 0, 1, 2};
  const Ints sampled_slots{3, 2}, sampled_tokens{2, 5};
  StepInputs inputs;
  inputs.num_decode_rows = 1;
  inputs.num_tokens = 6;
  inputs.token_slots = token_slots.view();
  inputs.positions = positions.view();
  inputs.num_sampled_rows = 2;
  inputs.sampled_slots = sampled_slots.view();
  SampledTokens sampled;
  sampled.tokens = sampled_tokens.view();
  backend.update_state(state, inputs, sampled);
  EXPECT_EQ(kv_lens.values, (std::vector<int32_t>{5, 66, 3, 130}));
  EXPECT_EQ(last_tokens.values, (std::vector<int32_t>{10, 11, 5, 2}));
  EXPECT_EQ(num_outputs.values, (std::vector<int32_t>{3, 0, 1, 8}));
  std::vector<int32_t> want(4 * 6, 0);
  want[3 * 6 + 2] = 5;
  want[2 * 6 + 5] = 1;
  EXPECT_EQ(counts.values, want);
}

// Padding rows of a captured decode step: computed at position 0, and nothing of them stays.
TEST(StepState, PaddingRowsChangeNothing) {
  CpuBackend backend({.num_threads = 1});
  const Ints last_tokens{10, 11}, kv_lens{5, 64}, num_outputs{3, 0},
      counts(std::vector<int32_t>(12));
  StepState state;
  state.last_tokens = last_tokens.view();
  state.kv_lens = kv_lens.view();
  state.num_outputs = num_outputs.view();
  state.output_counts = counts.view(2, 6);
  const Ints slots{1, -1}, sampled_tokens{4, 0};
  const Ints token_ids{-9, -9}, positions{-9, -9}, batch_kv_lens{-9, -9};
  StepInputs inputs;
  inputs.num_decode_rows = 2;
  inputs.num_tokens = 2;
  inputs.token_ids = token_ids.view();
  inputs.positions = positions.view();
  inputs.token_slots = slots.view();
  inputs.absorbed.slots = slots.view();
  inputs.absorbed.kv_lens = batch_kv_lens.view();
  inputs.num_sampled_rows = 2;
  inputs.sampled_slots = slots.view();
  backend.prepare_step(state, inputs);
  EXPECT_EQ(token_ids.values, (std::vector<int32_t>{11, 0}));
  EXPECT_EQ(positions.values, (std::vector<int32_t>{64, 0}));
  EXPECT_EQ(batch_kv_lens.values, (std::vector<int32_t>{65, 0}));
  SampledTokens sampled;
  sampled.tokens = sampled_tokens.view();
  backend.update_state(state, inputs, sampled);
  EXPECT_EQ(kv_lens.values, (std::vector<int32_t>{5, 65}));
  EXPECT_EQ(last_tokens.values, (std::vector<int32_t>{10, 4}));
  EXPECT_EQ(num_outputs.values, (std::vector<int32_t>{3, 1}));
}

// An admitted slot holds what its delta says and nothing of the sequence before it.
TEST(StepState, DeltasResetASlotAndExtendPageTables) {
  CpuBackend backend({.num_threads = 1});
  const Ints kv_lens{5, 6, 7}, num_outputs{1, 2, 3}, counts(std::vector<int32_t>(3 * 6, 9));
  const Ints page_table(std::vector<int32_t>(3 * 4, -1)), bias_ids(std::vector<int32_t>(3 * 2, -1)),
      banned_ids(std::vector<int32_t>(3 * 2, -1));
  std::vector<uint8_t> seen(3 * 6, 1);
  std::vector<float> bias_values(3 * 2, -1.0f);
  std::vector<SlotSampling> sampling(3);
  StepState state;
  state.kv_lens = kv_lens.view();
  state.num_outputs = num_outputs.view();
  state.page_table = page_table.view(3, 4);
  state.output_counts = counts.view(3, 6);
  state.prompt_seen = TensorView::of(seen.data(), {3, 6});
  state.bias_ids = bias_ids.view(3, 2);
  state.bias_values = TensorView::of(bias_values.data(), {3, 2});
  state.banned_ids = banned_ids.view(3, 2);
  state.sampling = sampling.data();

  SlotDelta delta{};
  delta.slot = 1;
  delta.kv_len = 2;
  delta.num_outputs = 2;
  delta.first_token = 1;
  delta.num_tokens = 4;
  delta.num_prompt_tokens = 2;
  delta.first_bias = 1;
  delta.first_banned = 2;
  delta.sampling.num_biases = 2;
  delta.sampling.num_banned = 1;
  delta.sampling.seed = 77;
  const Ints tokens{0, 3, 5, 4, 4}, all_bias_ids{0, 2, 3}, all_banned{0, 0, 5};
  std::vector<float> all_bias_values{0.0f, 0.5f, 1.5f};
  const Ints grant_slots{2, 1, 1}, grant_idx{3, 0, 1}, grant_pages{40, 41, 42};
  StepDeltas deltas;
  deltas.num_admissions = 1;
  deltas.admissions = &delta;
  deltas.tokens = tokens.view();
  deltas.bias_ids = all_bias_ids.view();
  deltas.bias_values = TensorView::of(all_bias_values.data(), {3});
  deltas.banned_ids = all_banned.view();
  deltas.num_page_grants = 3;
  deltas.grant_slots = grant_slots.view();
  deltas.grant_page_idx = grant_idx.view();
  deltas.grant_pages = grant_pages.view();
  backend.apply_deltas(state, deltas);

  EXPECT_EQ(kv_lens.values, (std::vector<int32_t>{5, 2, 7}));
  EXPECT_EQ(num_outputs.values, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(counts.values,
            (std::vector<int32_t>{9, 9, 9, 9, 9, 9, 0, 0, 0, 0, 2, 0, 9, 9, 9, 9, 9, 9}));
  EXPECT_EQ(seen, (std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(bias_ids.values, (std::vector<int32_t>{-1, -1, 2, 3, -1, -1}));
  EXPECT_EQ(bias_values, (std::vector<float>{-1, -1, 0.5f, 1.5f, -1, -1}));
  EXPECT_EQ(banned_ids.values, (std::vector<int32_t>{-1, -1, 5, -1, -1, -1}));
  EXPECT_EQ(page_table.values,
            (std::vector<int32_t>{-1, -1, -1, -1, 41, 42, -1, -1, -1, -1, -1, 40}));
  EXPECT_EQ(sampling[1].seed, 77u);
}

TEST(ApplyDeltas, MasksGoToTheirSlots) {
  CpuBackend backend({.num_threads = 1});
  const Ints last_tokens{10, 11, 12}, kv_lens{5, 6, 7}, num_outputs{0, 0, 0};
  const Ints counts(std::vector<int32_t>(3 * 40)), token_masks{1, 2, 3, 4, 5, 6};
  std::vector<uint8_t> seen(3 * 40);
  std::vector<SlotSampling> sampling(3);
  StepState state;
  state.last_tokens = last_tokens.view();
  state.kv_lens = kv_lens.view();
  state.num_outputs = num_outputs.view();
  state.output_counts = counts.view(3, 40);
  state.prompt_seen = TensorView::of(seen.data(), {3, 40});
  state.token_masks = token_masks.view(3, 2);
  state.sampling = sampling.data();
  SlotDelta admission{.slot = 2};
  admission.sampling.mask = mask_after(9);
  const Ints slots{2, 0}, modes{mask_after(9), kMaskOn}, masks{70, 71, 80, 81};
  StepDeltas deltas;
  deltas.num_admissions = 1;
  deltas.admissions = &admission;
  deltas.num_masks = 2;
  deltas.mask_slots = slots.view();
  deltas.mask_modes = modes.view();
  deltas.masks = masks.view(2, 2);
  backend.apply_deltas(state, deltas);
  EXPECT_EQ(token_masks.values, (std::vector<int32_t>{80, 81, 3, 4, 70, 71}));
  EXPECT_EQ(sampling[0].mask, kMaskOn);
  EXPECT_EQ(sampling[2].mask, mask_after(9));
  EXPECT_EQ(last_tokens.values, (std::vector<int32_t>{10, 11, -1}));
}

}  // namespace
}  // namespace deepflight
