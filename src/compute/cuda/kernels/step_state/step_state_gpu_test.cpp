// The state kernels against the host: all integers, so exactly.
#include "compute/cuda/kernels/step_state/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_step_state {
namespace {

using testing::DeviceArray;

TEST(GatherRows, CopiesRows) {
  for (const int64_t width : {32, 40, 39, 1, 2048, 7168}) {
    for (const int64_t num_rows : {0, 1, 3, 300, 1500}) {
      for (const int64_t padding : {0, 3, 8}) {
        const int64_t num_source = 211, x_stride = width + padding, out_stride = width + padding;
        const auto x = testing::to_bf16(testing::random_normal(num_source * x_stride, 1, 5));
        std::vector<int32_t> ids(num_rows);
        for (int64_t i = 0; i < num_rows; ++i) {
          ids[i] = static_cast<int32_t>((i * 37 + 210) % num_source);
        }
        const DeviceArray<uint16_t> device_x(x), out(num_rows * out_stride);
        const DeviceArray<int32_t> device_ids(ids);
        gather_rows({num_rows, width, num_source, device_x.data(), x_stride, device_ids.data(),
                     out.data(), out_stride},
                    nullptr);
        std::vector<uint16_t> want(num_rows * out_stride, 0xffff);
        for (int64_t row = 0; row < num_rows; ++row) {
          std::copy_n(x.begin() + ids[row] * x_stride, width, want.begin() + row * out_stride);
        }
        ASSERT_EQ(out.host(), want)
            << "width " << width << " rows " << num_rows << " padding " << padding;
      }
    }
  }
}

// The arrays of a state on both sides, with something in them.
struct HostState {
  HostState(int64_t slots, int64_t vocab)
      : num_slots(slots),
        vocab_size(vocab),
        last_tokens(filled<int32_t>(slots, 1)),
        kv_lens(filled<int32_t>(slots, 2)),
        num_outputs(filled<int32_t>(slots, 3)),
        output_counts(filled<int32_t>(slots * vocab, 4)),
        prompt_seen(filled<uint8_t>(slots * vocab, 5)),
        page_table(filled<int32_t>(slots * kMaxPages, 6)),
        bias_ids(filled<int32_t>(slots * kMaxBiases, 7)),
        bias_values(filled<float>(slots * kMaxBiases, 8)),
        banned_ids(filled<int32_t>(slots * kMaxBanned, 9)),
        sampling(slots) {
    std::memset(sampling.data(), 0x3c, sampling.size() * sizeof(SlotSampling));
  }

  template <typename T>
  static std::vector<T> filled(int64_t count, uint64_t seed) {
    std::mt19937_64 engine(seed);
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(engine() % 100);
    return values;
  }

  static constexpr int64_t kMaxPages = 9, kMaxBiases = 6, kMaxBanned = 5;
  int64_t num_slots, vocab_size;
  std::vector<int32_t> last_tokens, kv_lens, num_outputs, output_counts;
  std::vector<uint8_t> prompt_seen;
  std::vector<int32_t> page_table, bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> banned_ids;
  std::vector<SlotSampling> sampling;
};

struct DeviceState {
  explicit DeviceState(const HostState& host)
      : last_tokens(host.last_tokens),
        kv_lens(host.kv_lens),
        num_outputs(host.num_outputs),
        output_counts(host.output_counts),
        prompt_seen(host.prompt_seen),
        page_table(host.page_table),
        bias_ids(host.bias_ids),
        bias_values(host.bias_values),
        banned_ids(host.banned_ids),
        sampling(host.sampling) {
    state = {host.num_slots,        host.vocab_size,       last_tokens.data(),
             kv_lens.data(),        num_outputs.data(),    output_counts.data(),
             host.vocab_size,       prompt_seen.data(),    host.vocab_size,
             page_table.data(),     HostState::kMaxPages,  HostState::kMaxPages,
             bias_ids.data(),       bias_values.data(),    HostState::kMaxBiases,
             HostState::kMaxBiases, HostState::kMaxBiases, banned_ids.data(),
             HostState::kMaxBanned, HostState::kMaxBanned, sampling.data()};
  }
  void expect(const HostState& want) const {
    EXPECT_EQ(last_tokens.host(), want.last_tokens);
    EXPECT_EQ(kv_lens.host(), want.kv_lens);
    EXPECT_EQ(num_outputs.host(), want.num_outputs);
    EXPECT_TRUE(output_counts.host() == want.output_counts);
    EXPECT_TRUE(prompt_seen.host() == want.prompt_seen);
    EXPECT_EQ(page_table.host(), want.page_table);
    EXPECT_EQ(bias_ids.host(), want.bias_ids);
    EXPECT_EQ(bias_values.host(), want.bias_values);
    EXPECT_EQ(banned_ids.host(), want.banned_ids);
    const auto got = sampling.host();
    for (size_t i = 0; i < got.size(); ++i) {
      // Without what may be padding before the seed.
      EXPECT_EQ(std::memcmp(&got[i], &want.sampling[i], offsetof(SlotSampling, mask) + 4), 0);
      EXPECT_EQ(got[i].seed, want.sampling[i].seed) << "slot " << i;
    }
  }

