// Weights to the device: BF16 and FP8 as they are, other formats rounded to BF16.
#include <vector>

#include "compute/cuda/impl.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

int64_t num_blocks(int64_t size) { return (size + kF8BlockSize - 1) / kF8BlockSize; }

bool is_fp8(const StoredMatrix& matrix) { return matrix.values.dtype() == DType::kF8E4M3; }

// Values in BF16 and row-major, as a matrix of floats.
std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = f32_to_bf16(values[i]);
  return bits;
}

std::vector<float> to_f32(const StoredMatrix& matrix) {
  std::vector<float> values(matrix.values.num_elements());
  to_f32_matrix(matrix.values, matrix.scale_inv, values.data());
  return values;
}

// Parts [first, last) of every group stacked into one run of matrices.
struct Run {
  size_t first;
  size_t last;
  int64_t num_rows;
};

// One run, unless a seam of FP8 matrices is not at a multiple of 128 rows.
std::vector<Run> find_runs(const std::vector<StoredMatrix>& parts) {
  std::vector<Run> runs;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t num_rows = parts[i].values.dim(0);
    if (runs.empty() || (is_fp8(parts[i]) && runs.back().num_rows % kF8BlockSize != 0)) {
      runs.push_back({i, i, 0});
    }
    runs.back().last = i + 1;
    runs.back().num_rows += num_rows;
  }
  return runs;
}

class Packer {
 public:
  explicit Packer(Uploader& uploader) : uploader_(uploader) {}

  cuda::PackedMatrices pack(std::span<const std::vector<StoredMatrix>> groups) {
    CHECK(!groups.empty() && !groups[0].empty());
    cuda::PackedMatrices packed;
    int64_t out_begin = 0;
    for (const Run& run : find_runs(groups[0])) {
      packed.parts.push_back(pack_run(groups, run));
      packed.parts.back().out_begin = out_begin;
      out_begin += run.num_rows;
    }
    uploader_.finish();
    return packed;
  }

 private:
  cuda::DeviceMatrices pack_run(std::span<const std::vector<StoredMatrix>> groups, const Run& run) {
    const StoredMatrix& model = groups[0][run.first];
    cuda::DeviceMatrices matrices;
    matrices.fp8 = is_fp8(model);
    matrices.num_groups = static_cast<int64_t>(groups.size());
    matrices.n = run.num_rows;
    matrices.k = model.values.dim(1);
    const int64_t count = matrices.num_groups * matrices.n * matrices.k;
    const int64_t scale_count =
        matrices.num_groups * num_blocks(matrices.n) * num_blocks(matrices.k);
    matrices.values = allocate_device(count * (matrices.fp8 ? 1 : 2));
    if (matrices.fp8) matrices.scales = allocate_device(scale_count * 4);
    char* values = static_cast<char*>(matrices.values.data());
    char* scales = static_cast<char*>(matrices.scales.data());
    for (const auto& parts : groups) {
      CHECK(parts.size() == groups[0].size(), parts.size());
      for (size_t i = run.first; i < run.last; ++i) {
        const StoredMatrix& part = parts[i];
        CHECK(part.values.dim(0) == groups[0][i].values.dim(0) &&
                  part.values.dim(1) == matrices.k && is_fp8(part) == matrices.fp8,
              part.values.to_string(), model.values.to_string());
        values += upload(part, values);
        if (matrices.fp8) {
          const int64_t size_bytes = num_blocks(part.values.dim(0)) * num_blocks(matrices.k) * 4;
          CHECK(part.scale_inv.num_elements() * 4 == size_bytes, part.scale_inv.to_string());
          uploader_.copy(scales, part.scale_inv.raw(), size_bytes);
          scales += size_bytes;
        }
      }
    }
    return matrices;
  }

  // Bytes that the matrix takes on the device.
  int64_t upload(const StoredMatrix& matrix, void* target) {
    const int64_t count = matrix.values.num_elements();
    switch (matrix.values.dtype()) {
      case DType::kF8E4M3:
        uploader_.copy(target, matrix.values.raw(), count);
        return count;
      case DType::kBF16:
        uploader_.copy(target, matrix.values.raw(), count * 2);
        return count * 2;
      default:
        uploader_.copy(target, to_bf16(to_f32(matrix)).data(), count * 2);
        return count * 2;
    }
  }

  Uploader& uploader_;
};

}  // namespace

LinearWeight CudaBackend::pack_linear(std::span<const StoredMatrix> parts) {
  const std::vector<StoredMatrix> group(parts.begin(), parts.end());
  auto packed = std::make_shared<cuda::PackedMatrices>(Packer(impl_->uploader).pack({&group, 1}));
  LinearWeight weight;
  weight.fp8 = packed->parts[0].fp8;
  weight.in_features = packed->parts[0].k;
  for (const auto& part : packed->parts) weight.out_features += part.n;
  weight.packed = std::move(packed);
  return weight;
}

GroupedLinearWeight CudaBackend::pack_grouped_linear(
    std::span<const std::vector<StoredMatrix>> groups) {
  auto packed = std::make_shared<cuda::PackedMatrices>(Packer(impl_->uploader).pack(groups));
  GroupedLinearWeight weight;
  weight.num_groups = static_cast<int64_t>(groups.size());
  weight.fp8 = packed->parts[0].fp8;
  weight.in_features = packed->parts[0].k;
  for (const auto& part : packed->parts) weight.out_features += part.n;
  weight.packed = std::move(packed);
  return weight;
}

KvUpWeight CudaBackend::pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) {
  const int64_t latent_dim = kv_b.values.dim(1);
  const int64_t head_dim = kv_b.values.dim(0) / num_heads;
  CHECK(kv_b.values.dim(0) == num_heads * head_dim && head_dim > nope_dim, kv_b.values.to_string(),
        num_heads, nope_dim);
  const std::vector<uint16_t> expand = to_bf16(to_f32(kv_b));
  std::vector<uint16_t> absorb_k(num_heads * latent_dim * nope_dim);
  for (int64_t head = 0; head < num_heads; ++head) {
    const uint16_t* rows = expand.data() + head * head_dim * latent_dim;
    uint16_t* columns = absorb_k.data() + head * latent_dim * nope_dim;
    for (int64_t i = 0; i < nope_dim; ++i) {
      for (int64_t j = 0; j < latent_dim; ++j) columns[j * nope_dim + i] = rows[i * latent_dim + j];
    }
  }
  auto packed = std::make_shared<cuda::PackedKvUp>();
  const auto upload = [&](const std::vector<uint16_t>& values, Buffer* buffer) {
    const auto size_bytes = static_cast<int64_t>(values.size() * sizeof(uint16_t));
    *buffer = allocate_device(size_bytes);
    impl_->uploader.copy(buffer->data(), values.data(), size_bytes);
  };
  upload(expand, &packed->expand);
  upload(absorb_k, &packed->absorb_k);
  impl_->uploader.finish();
  return {num_heads, latent_dim, nope_dim, head_dim - nope_dim, std::move(packed)};
}

}  // namespace deepflight
