// Test code: a plain product for the expansion, and random BF16 values made on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deepflight::cuda_mla_prefill {

// out[row, column] = sum_k x[row, k] * weight[column, k]; BF16 with float sums.
void launch_test_product(const void* x, int64_t x_stride, const void* weight, void* out,
                         int64_t out_stride, int64_t num_rows, int64_t num_columns, int64_t k,
                         cudaStream_t stream);

// About normal, of the given deviation.
void launch_test_random(void* out, int64_t count, float deviation, uint32_t seed,
                        cudaStream_t stream);

}  // namespace deepflight::cuda_mla_prefill
