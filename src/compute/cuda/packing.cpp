// Weights to the device: BF16 and FP8 as they are, other formats rounded to BF16, random ones made
// there. Nothing here waits for the device.
#include <algorithm>
#include <vector>

#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/weights/launch.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

int64_t num_blocks(int64_t size) { return (size + kF8BlockSize - 1) / kF8BlockSize; }

bool is_fp8(const StoredMatrix& matrix) { return matrix.values.dtype() == DType::kF8E4M3; }

// Elements [begin, begin + count) of F32 or F16 values.
void convert_to_bf16(const TensorView& values, int64_t begin, int64_t count, uint16_t* bits) {
  constexpr int64_t kPiece = 2048;
  float piece[kPiece];
  char* source = static_cast<char*>(values.raw()) + begin * dtype_bytes(values.dtype());
  for (int64_t done = 0; done < count; done += kPiece) {
    const int64_t size = std::min(kPiece, count - done);
    to_f32(TensorView(source + done * dtype_bytes(values.dtype()), values.dtype(), {size}), piece);
    for (int64_t i = 0; i < size; ++i) bits[done + i] = f32_to_bf16(piece[i]);
  }
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

// Puts copies and kernels on the uploader's stream; the ops that are issued later wait for them.
class Packer {
 public:
  Packer(Uploader& uploader, const Stream& ops) : uploader_(uploader), ops_(ops) {}
  ~Packer() {
    Event packed;
    packed.record(uploader_.stream());
    packed.hold(ops_);
  }

  cuda::PackedMatrices pack(std::span<const std::vector<StoredMatrix>> groups) {
    CHECK(!groups.empty() && !groups[0].empty());
    cuda::PackedMatrices packed;
    int64_t out_begin = 0;
    for (const Run& run : find_runs(groups[0])) {
      packed.parts.push_back(pack_run(groups, run));
      packed.parts.back().out_begin = out_begin;
      out_begin += run.num_rows;
    }
    flush();
    return packed;
  }

  static int64_t num_scales(const StoredMatrix& matrix) {
    return is_fp8(matrix) ? num_blocks(matrix.values.dim(0)) * num_blocks(matrix.values.dim(1)) : 0;
  }
  static int64_t value_bytes(const StoredMatrix& matrix) {
    return matrix.values.num_elements() * (is_fp8(matrix) ? 1 : 2);
  }

  // e4m3 with its scales, or BF16: value_bytes() and num_scales() floats. Goes out with flush().
  void put(const StoredMatrix& matrix, void* values, float* scales) {
    if (matrix.random) return fill(matrix, values, scales);
    switch (matrix.values.dtype()) {
      case DType::kF8E4M3:
        CHECK(matrix.scale_inv.num_elements() == num_scales(matrix), matrix.values.to_string(),
              matrix.scale_inv.to_string());
        pieces_.push_back({scales, matrix.scale_inv.raw(), num_scales(matrix) * 4, {}});
        [[fallthrough]];
      case DType::kBF16:
        pieces_.push_back({values, matrix.values.raw(), value_bytes(matrix), {}});
        return;
      default:
        pieces_.push_back({values, nullptr, value_bytes(matrix),
                           [source = matrix.values](int64_t begin, int64_t count, char* to) {
                             convert_to_bf16(source, begin / 2, count / 2,
                                             reinterpret_cast<uint16_t*>(to));
                           }});
    }
  }

  void flush() {
    uploader_.copy(pieces_);
    pieces_.clear();
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
    float* scales = static_cast<float*>(matrices.scales.data());
    for (const auto& parts : groups) {
      CHECK(parts.size() == groups[0].size(), parts.size());
      for (size_t i = run.first; i < run.last; ++i) {
        const StoredMatrix& part = parts[i];
        CHECK(part.values.dim(0) == groups[0][i].values.dim(0) &&
                  part.values.dim(1) == matrices.k && is_fp8(part) == matrices.fp8,
              part.values.to_string(), model.values.to_string());
        put(part, values, scales);
        values += value_bytes(part);
        scales += num_scales(part);
      }
    }
    return matrices;
  }

  void fill(const StoredMatrix& matrix, void* values, float* scales) {
    cuda_weights::fill_random({.fill = *matrix.random,
                               .fp8 = is_fp8(matrix),
                               .count = matrix.values.num_elements(),
                               .values = values,
                               .num_scales = num_scales(matrix),
                               .scales = scales},
                              uploader_.stream().get());
  }

  Uploader& uploader_;
  const Stream& ops_;
  std::vector<Uploader::Piece> pieces_;
};

}  // namespace

