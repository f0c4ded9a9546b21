// Timings of sampling at DeepSeek-R1's vocabulary. Logits are like a model's: most of the mass on
// few tokens.
#include <fmt/format.h>

#include "compute/cuda/kernels/sample_verify/sampling_testing.h"

namespace deepflight::cuda_sample_verify {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

constexpr int64_t kVocab = 129280;

struct Setting {
  const char* name;
  float temperature, top_p, deviation;
  int top_k, num_logprobs;
  float repetition;
};

TEST(SampleBench, Rows) {
  const Setting settings[] = {{"greedy", 0.0f, 1.0f, 3.0f, 0, -1, 1.0f},
                              {"temperature", 1.0f, 1.0f, 3.0f, 0, -1, 1.0f},
                              {"top-p 0.95", 0.6f, 0.95f, 3.0f, 0, -1, 1.0f},
                              {"top-k 50, top-p", 0.6f, 0.95f, 3.0f, 50, -1, 1.0f},
                              {"flat top-p", 1.0f, 0.95f, 1.0f, 0, -1, 1.0f},
                              {"greedy, 20 logprobs", 0.0f, 1.0f, 3.0f, 0, 20, 1.0f},
                              {"top-p, repetition", 0.6f, 0.95f, 3.0f, 0, -1, 1.2f}};
  constexpr int64_t kMaxRows = 256;
  // Two sets of logits, so that a replay does not find all of them in the L2.
  const auto one = random_normal(kMaxRows * kVocab / 4, 1.0f, 1);
  for (const Setting& setting : settings) {
    std::vector<float> values;
    for (int i = 0; i < 4; ++i) values.insert(values.end(), one.begin(), one.end());
    for (float& value : values) value *= setting.deviation;
    const DeviceArray<float> sets[] = {DeviceArray<float>(values), DeviceArray<float>(values)};
    std::vector<SlotSampling> sampling(kMaxRows, neutral());
    std::vector<int32_t> slots(kMaxRows);
    for (int64_t i = 0; i < kMaxRows; ++i) {
      SlotSampling& s = sampling[i];
      s.temperature = setting.temperature;
      s.top_p = setting.top_p;
      s.top_k = setting.top_k;
      s.num_logprobs = setting.num_logprobs;
      s.repetition_penalty = setting.repetition;
      s.seed = i;
      slots[i] = static_cast<int32_t>(i);
    }
    const DeviceArray<SlotSampling> d_sampling(sampling);
    const DeviceArray<int32_t> d_slots(slots), counts(std::vector<int32_t>(kMaxRows * kVocab, 0)),
        outputs(std::vector<int32_t>(kMaxRows, 5)), lists(kMaxRows * kMaxListedIds);
    const DeviceArray<uint8_t> seen(std::vector<uint8_t>(kMaxRows * kVocab, 0));
    const DeviceArray<int32_t> tokens(kMaxRows), top_ids(kMaxRows * kMaxLogprobs), bad(1);
    const DeviceArray<float> logprobs(kMaxRows), top_logprobs(kMaxRows * kMaxLogprobs);
    const DeviceArray<uint8_t> scratch(sample_scratch_bytes(kMaxRows));
    for (const int64_t rows : {1, 64, 128, 256}) {
      SampleProblem p;
      p.logits_stride = p.vocab_size = p.counts_stride = p.seen_stride = kVocab;
      p.num_rows = rows;
      p.slots = d_slots.data();
      p.sampling = d_sampling.data();
      p.num_outputs = outputs.data();
      p.output_counts = counts.data();
      p.prompt_seen = seen.data();
      p.bias_ids = p.banned_ids = lists.data();
      p.bias_values = logprobs.data();
      p.max_logprobs = p.top_ids_stride = p.top_logprobs_stride = kMaxLogprobs;
      p.tokens = tokens.data();
      p.logprobs = logprobs.data();
      p.top_ids = top_ids.data();
      p.top_logprobs = top_logprobs.data();
      p.first_bad_row = bad.data();
      p.scratch = scratch.data();
      const double us = median_us(4, 10, [&](int i, cudaStream_t stream) {
        p.logits = sets[i % 2].data();
        sample(p, stream);
      });
      fmt::print("{:20} rows {:4}  {:8.2f} us  {:6.0f} GB/s of one pass\n", setting.name, rows, us,
                 static_cast<double>(rows * kVocab) * 4e-3 / us);
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_sample_verify