  DeviceArray<int32_t> last_tokens, kv_lens, num_outputs, output_counts;
  DeviceArray<uint8_t> prompt_seen;
  DeviceArray<int32_t> page_table, bias_ids;
  DeviceArray<float> bias_values;
  DeviceArray<int32_t> banned_ids;
  DeviceArray<SlotSampling> sampling;
  State state;
};

TEST(PrepareStep, FollowsTheStateAndPadsWithZeros) {
  const HostState host(300, 11);
  for (const int64_t num_rows : {0, 1, 7, 300}) {
    const DeviceState device(host);
    std::vector<int32_t> slots(num_rows), ids(num_rows), positions(num_rows), lens(num_rows);
    for (int64_t i = 0; i < num_rows; ++i) {
      slots[i] = i % 4 == 3 ? -1 : static_cast<int32_t>(299 - i);
      if (slots[i] < 0) continue;
      ids[i] = host.last_tokens[slots[i]];
      positions[i] = host.kv_lens[slots[i]];
      lens[i] = positions[i] + 1;
    }
    const DeviceArray<int32_t> device_slots(slots), got_ids(num_rows), got_positions(num_rows),
        got_lens(num_rows);
    prepare_step({device.state, num_rows, device_slots.data(), got_ids.data(), got_positions.data(),
                  got_lens.data()},
                 nullptr);
    EXPECT_EQ(got_ids.host(), ids);
    EXPECT_EQ(got_positions.host(), positions);
    EXPECT_EQ(got_lens.host(), lens);
    device.expect(host);
  }
}

TEST(UpdateState, LastTokenOfASlotAndSampledRows) {
  HostState host(20, 1003);
  const DeviceState device(host);
  // Decode rows of slots 3, padding, 5; then chunks of slots 7 and 2 across blocks.
  std::vector<int32_t> slots{3, -1, 5}, positions{9, 0, 4};
  for (int i = 0; i < 700; ++i) slots.push_back(7), positions.push_back(10 + i);
  for (int i = 0; i < 300; ++i) slots.push_back(2), positions.push_back(i);
  const std::vector<int32_t> sampled_slots{3, -1, 5, 7}, tokens{1002, 5, 0, 77};
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] < 0) continue;
    const bool decodes = i < 3;
    host.kv_lens[slots[i]] = decodes ? host.kv_lens[slots[i]] + 1 : positions[i] + 1;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (sampled_slots[i] < 0) continue;
    host.last_tokens[sampled_slots[i]] = tokens[i];
    ++host.num_outputs[sampled_slots[i]];
    ++host.output_counts[sampled_slots[i] * host.vocab_size + tokens[i]];
  }
  const DeviceArray<int32_t> device_slots(slots), device_positions(positions),
      device_sampled(sampled_slots), device_tokens(tokens);
  const UpdateProblem problem{device.state,
                              static_cast<int64_t>(slots.size()),
                              device_slots.data(),
                              device_positions.data(),
                              static_cast<int64_t>(tokens.size()),
                              device_sampled.data(),
                              device_tokens.data(),
                              /*num_decode_rows=*/3};
  update_state(problem, nullptr);
  device.expect(host);
  UpdateProblem nothing = problem;
  nothing.num_tokens = nothing.num_sampled_rows = nothing.num_decode_rows = 0;
  update_state(nothing, nullptr);
  device.expect(host);
}

