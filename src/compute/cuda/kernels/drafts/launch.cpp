#include "compute/cuda/kernels/drafts/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/drafts/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_drafts {
namespace {

bool is_aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bool fits_vectors(const StatesProblem& p) {
  return p.width % 8 == 0 && p.states_stride % 8 == 0 && p.carried_stride % 8 == 0 &&
         p.out_stride % 8 == 0 && p.page_stride_bytes % 16 == 0 && is_aligned(p.states, 16) &&
         is_aligned(p.carried, 16) && is_aligned(p.tails, 16) && is_aligned(p.out, 16);
}

void check(const StatesProblem& p) {
  CHECK(p.num_tokens >= 0 && p.num_tokens < (int64_t{1} << 31) && p.width > 0, p.num_tokens,
        p.width);
  CHECK(p.states_stride >= p.width && p.carried_stride >= p.width, p.states_stride,
        p.carried_stride, p.width);
}

}  // namespace

void shift_states(const StatesProblem& problem, cudaStream_t stream) {
  check(problem);
  CHECK(problem.out != nullptr && problem.out_stride >= problem.width, problem.out_stride);
  if (problem.num_tokens == 0) return;
  launch_shift(problem, fits_vectors(problem), stream);
  CUDA_CHECK(cudaGetLastError());
}

void keep_states(const StatesProblem& problem, cudaStream_t stream) {
  check(problem);
  if (problem.num_tokens == 0) return;
  launch_keep(problem, fits_vectors(problem), stream);
  CUDA_CHECK(cudaGetLastError());
}

void begin_drafts(const BeginProblem& problem, cudaStream_t stream) {
  CHECK(problem.num_decode_rows <= problem.num_results, problem.num_decode_rows,
        problem.num_results);
  if (problem.num_results == 0) return;
  launch_begin(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

void take_drafts(const TakeProblem& problem, cudaStream_t stream) {
  CHECK(problem.vocab_size > 0 && problem.vocab_size < (int64_t{1} << 31), problem.vocab_size);
  CHECK(problem.draft_idx >= 0 && problem.draft_idx < problem.draft_stride, problem.draft_idx);
  if (problem.num_rows == 0) return;
  launch_take(problem, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_drafts
