// What the CUDA backend keeps behind the opaque weight handles of compute/ops/weights.h.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/ops/weights.h"
#include "tensor/buffer.h"

namespace deepflight::cuda {

// num_groups matrices of one shape, one after the other. BF16, or e4m3 with one F32 scale per
// 128x128 block, [num_groups][ceil(n / 128)][ceil(k / 128)].
struct DeviceMatrices {
  bool fp8 = false;
  int64_t num_groups = 1;
  int64_t n = 0;          // rows: output features
  int64_t k = 0;          // columns: input features
  int64_t out_begin = 0;  // column of the product's output where these rows begin
  Buffer values;
  Buffer scales;
};

// Rows stacked one under the other. One part, unless the seam between two FP8 matrices lies inside
// a 128-row block: blocks of the stack would then mix two scales.
struct PackedMatrices {
  std::vector<DeviceMatrices> parts;
};

struct PackedKvUp {
  Buffer expand;    // BF16 [heads * (nope + v), latent]
  Buffer absorb_k;  // BF16 [heads][latent, nope]: W_UK of each head, transposed
};

inline const PackedMatrices& packed_matrices(const LinearWeight& weight) {
  return *static_cast<const PackedMatrices*>(weight.packed.get());
}
inline const PackedMatrices& packed_matrices(const GroupedLinearWeight& weight) {
  return *static_cast<const PackedMatrices*>(weight.packed.get());
}
inline const PackedKvUp& packed_kv_up(const KvUpWeight& weight) {
  return *static_cast<const PackedKvUp*>(weight.packed.get());
}

}  // namespace deepflight::cuda