struct HostDeltas {
  std::vector<SlotDelta> admissions;
  std::vector<int32_t> tokens, bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> banned_ids, grant_slots, grant_page_idx, grant_pages;
};

HostDeltas make_deltas(const HostState& host, int num_admissions, int num_tokens, int num_grants) {
  HostDeltas deltas;
  std::mt19937_64 engine(num_admissions);
  for (int i = 0; i < num_admissions; ++i) {
    SlotDelta delta;
    std::memset(&delta, 0, sizeof(delta));
    delta.slot = static_cast<int32_t>((i * 3 + 1) % host.num_slots);
    delta.kv_len = i;
    delta.num_outputs = 2 * i;
    delta.first_token = static_cast<int32_t>(deltas.tokens.size());
    delta.num_tokens = i % 2 == 0 ? num_tokens : 0;
    delta.num_prompt_tokens = delta.num_tokens * 2 / 3;
    delta.first_bias = static_cast<int32_t>(deltas.bias_ids.size());
    delta.first_banned = static_cast<int32_t>(deltas.banned_ids.size());
    delta.sampling.temperature = 0.5f + static_cast<float>(i);
    delta.sampling.num_biases = i % 7;
    delta.sampling.num_banned = i % 6;
    delta.sampling.seed = engine();
    for (int k = 0; k < delta.num_tokens; ++k) {
      // Some tokens often, the last of the vocabulary among them.
      deltas.tokens.push_back(static_cast<int32_t>(
          k % 3 == 0 ? host.vocab_size - 1 : engine() % static_cast<uint64_t>(host.vocab_size)));
    }
    for (int k = 0; k < delta.sampling.num_biases; ++k) {
      deltas.bias_ids.push_back(k + i);
      deltas.bias_values.push_back(static_cast<float>(k) - 0.5f);
    }
    for (int k = 0; k < delta.sampling.num_banned; ++k) deltas.banned_ids.push_back(k * i);
    deltas.admissions.push_back(delta);
  }
  for (int i = 0; i < num_grants; ++i) {
    deltas.grant_slots.push_back(static_cast<int32_t>(i % host.num_slots));
    deltas.grant_page_idx.push_back(
        static_cast<int32_t>(i / host.num_slots % HostState::kMaxPages));
    deltas.grant_pages.push_back(1000 + i);
  }
  return deltas;
}

void apply_on_host(const HostDeltas& deltas, HostState* host) {
  for (const SlotDelta& delta : deltas.admissions) {
    int32_t* counts = &host->output_counts[delta.slot * host->vocab_size];
    uint8_t* seen = &host->prompt_seen[delta.slot * host->vocab_size];
    std::fill_n(counts, host->vocab_size, 0);
    std::fill_n(seen, host->vocab_size, uint8_t{0});
    for (int k = 0; k < delta.num_tokens; ++k) {
      const int32_t token = deltas.tokens[delta.first_token + k];
      if (k < delta.num_prompt_tokens) {
        seen[token] = 1;
      } else {
        ++counts[token];
      }
    }
    for (int k = 0; k < delta.sampling.num_biases; ++k) {
      host->bias_ids[delta.slot * HostState::kMaxBiases + k] =
          deltas.bias_ids[delta.first_bias + k];
      host->bias_values[delta.slot * HostState::kMaxBiases + k] =
          deltas.bias_values[delta.first_bias + k];
    }
    for (int k = 0; k < delta.sampling.num_banned; ++k) {
      host->banned_ids[delta.slot * HostState::kMaxBanned + k] =
          deltas.banned_ids[delta.first_banned + k];
    }
    host->num_outputs[delta.slot] = delta.num_outputs;
    host->kv_lens[delta.slot] = delta.kv_len;
    host->sampling[delta.slot] = delta.sampling;
  }
  for (size_t i = 0; i < deltas.grant_slots.size(); ++i) {
    host->page_table[deltas.grant_slots[i] * HostState::kMaxPages + deltas.grant_page_idx[i]] =
        deltas.grant_pages[i];
  }
}

