// Weights as the backends hold them. A loader hands over what the checkpoint stores (host views);
// the backend answers with its own packed form, opaque to the model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "compute/ops/random_fill.h"
#include "tensor/tensor_view.h"

namespace deepflight {

// A matrix as a checkpoint stores it: y = x * values^T.
struct StoredMatrix {
  TensorView values;     // [out_features, in_features], F32, BF16, F16 or F8E4M3; host
  TensorView scale_inv;  // F32 [ceil(out / 128), ceil(in / 128)] with F8E4M3, else empty
  // If set, there is no memory behind the views (scale_inv is empty): the backend makes the values
  // in place, F32, BF16 or F8E4M3 as the views say.
  std::optional<RandomFill> random;
};

// A packed [out_features, in_features] matrix. `fp8` says that the product quantises its
// activations to e4m3 in 1x128 blocks, as DeepSeek's FP8 checkpoints are meant to run.
struct LinearWeight {
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool fp8 = false;
  std::shared_ptr<const void> packed;
};

// A gated MLP: down(silu(gate) * up).
struct MlpWeights {
  LinearWeight gate_up;  // [2 * intermediate, hidden], gate rows first
  LinearWeight down;     // [hidden, intermediate]
};

// A LinearWeight for each of num_groups matrices of one shape (the experts of a layer).
struct GroupedLinearWeight {
  int64_t num_groups = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool fp8 = false;
  std::shared_ptr<const void> packed;
};

// The experts of a layer, and the shared one if there is one.
struct MoeWeights {
  GroupedLinearWeight gate_up;  // [experts][2 * intermediate, hidden], gate rows first
  GroupedLinearWeight down;     // [experts][hidden, intermediate]
  std::optional<MlpWeights> shared;
};

// kv_b_proj in the two forms that MLA uses: per head h, W_UK[h] [nope, latent] and
// W_UV[h] [v, latent]. Never run in FP8: absorbed and expanded attention must agree.
struct KvUpWeight {
  int64_t num_heads = 0;
  int64_t latent_dim = 0;
  int64_t nope_dim = 0;
  int64_t v_dim = 0;
  std::shared_ptr<const void> packed;
};

}  // namespace deepflight
