// Checkpoint: the named tensors of a model directory (one safetensors file, or shards with an
// index), or random ones made on demand. Copies share the files. All methods are const and may be
// called from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/ops/random_fill.h"
#include "tensor/tensor_view.h"

namespace deepflight {

// Suffix of the F32 block scales of an FP8 tensor: "x.weight" has "x.weight_scale_inv".
inline constexpr std::string_view kScaleSuffix = "_scale_inv";

struct StoredTensor {
  // Read-only, dense, at any alignment: read it through tensor/float_formats.h.
  TensorView values;
  TensorView scale_inv;               // F32 [ceil(rows / 128), ceil(columns / 128)], or empty
  std::shared_ptr<const void> owner;  // keeps the memory of both alive
  std::optional<RandomFill> random;   // a dummy matrix: `values` has no memory, scale_inv is empty

  // Stored as F32, BF16 or F16.
  bool is_float() const {
    const DType dtype = values.dtype();
    return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
  }
};

// One tensor that Checkpoint::dummy can make. A matrix is random (F32, BF16, or F8E4M3 with scales)
// and comes as a RandomFill, for the backend to make; a vector (F32, BF16) comes with its values.
struct DummyTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kBF16;
  float standard_deviation = 0.0f;
  float mean = 0.0f;          // of a vector
  std::vector<float> values;  // of a vector; empty: random
};

class Checkpoint {
 public:
  // `model.safetensors`, or else `model.safetensors.index.json` with its shards.
  static Result<Checkpoint> open(const std::filesystem::path& model_dir);
  // Values depend on the tensor's name and the seed alone.
  static Checkpoint dummy(std::vector<DummyTensor> tensors, uint64_t seed);

  // Whether tensors are views of mapped files, which stay mapped as long as this object (or a
  // copy).
  bool is_mapped() const;
  bool contains(std::string_view name) const;
  // The tensor and, if "<name>_scale_inv" is there, its scales (shape checked against the values).
  Result<StoredTensor> tensor(std::string_view name) const;
  // All names, sorted, scales included.
  const std::vector<std::string>& names() const;
  // Bytes of all tensors as stored.
  int64_t num_bytes() const;

  class Source;  // files or dummy; see checkpoint.cpp

 private:
  explicit Checkpoint(std::shared_ptr<const Source> source) : source_(std::move(source)) {}

  std::shared_ptr<const Source> source_;
};

}  // namespace deepflight