void CudaBackend::Impl::note_use(const cuda::PackedMatrices& matrices,
                                 const std::vector<StoredMatrix>& stacked, bool grouped) {
  // As gate and up are: the activation may come with the product.
  const bool halves = stacked.size() == 2 && matrices.parts.size() == 1 &&
                      stacked[0].values.dim(0) == stacked[1].values.dim(0) &&
                      matrices.parts[0].n % 256 == 0;
  for (const auto& part : matrices.parts) {
    if (!part.fp8) continue;
    const int num_groups = grouped ? static_cast<int>(part.num_groups) : 0;
    const bool known = std::ranges::any_of(fp8_uses, [&](const Fp8GemmUse& use) {
      return use.n == part.n && use.k == part.k && use.num_groups == num_groups &&
             use.swiglu == halves;
    });
    if (!known) {
      fp8_uses.push_back({.n = part.n, .k = part.k, .num_groups = num_groups, .swiglu = halves});
    }
  }
}

Buffer CudaBackend::pack_table(const StoredMatrix& table) {
  CHECK(!is_fp8(table), table.values.to_string());
  Buffer buffer = allocate_device(Packer::value_bytes(table));
  Packer packer(impl_->uploader, impl_->main.stream);
  packer.put(table, buffer.data(), nullptr);
  packer.flush();
  return buffer;
}

LinearWeight CudaBackend::pack_linear(std::span<const StoredMatrix> parts) {
  const std::vector<StoredMatrix> group(parts.begin(), parts.end());
  auto packed = std::make_shared<cuda::PackedMatrices>(
      Packer(impl_->uploader, impl_->main.stream).pack({&group, 1}));
  impl_->note_use(*packed, group, false);
  LinearWeight weight;
  weight.fp8 = packed->parts[0].fp8;
  weight.in_features = packed->parts[0].k;
  for (const auto& part : packed->parts) weight.out_features += part.n;
  weight.packed = std::move(packed);
  return weight;
}

GroupedLinearWeight CudaBackend::pack_grouped_linear(
    std::span<const std::vector<StoredMatrix>> groups) {
  auto packed = std::make_shared<cuda::PackedMatrices>(
      Packer(impl_->uploader, impl_->main.stream).pack(groups));
  impl_->note_use(*packed, groups[0], true);
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
  const int64_t v_dim = head_dim - nope_dim;
  auto packed = std::make_shared<cuda::PackedKvUp>();
  packed->expand = allocate_device(kv_b.values.num_elements() * 2);
  packed->absorb_k = allocate_device(num_heads * latent_dim * nope_dim * 2);
  Packer packer(impl_->uploader, impl_->main.stream);
  const cudaStream_t stream = impl_->uploader.stream().get();
  const Buffer values = allocate_on_stream(Packer::value_bytes(kv_b), stream);
  const Buffer scales = allocate_on_stream(Packer::num_scales(kv_b) * 4, stream);
  packer.put(kv_b, values.data(), static_cast<float*>(scales.data()));
  packer.flush();
  cuda_weights::split_kv_up(
      {.num_heads = num_heads,
       .nope_dim = nope_dim,
       .v_dim = v_dim,
       .latent_dim = latent_dim,
       .values = values.data(),
       .scales = is_fp8(kv_b) ? static_cast<const float*>(scales.data()) : nullptr,
       .expand = static_cast<uint16_t*>(packed->expand.data()),
       .absorb_k = static_cast<uint16_t*>(packed->absorb_k.data())},
      stream);
  return {num_heads, latent_dim, nope_dim, v_dim, std::move(packed)};
}

}  // namespace deepflight
