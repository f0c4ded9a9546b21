// Drafts on the GPU against the CPU backend's ops: all integers and copies, so exactly.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/draft_testing.h"
#include "compute/cuda/cuda_backend.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight {
namespace {

using testing::DeviceArray;
using testing::DraftArrays;
using testing::DraftWorld;
using testing::Ints;
using testing::Matrix;
using testing::StateWorld;

// Device copies of host arrays, and what has become of both.
class Mirror {
 public:
  TensorView up(const TensorView& host) {
    if (!host) return {};
    const int64_t bytes = host.num_elements() * dtype_bytes(host.dtype());
    const auto* data = static_cast<const uint8_t*>(host.raw());
    arrays_.push_back(
        {host, std::make_unique<DeviceArray<uint8_t>>(std::vector<uint8_t>(data, data + bytes))});
    void* device = arrays_.back().device->data();
    if (host.rank() == 1) return TensorView(device, host.dtype(), {host.dim(0)});
    return TensorView(device, host.dtype(), {host.dim(0), host.dim(1)});
  }
  StepState up(const StepState& host, size_t num_slots) {
    StepState state;
    for (const auto view : {&StepState::last_tokens, &StepState::kv_lens, &StepState::num_outputs,
                            &StepState::output_counts, &StepState::prompt_seen,
                            &StepState::bias_ids, &StepState::bias_values, &StepState::banned_ids,
                            &StepState::draft_tokens, &StepState::thinking}) {
      state.*view = up(host.*view);
    }
    sampling_ = std::make_unique<DeviceArray<SlotSampling>>(
        std::vector<SlotSampling>(host.sampling, host.sampling + num_slots));
    state.sampling = sampling_->data();
    return state;
  }
  void expect_equal() const {
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const auto device = arrays_[i].device->host();
      EXPECT_EQ(std::memcmp(device.data(), arrays_[i].host.raw(), device.size()), 0)
          << "array " << i << ", " << arrays_[i].host.to_string();
    }
  }

 private:
  struct Array {
    TensorView host;
    std::unique_ptr<DeviceArray<uint8_t>> device;
  };
  std::vector<Array> arrays_;
  std::unique_ptr<DeviceArray<SlotSampling>> sampling_;
};

class DraftsGpuTest : public ::testing::Test {
 protected:
  std::unique_ptr<CudaBackend> cuda_ = CudaBackend::create({}).value();
  CpuBackend cpu_{{.num_threads = 4}};
};

// Sampling behind drafts (penalties, bans, draws), relaxed and simulated acceptance, then the
// update of the state: the same tokens and the same state.
TEST_F(DraftsGpuTest, SampleAndUpdate) {
  std::mt19937 random(1);
  int num_accepted_drafts = 0;
  for (const int vocab : {37, 1152, 129280}) {
    for (int round = 0; round < (vocab > 10000 ? 4 : 30); ++round) {
      SCOPED_TRACE(::testing::Message() << "vocab " << vocab << ", round " << round);
      const int draft_len = 1 + round % 5;
      DraftWorld world(/*num_slots=*/9, vocab, draft_len);
      world.randomize(random, /*with_lists=*/true);
      for (auto& sampling : world.sampling) {
        sampling.think_start = 1;
        sampling.think_end = 2;
        const auto kind = random() % 4;
        if (kind == 0) sampling.relaxed_topn = 1 + static_cast<int>(random() % 10);
        if (kind == 0) sampling.relaxed_delta = 0.1f * static_cast<float>(random() % 8);
        if (kind == 1) sampling.simulated_acceptance = 0.5f;
      }
      for (auto& thinking : world.thinking.values) thinking = random() % 2;
      const std::vector<int32_t> slots{4, -1, 0, 8, 3, 1, 7};
      const Ints rows = DraftWorld::row_slots(slots, 1 + draft_len);
      Matrix logits =
          Matrix::random(static_cast<int64_t>(rows.values.size()), vocab, random(), 0, 2.0f);
      // Drafts that are likely: the best token of their row, or the next one.
      for (size_t i = 0; i < slots.size(); ++i) {
        for (int j = 0; j < draft_len && slots[i] >= 0; ++j) {
          const int32_t draft = world.drafts.values[slots[i] * draft_len + j];
          logits.at(static_cast<int64_t>(i) * (1 + draft_len) + j, draft) =
              7.0f + static_cast<float>(random() % 4);
        }
      }
      Ints tokens(std::vector<int32_t>(rows.values.size(), -7)), bad{-7};
      Ints accepted(std::vector<int32_t>(slots.size(), 0));
      SampledTokens sampled;
      sampled.tokens = tokens.view();
      sampled.first_bad_row = bad.view();
      sampled.num_accepted = accepted.view();
      const StepInputs inputs = DraftWorld::decode_inputs(slots, draft_len, rows);

      Mirror mirror;
      const StepState device_state = mirror.up(world.state(), world.sampling.size());
      SampledTokens device_sampled;
      device_sampled.tokens = mirror.up(sampled.tokens);
      device_sampled.first_bad_row = mirror.up(sampled.first_bad_row);
      device_sampled.num_accepted = mirror.up(sampled.num_accepted);
      StepInputs device_inputs = inputs;
      device_inputs.token_slots = device_inputs.sampled_slots = mirror.up(inputs.token_slots);
      Mirror logits_mirror;
      const TensorView device_logits = logits_mirror.up(logits.view());
      cuda_->sample(device_state, device_inputs, device_logits, device_sampled);
      cuda_->update_state(device_state, device_inputs, device_sampled);
      cuda_->synchronize();

      cpu_.sample(world.state(), inputs, logits.view(), sampled);
      cpu_.update_state(world.state(), inputs, sampled);
      mirror.expect_equal();
      for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] >= 0) num_accepted_drafts += accepted.values[i] - 1;
      }
    }
  }
  EXPECT_GT(num_accepted_drafts, 100);
}

