#include "compute/cuda/kernels/moe/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/moe/kernels.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_moe {

void route_experts(const RouteProblem& problem, cudaStream_t stream) {
  const RouteProblem& p = problem;
  CHECK(p.num_experts > 0 && p.num_experts <= kMaxExperts, p.num_experts);
  CHECK(p.topk > 0 && p.topk <= p.num_experts && p.topk <= kMaxTopk, p.topk, p.num_experts);
  CHECK(p.num_groups > 0 && p.num_experts % p.num_groups == 0 && p.topk_groups > 0, p.num_groups,
        p.num_experts, p.topk_groups);
  CHECK(p.num_tokens >= 0 && p.logits_stride >= p.num_experts && p.ids_stride >= p.topk &&
            p.weights_stride >= p.topk,
        p.num_tokens, p.logits_stride, p.ids_stride, p.weights_stride);
  if (p.num_tokens == 0) return;
  launch_route(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

int64_t sort_scratch_bytes(int64_t num_rows, int num_experts) {
  if (num_rows <= kOneBlockRows) return 0;
  const int64_t num_blocks = (num_rows + kSortTileRows - 1) / kSortTileRows;
  return num_blocks * num_experts * static_cast<int64_t>(sizeof(int32_t));
}

void sort_by_expert(const SortProblem& problem, cudaStream_t stream) {
  const SortProblem& p = problem;
  CHECK(p.num_experts > 0 && p.num_experts <= kMaxExperts, p.num_experts);
  CHECK(p.num_rows >= 0 && p.num_rows < (int64_t{1} << 30), p.num_rows);
  CHECK(p.scratch != nullptr || p.num_rows <= kOneBlockRows, p.num_rows);
  if (p.num_rows <= kOneBlockRows) {
    launch_sort_one_block(p, stream);
  } else {
    launch_sort_blocks(p, stream);
  }
  CUDA_CHECK(cudaGetLastError());
}

void expand_rows(const ExpandProblem& problem, cudaStream_t stream) {
  const ExpandProblem& p = problem;
  CHECK(p.topk > 0 && p.num_rows >= 0 && p.num_rows % p.topk == 0 && p.width >= 0, p.topk,
        p.num_rows, p.width);
  CHECK(p.x_stride >= p.width && p.out_stride >= p.width, p.x_stride, p.out_stride, p.width);
  if (p.num_rows == 0 || p.width == 0) return;
  launch_expand(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

void expand_rows(const ExpandFp8Problem& problem, cudaStream_t stream) {
  const ExpandFp8Problem& p = problem;
  CHECK(p.topk > 0 && p.num_rows >= 0 && p.num_rows % p.topk == 0 && p.width >= 0, p.topk,
        p.num_rows, p.width);
  CHECK(p.x.value_stride >= p.width && p.out.value_stride >= p.width &&
            p.out.scale_stride >= p.num_rows,
        p.x.value_stride, p.out.value_stride, p.out.scale_stride, p.width);
  if (p.num_rows == 0 || p.width == 0) return;
  launch_expand_fp8(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

void combine_experts(const CombineProblem& problem, cudaStream_t stream) {
  const CombineProblem& p = problem;
  CHECK(p.topk > 0 && p.num_tokens >= 0 && p.width >= 0, p.topk, p.num_tokens, p.width);
  CHECK(p.expert_stride >= p.width && p.out_stride >= p.width && p.weights_stride >= p.topk,
        p.expert_stride, p.out_stride, p.weights_stride, p.width);
  CHECK(p.base == nullptr || p.base_stride >= p.width, p.base_stride, p.width);
  if (p.num_tokens == 0 || p.width == 0) return;
  launch_combine(p, stream);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace deepflight::cuda_moe