TEST(ApplyDeltas, ResetsSlotsAndScattersPages) {
  const struct {
    int64_t slots, vocab;
    int admissions, tokens, grants;
  } cases[] = {{4, 1003, 0, 0, 3},       {4, 1003, 1, 50, 0},  {4, 1003, 3, 5000, 4},
               {16, 17, 16, 40, 100},    {5, 1, 2, 3, 0},      {8, 129280, 8, 20000, 70},
               {64, 4096, 64, 300, 576}, {2, 163840, 1, 1, 1}, {4, 1003, 0, 0, 0}};
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.slots << " slots, vocab " << c.vocab << ", "
                                      << c.admissions << " admissions");
    HostState host(c.slots, c.vocab);
    const DeviceState device(host);
    const HostDeltas deltas = make_deltas(host, c.admissions, c.tokens, c.grants);
    const DeviceArray<SlotDelta> admissions(deltas.admissions);
    const DeviceArray<int32_t> tokens(deltas.tokens), bias_ids(deltas.bias_ids),
        banned_ids(deltas.banned_ids), grant_slots(deltas.grant_slots),
        grant_page_idx(deltas.grant_page_idx), grant_pages(deltas.grant_pages);
    const DeviceArray<float> bias_values(deltas.bias_values);
    apply_deltas({device.state, c.admissions, admissions.data(), tokens.data(), bias_ids.data(),
                  bias_values.data(), banned_ids.data(), c.grants, grant_slots.data(),
                  grant_page_idx.data(), grant_pages.data()},
                 nullptr);
    apply_on_host(deltas, &host);
    device.expect(host);
  }
}

TEST(ApplyDeltas, MasksGoToTheirSlots) {
  for (const int64_t vocab : {40, 1003, 129280}) {
    constexpr int64_t kSlots = 9;
    const int64_t words = (vocab + 31) / 32;
    HostState host(kSlots, vocab);
    DeviceState device(host);
    auto token_masks = HostState::filled<int32_t>(kSlots * words, 1);
    const DeviceArray<int32_t> d_token_masks(token_masks);
    device.state.token_masks = d_token_masks.data();
    device.state.token_masks_stride = device.state.mask_words = words;
    // Slot 4 is admitted and masked in one launch, 2 and 7 are masked alone.
    SlotDelta admission;
    std::memset(&admission, 0, sizeof(admission));
    admission.slot = 4;
    admission.sampling.mask = mask_after(12);
    const std::vector<int32_t> slots = {7, 4, 2}, modes = {kMaskOn, mask_after(12), kMaskOn};
    const auto masks = HostState::filled<int32_t>(std::ssize(slots) * words, 2);
    const DeviceArray<SlotDelta> admissions(std::vector<SlotDelta>{admission});
    const DeviceArray<int32_t> d_slots(slots), d_modes(modes), d_masks(masks);
    DeltasProblem problem;
    problem.state = device.state;
    problem.num_admissions = 1;
    problem.admissions = admissions.data();
    problem.num_masks = std::ssize(slots);
    problem.mask_slots = d_slots.data();
    problem.mask_modes = d_modes.data();
    problem.masks = d_masks.data();
    problem.masks_stride = words;
    apply_deltas(problem, nullptr);
    HostDeltas deltas;
    deltas.admissions = {admission};
    apply_on_host(deltas, &host);
    host.last_tokens[4] = -1;
    for (size_t i = 0; i < slots.size(); ++i) {
      std::copy_n(masks.begin() + static_cast<int64_t>(i) * words, words,
                  token_masks.begin() + slots[i] * words);
      host.sampling[slots[i]].mask = modes[i];
    }
    device.expect(host);
    EXPECT_TRUE(d_token_masks.host() == token_masks);
  }
}

}  // namespace
}  // namespace deepflight::cuda_step_state
