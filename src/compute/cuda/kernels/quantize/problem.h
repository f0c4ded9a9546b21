// Problems of this folder: plain data for the kernels. BF16 values are given as their bits; strides
// are in elements. Wherever both outputs are optional, null means "not wanted", and one must be.
#pragma once

#include <cstdint>

#include "tensor/fp8_rows.h"

namespace deepflight::cuda_quantize {

// out = quantised x.
struct QuantizeProblem {
  int64_t num_rows = 0;
  int64_t width = 0;
  const uint16_t* x = nullptr;  // BF16 [num_rows, width]
  int64_t x_stride = 0;
  Fp8Rows out;  // [num_rows, width]
  // On the device: rows from *num_valid on are neither read nor written. Null: all are valid.
  const int32_t* num_valid = nullptr;
};

// out = silu(gate) * up, rounded to BF16; the FP8 form is of the rounded values.
struct SwigluProblem {
  int64_t num_rows = 0;
  int64_t width = 0;
  const uint16_t* gate_up = nullptr;  // BF16 [num_rows, 2 * width]: gate, then up
  int64_t gate_up_stride = 0;
  uint16_t* out = nullptr;  // BF16 [num_rows, width]
  int64_t out_stride = 0;
  Fp8Rows fp8;  // [num_rows, width]
  const int32_t* num_valid = nullptr;
};

}  // namespace deepflight::cuda_quantize
