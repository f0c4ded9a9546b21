// What the MoE kernels work on: routing, the order by expert, expanding rows and combining them.
// Plain device pointers; strides are in elements. The semantics are those of compute/ops/backend.h.
#pragma once

#include <cstdint>

#include "tensor/fp8_rows.h"

namespace deepflight::cuda_moe {

inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxTopk = 32;

enum class GroupRank : uint8_t { kNone, kTop2Sum, kMax };  // as GroupScore of backend.h

struct RouteProblem {
  const float* logits = nullptr;  // [num_tokens, num_experts]
  int64_t logits_stride = 0;
  const float* bias = nullptr;  // [num_experts], or null
  int32_t* topk_ids = nullptr;  // [num_tokens, topk]
  int64_t ids_stride = 0;
  float* topk_weights = nullptr;  // [num_tokens, topk]
  int64_t weights_stride = 0;
  int64_t num_tokens = 0;
  int num_experts = 0;
  bool softmax = false;  // else sigmoid
  GroupRank group_rank = GroupRank::kNone;
  int num_groups = 1;
  int topk_groups = 1;
  int topk = 1;
  bool normalize = false;
  float scaling_factor = 1.0f;
};

struct SortProblem {
  const int32_t* topk_ids = nullptr;  // [num_rows], dense; num_rows = num_tokens * topk
  int64_t num_rows = 0;
  int num_experts = 0;
  int32_t* offsets = nullptr;    // [num_experts + 1]
  int32_t* rows = nullptr;       // [num_rows]
  int32_t* positions = nullptr;  // [num_rows]
  void* scratch = nullptr;       // sort_scratch_bytes()
};

// out[i] = x[rows[i] / topk]; BF16. `positions` (the inverse of `rows`) may be null; with it,
// batches that do not stay in the L2 read each token's row once.
struct ExpandProblem {
  const void* x = nullptr;  // [num_tokens, width]
  int64_t x_stride = 0;
  const int32_t* rows = nullptr;       // [num_rows]
  const int32_t* positions = nullptr;  // [num_rows], or null
  int64_t num_rows = 0;                // a multiple of topk
  int topk = 1;
  int64_t width = 0;
  void* out = nullptr;  // [num_rows, width]
  int64_t out_stride = 0;
};

// The same of rows with 1x128 scales: values and scales.
struct ExpandFp8Problem {
  Fp8Rows x;                           // [num_tokens, width]
  const int32_t* rows = nullptr;       // [num_rows]
  const int32_t* positions = nullptr;  // [num_rows], or null
  int64_t num_rows = 0;                // a multiple of topk
  int topk = 1;
  int64_t width = 0;
  Fp8Rows out;  // [num_rows, width]
};

// out[t] = base[t] + sum_k weights[t, k] * expert_out[positions[t * topk + k]], k = 0, 1, ...
struct CombineProblem {
  const void* expert_out = nullptr;  // BF16 [num_tokens * topk, width]
  int64_t expert_stride = 0;
  const int32_t* positions = nullptr;  // [num_tokens * topk]
  const float* weights = nullptr;      // [num_tokens, topk]
  int64_t weights_stride = 0;
  const void* base = nullptr;  // BF16 [num_tokens, width]; may be out; null: zeros
  int64_t base_stride = 0;
  void* out = nullptr;  // BF16 [num_tokens, width]
  int64_t out_stride = 0;
  int64_t num_tokens = 0;
  int64_t width = 0;
  int topk = 1;
};

}  // namespace deepflight::cuda_moe
