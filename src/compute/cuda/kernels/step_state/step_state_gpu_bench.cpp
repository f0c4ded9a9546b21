// The state kernels at R1's sizes: latencies, and the bytes that an admission zeroes.
#include <fmt/format.h>

#include "compute/cuda/kernels/step_state/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_step_state {
namespace {

using testing::DeviceArray;

constexpr int64_t kVocab = 129280, kSlots = 256;

TEST(StepStateBench, ApplyDeltas) {
  const DeviceArray<int32_t> counts(kSlots * kVocab), lens(kSlots), outputs(kSlots);
  const DeviceArray<uint8_t> seen(kSlots * kVocab);
  const DeviceArray<SlotSampling> sampling(kSlots);
  const DeviceArray<int32_t> tokens(std::vector<int32_t>(4096, 7));
  State state;
  state.num_slots = kSlots;
  state.vocab_size = kVocab;
  state.output_counts = counts.data();
  state.output_counts_stride = kVocab;
  state.prompt_seen = seen.data();
  state.prompt_seen_stride = kVocab;
  state.kv_lens = lens.data();
  state.num_outputs = outputs.data();
  state.sampling = sampling.data();
  for (const int64_t num_admissions : {1, 16, 256}) {
    std::vector<SlotDelta> deltas(num_admissions);
    std::memset(deltas.data(), 0, deltas.size() * sizeof(SlotDelta));
    for (int64_t i = 0; i < num_admissions; ++i) {
      deltas[i].slot = static_cast<int32_t>(i);
      deltas[i].num_tokens = deltas[i].num_prompt_tokens = 4096;
    }
    const DeviceArray<SlotDelta> admissions(deltas);
    DeltasProblem problem;
    problem.state = state;
    problem.num_admissions = num_admissions;
    problem.admissions = admissions.data();
    problem.tokens = tokens.data();
    const double us =
        testing::median_us(10, 9, [&](int, cudaStream_t stream) { apply_deltas(problem, stream); });
    fmt::print("{:<14} admissions {:>4} {:>8.2f} us {:>7.0f} GB/s\n", "apply_deltas",
               num_admissions, us, static_cast<double>(num_admissions) * kVocab * 5 / us * 1e-3);
  }
}

TEST(StepStateBench, Embed) {
  const int64_t width = 7168, num_source = 32768;
  const DeviceArray<uint16_t> table(num_source * width);
  for (const int64_t num_rows : {1, 64, 256, 8192}) {
    std::vector<int32_t> ids(num_rows * 10);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7919 % num_source);
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<uint16_t> out(num_rows * width);
    const double us = testing::median_us(10, 9, [&](int i, cudaStream_t stream) {
      gather_rows({num_rows, width, num_source, table.data(), width,
                   device_ids.data() + i * num_rows, out.data(), width},
                  stream);
    });
    fmt::print("{:<14} rows {:>5} {:>8.2f} us {:>7.0f} GB/s\n", "embed", num_rows, us,
               static_cast<double>(num_rows * width * 4) / us * 1e-3);
  }
}

TEST(StepStateBench, PrepareAndUpdate) {
  const DeviceArray<int32_t> zeros(std::vector<int32_t>(1 << 16, 0));
  std::vector<int32_t> slot_ids(kSlots);
  for (int32_t i = 0; i < kSlots; ++i) slot_ids[i] = i;
  const DeviceArray<int32_t> slots(slot_ids), lens(slot_ids), last(slot_ids), outputs(slot_ids),
      a(kSlots), b(kSlots), c(kSlots), counts(kSlots * 1024);
  State state;
  state.num_slots = kSlots;
  state.vocab_size = 1024;
  state.output_counts = counts.data();
  state.output_counts_stride = 1024;
  state.kv_lens = lens.data();
  state.last_tokens = last.data();
  state.num_outputs = outputs.data();
  const double prepare_us = testing::median_us(20, 9, [&](int, cudaStream_t stream) {
    prepare_step({state, kSlots, slots.data(), a.data(), b.data(), c.data()}, stream);
  });
  const double update_us = testing::median_us(20, 9, [&](int, cudaStream_t stream) {
    update_state({state, kSlots, slots.data(), zeros.data(), kSlots, slots.data(), zeros.data()},
                 stream);
  });
  fmt::print("{:<14} rows {:>5} {:>8.2f} us\n", "prepare_step", kSlots, prepare_us);
  fmt::print("{:<14} rows {:>5} {:>8.2f} us\n", "update_state", kSlots, update_us);
}

}  // namespace
}  // namespace deepflight::cuda_step_state
