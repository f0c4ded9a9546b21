// Random matrices on the host (compute/ops/random_fill.h): what the CPU backend packs, and the
// oracle of the fill kernel.
#pragma once

#include <cstdint>

#include "compute/ops/random_fill.h"
#include "compute/ops/weights.h"
#include "tensor/buffer.h"

namespace deepflight {

// Elements [begin, begin + count) in F32, BF16 or F8E4M3.
void fill_random(const RandomFill& fill, DType dtype, int64_t begin, int64_t count, void* values);
// The first `count` block scales.
void fill_random_scales(const RandomFill& fill, int64_t count, float* scales);

// The matrix with its values in host memory, which `memory` then owns.
StoredMatrix materialize(const StoredMatrix& matrix, Buffer* memory);

}  // namespace deepflight
