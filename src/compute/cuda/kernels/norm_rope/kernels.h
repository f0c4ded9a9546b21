// The launches of the .cu files; launch.cpp checks and chooses, then calls these.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/norm_rope/problem.h"

namespace deepflight::cuda_norm_rope {

struct NormParts {
  int num_parts;  // 1 or 2
  NormProblem part[2];
};

// 16-byte accesses, a row per block: width a multiple of 8, everything aligned, at most
// 8 * 1024 * vectors_per_thread (1 or 2) columns.
inline constexpr int64_t kMaxVectorWidth = 2 * 8 * 1024;
void launch_norm_vector(const NormParts& parts, int vectors_per_thread, cudaStream_t stream);
void launch_norm_generic(const NormParts& parts, cudaStream_t stream);

void launch_add(const AddProblem& problem, bool vector, cudaStream_t stream);

// The vector form: rope_dim a multiple of 16, everything aligned to 16 bytes. A thread turns its
// pairs in each of `heads_per_thread` (1, 2 or 4) heads.
inline constexpr int64_t kMaxVectorRopeDim = 1024;
void launch_rope_vector(const RopeProblem& problem, int heads_per_thread, cudaStream_t stream);
void launch_rope_generic(const RopeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_norm_rope
