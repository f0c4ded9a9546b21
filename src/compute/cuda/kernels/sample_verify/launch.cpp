#include "compute/cuda/kernels/sample_verify/launch.h"

#include <algorithm>

#include "base/check.h"
#include "compute/cuda/kernels/sample_verify/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_sample_verify {
namespace {

// As many parts as fill the device once with blocks of 256 threads, none below 4096 logits.
RowSplit split_rows(const SampleProblem& p, int num_sms) {
  constexpr int64_t kSmallestPart = 4096;
  const int64_t vocab_size = p.vocab_size;
  const int64_t most =
      std::min<int64_t>((vocab_size + kSmallestPart - 1) / kSmallestPart, kMaxSplits);
  const int64_t filling = p.batch_invariant ? most : num_sms * kScanBlocksPerSm / p.num_rows;
  const int64_t wanted = std::clamp<int64_t>(filling, 1, most);
  const int64_t part = ((vocab_size + wanted - 1) / wanted + 3) / 4 * 4;
  return {static_cast<int>((vocab_size + part - 1) / part), static_cast<int>(part)};
}

}  // namespace

int64_t sample_scratch_bytes(int64_t num_rows) {
  return num_rows * kMaxSplits * static_cast<int64_t>(sizeof(RowPart));
}

void sample(const SampleProblem& problem, cudaStream_t stream) {
  const SampleProblem& p = problem;
  CHECK(p.vocab_size > 0 && p.vocab_size <= kMaxVocabSize, p.vocab_size);
  CHECK(p.num_rows >= 0 && p.num_rows <= 65535 && p.logits_stride >= p.vocab_size, p.num_rows,
        p.logits_stride, p.vocab_size);
  CHECK(p.first_bad_row != nullptr && p.max_logprobs >= 0, p.max_logprobs);
  if (p.num_rows == 0) {
    CUDA_CHECK(cudaMemsetAsync(p.first_bad_row, 0xff, sizeof(int32_t), stream));
    return;
  }
  CHECK(p.scratch != nullptr && p.slots != nullptr && p.sampling != nullptr, p.num_rows);
  const int num_sms = DeviceInfo::current().num_sms;
  const RowSplit split = split_rows(p, num_sms);
  launch_row_scan(p, split, stream);
  launch_choose_token(p, split, !p.batch_invariant && p.num_rows > num_sms, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_sample_verify
