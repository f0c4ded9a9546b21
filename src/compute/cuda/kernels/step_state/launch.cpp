#include "compute/cuda/kernels/step_state/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/step_state/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_step_state {
namespace {

constexpr int64_t kMaxGridY = 65535;

bool is_aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

void gather_rows(const GatherProblem& problem, cudaStream_t stream) {
  const GatherProblem& p = problem;
  CHECK(p.num_rows >= 0 && p.num_rows < (int64_t{1} << 31) && p.width >= 0, p.num_rows, p.width);
  CHECK(p.x_stride >= p.width && p.out_stride >= p.width, p.x_stride, p.out_stride, p.width);
  if (p.num_rows == 0 || p.width == 0) return;
  CHECK(p.num_source_rows > 0);
  const bool vector = p.width % 8 == 0 && is_aligned(p.x, 16) && is_aligned(p.out, 16) &&
                      p.x_stride % 8 == 0 && p.out_stride % 8 == 0;
  launch_gather(p, vector, stream);
  CUDA_CHECK(cudaGetLastError());
}

void prepare_step(const PrepareProblem& problem, cudaStream_t stream) {
  if (problem.num_rows == 0) return;
  launch_prepare(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

void update_state(const UpdateProblem& problem, cudaStream_t stream) {
  if (problem.num_tokens == 0 && problem.num_sampled_rows == 0) return;
  launch_update(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

void apply_deltas(const DeltasProblem& problem, cudaStream_t stream) {
  const DeltasProblem& p = problem;
  CHECK(p.num_admissions >= 0 && p.num_admissions < kMaxGridY && p.num_page_grants >= 0,
        p.num_admissions, p.num_page_grants);
  CHECK(p.num_masks >= 0 && p.num_admissions + p.num_masks < kMaxGridY, p.num_masks);
  CHECK(p.state.output_counts_stride >= p.state.vocab_size &&
            p.state.prompt_seen_stride >= p.state.vocab_size,
        p.state.vocab_size, p.state.output_counts_stride, p.state.prompt_seen_stride);
  if (p.num_admissions == 0 && p.num_page_grants == 0 && p.num_masks == 0) return;
  launch_deltas(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_step_state
