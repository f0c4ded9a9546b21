// Absorbed latent attention out of the pages, for decode steps. Capturable: grids depend on host
// known sizes only, and the lengths are read on the device.
//
//     prepare_mla_decode(problem, metadata, stream)       // once a step, after its lengths are
//     known problem.metadata = metadata, problem.scratch = ...  // of mla_decode_scratch_bytes()
//     launch_mla_decode(problem, stream)                  // every layer
#pragma once

#include <cuda_runtime_api.h>

#include "compute/cuda/kernels/attention/mla_decode/problem.h"

namespace deepflight::cuda_mla_decode {

// True if the tensor core kernel takes these widths, strides and pool; it needs metadata and
// scratch.
bool mla_decode_is_fast(const MlaDecodeProblem& problem);

// For steps up to these sizes; the address should be 256-byte aligned.
int64_t mla_decode_metadata_bytes(int64_t max_sequences, int64_t max_tokens, int64_t num_heads);
// Of any step: depends on the number of SMs alone.
int64_t mla_decode_scratch_bytes();

// Reads num_heads, num_sequences, num_tokens, query_offsets, kv_lens and slots.
void prepare_mla_decode(const MlaDecodeProblem& problem, void* metadata, cudaStream_t stream);

// The tensor core kernel where it fits and has metadata and scratch, else the generic one.
void launch_mla_decode(const MlaDecodeProblem& problem, cudaStream_t stream);

}  // namespace deepflight::cuda_mla_decode