TEST_F(DraftsGpuTest, PrepareBeginAndTake) {
  std::mt19937 random(2);
  for (const int num_rows : {1, 7, 300}) {
    for (const auto& [draft_len, num_extra] : {std::pair{0, 0}, {1, 0}, {3, 0}, {2, 1}, {3, 2}}) {
      const int vocab = num_rows > 100 ? 1003 : 129280;
      const int num_chunks = 3;
      DraftWorld world(num_rows + num_chunks, vocab, /*max_draft_len=*/3);
      world.randomize(random, false);
      for (auto& value : world.kv_lens.values) value = static_cast<int32_t>(random() % 4000);
      for (auto& value : world.last_tokens.values) value = static_cast<int32_t>(random() % vocab);
      for (auto& value : world.drafts.values) value = static_cast<int32_t>(random() % 90) - 5;
      // Decode rows, some of them padding, then chunks of 5 tokens that sample.
      Ints row_slots, token_slots, sampled_slots, sampled_idx;
      for (int i = 0; i < num_rows; ++i) {
        row_slots.values.push_back(i % 5 == 4 ? -1 : num_rows - 1 - i);
        for (int j = 0; j <= draft_len; ++j) {
          sampled_idx.values.push_back(static_cast<int32_t>(token_slots.values.size()));
          token_slots.values.push_back(row_slots.values.back());
          sampled_slots.values.push_back(row_slots.values.back());
        }
      }
      for (int i = 0; i < num_chunks; ++i) {
        token_slots.values.insert(token_slots.values.end(), 5, num_rows + i);
        sampled_idx.values.push_back(static_cast<int32_t>(token_slots.values.size()) - 1);
        sampled_slots.values.push_back(num_rows + i);
      }
      const auto num_tokens = token_slots.values.size();
      const int num_results = num_rows + num_chunks;
      Ints token_ids(std::vector<int32_t>(num_tokens, 3)), positions(token_ids), kv_lens;
      for (size_t t = 0; t < num_tokens; ++t) positions.values[t] = static_cast<int32_t>(t % 64);
      kv_lens.values.assign(num_rows, -9);
      Ints accepted;
      for (int i = 0; i < num_results; ++i) {
        accepted.values.push_back(
            1 + (i < num_rows ? static_cast<int32_t>(random() % (1 + draft_len)) : 0));
      }
      StepInputs inputs;
      inputs.num_decode_rows = num_rows;
      inputs.draft_len = draft_len;
      inputs.num_tokens = static_cast<int64_t>(num_tokens);
      inputs.token_ids = token_ids.view();
      inputs.positions = positions.view();
      inputs.token_slots = token_slots.view();
      inputs.absorbed.slots = row_slots.view();
      inputs.absorbed.kv_lens = kv_lens.view();
      inputs.num_sampled_rows = static_cast<int64_t>(sampled_slots.values.size());
      inputs.sampled_slots = sampled_slots.view();
      inputs.sampled_token_idx = sampled_idx.view();
      Ints sampled_tokens;
      for (size_t i = 0; i < sampled_slots.values.size(); ++i) {
        sampled_tokens.values.push_back(static_cast<int32_t>(random() % vocab));
      }
      SampledTokens sampled;
      sampled.tokens = sampled_tokens.view();
      sampled.num_accepted = accepted.view();
      DraftArrays arrays(static_cast<int>(inputs.num_sampled_rows), num_results, num_extra);
      DraftInputs drafts = arrays.inputs();
      const Matrix logits =
          Matrix::random(num_results, vocab, 7, /*padding=*/num_rows == 7 ? 1 : 0);

      Mirror mirror;
      const StepState device_state = mirror.up(world.state(), world.sampling.size());
      StepInputs device = inputs;
      for (const auto view :
           {&StepInputs::token_ids, &StepInputs::positions, &StepInputs::token_slots,
            &StepInputs::sampled_slots, &StepInputs::sampled_token_idx}) {
        device.*view = mirror.up(inputs.*view);
      }
      device.absorbed.slots = mirror.up(inputs.absorbed.slots);
      device.absorbed.kv_lens = mirror.up(inputs.absorbed.kv_lens);
      SampledTokens device_sampled;
      device_sampled.num_accepted = mirror.up(sampled.num_accepted);
      device_sampled.tokens = mirror.up(sampled.tokens);
      DraftInputs device_drafts = drafts;
      StepInputs& verified = device_drafts.verified;
      verified.positions = mirror.up(drafts.verified.positions);
      verified.token_ids = mirror.up(drafts.verified.token_ids);
      verified.token_slots = mirror.up(drafts.verified.token_slots);
      verified.absorbed.query_offsets = mirror.up(drafts.verified.absorbed.query_offsets);
      verified.absorbed.kv_lens = mirror.up(drafts.verified.absorbed.kv_lens);
      verified.absorbed.slots = mirror.up(drafts.verified.absorbed.slots);
      device_drafts.source_rows = mirror.up(drafts.source_rows);
      device_drafts.draft_rows = mirror.up(drafts.draft_rows);
      device_drafts.last_rows = mirror.up(drafts.last_rows);
      StepInputs& chain = device_drafts.chain;
      chain.token_ids = mirror.up(drafts.chain.token_ids);
      chain.positions = mirror.up(drafts.chain.positions);
      chain.token_slots = chain.absorbed.slots = mirror.up(drafts.chain.token_slots);
      chain.absorbed.kv_lens = mirror.up(drafts.chain.absorbed.kv_lens);
      chain.absorbed.query_offsets = mirror.up(drafts.chain.absorbed.query_offsets);
      Mirror logits_mirror;
      const TensorView device_logits =
          logits_mirror.up(TensorView::of(logits.storage.data(), {num_results, logits.stride}))
              .slice(1, 0, vocab);

      const auto run = [&](Backend& backend, const StepState& state, const StepInputs& in,
                           const SampledTokens& out, const DraftInputs& next,
                           const TensorView& row_logits) {
        backend.prepare_step(state, in);
        backend.begin_drafts(state, in, out, next);
        for (int i = 0; i < 3; ++i) backend.take_drafts(state, row_logits, i, next);
        backend.synchronize();
      };
      run(*cuda_, device_state, device, device_sampled, device_drafts, device_logits);
      run(cpu_, world.state(), inputs, sampled, drafts, logits.view());
      SCOPED_TRACE(::testing::Message()
                   << num_rows << " rows, " << draft_len << " drafts, " << num_extra << " extra");
      mirror.expect_equal();
    }
  }
}

// Every token gets the state of the one before it, wherever that was left; widths with and without
// the vector form.
TEST_F(DraftsGpuTest, ShiftAndKeepStates) {
  constexpr int kLevels = 2;
  for (const int64_t width : {6, 8, 7168}) {
    StateWorld world(/*num_slots=*/2, /*num_pages=*/6, width, kLevels, /*element_bytes=*/2);
    KvPool pool = world.pool();
    pool.format = KvFormat::kBF16;
    pool.token_dim = 8;
    const DeviceArray<uint8_t> memory(pool.size_bytes());
    const DeviceArray<uint16_t> carried(2 * kLevels * width);
    pool.base = memory.data();
    Mirror tables;
    StepState state;
    state.page_table = tables.up(world.state().page_table);
    state.carried_states = TensorView(carried.data(), DType::kBF16, {2, kLevels * width});
    for (const int64_t level : {0, 1}) {
      const auto feed = [&](const std::vector<StateWorld::Run>& runs) {
        const StateWorld::Tokens tokens = world.tokens(runs);
        const int64_t count = tokens.num_tokens();
        const DeviceArray<uint16_t> states(testing::to_bf16(world.states(tokens, level).storage));
        const DeviceArray<uint16_t> out(count * width);
        Mirror mirror;
        StepInputs inputs = tokens.inputs();
        inputs.token_slots = mirror.up(inputs.token_slots);
        inputs.positions = mirror.up(inputs.positions);
        const TensorView states_view(states.data(), DType::kBF16, {count, width});
        cuda_->shift_states(state, inputs, pool, level, states_view,
                            TensorView(out.data(), DType::kBF16, {count, width}));
        cuda_->keep_states(state, inputs, pool, level, states_view);
        cuda_->synchronize();
        const auto got = testing::from_bf16(out.host());
        for (int64_t t = 0; t < count; ++t) {
          for (int64_t i = 0; i < width; ++i) {
            ASSERT_EQ(got[t * width + i], world.state_before(tokens, t, level, i))
                << "width " << width << ", level " << level << ", token " << t;
          }
        }
      };
      for (const auto& runs : StateWorld::steps_over_pages()) feed(runs);
    }
  }
}

}  // namespace
}  // namespace deepflight
