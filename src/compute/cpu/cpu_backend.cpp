// Memory, weights, step inputs and the dense ops.
#include "compute/cpu/cpu_backend.h"

#include <unistd.h>

#include <cstring>

#include "compute/cpu/math.h"
#include "compute/cpu/packed.h"
#include "compute/cpu/scratch.h"
#include "compute/ops/random_matrix.h"
#include "tensor/float_formats.h"

namespace deepflight {

using cpu::PackedGroup;
using cpu::PackedKvUp;
using cpu::PackedMatrix;

namespace {

// Elements of a row below which a loop over rows is not worth the threads' wake-up.
constexpr int64_t kSerialCost = 32 * 1024;

struct StackedMatrix {
  std::vector<float> values;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool fp8 = false;
};

StackedMatrix stack_as_f32(std::span<const StoredMatrix> parts) {
  CHECK(!parts.empty());
  StackedMatrix stack;
  stack.in_features = parts[0].values.dim(1);
  stack.fp8 = parts[0].values.dtype() == DType::kF8E4M3;
  for (const auto& part : parts) {
    CHECK(part.values.dim(1) == stack.in_features, part.values.to_string(), stack.in_features);
    CHECK((part.values.dtype() == DType::kF8E4M3) == stack.fp8, "parts differ in format");
    stack.out_features += part.values.dim(0);
  }
  stack.values.resize(stack.out_features * stack.in_features);
  float* destination = stack.values.data();
  for (const auto& part : parts) {
    Buffer memory;
    const StoredMatrix matrix = part.random ? materialize(part, &memory) : part;
    to_f32_matrix(matrix.values, matrix.scale_inv, destination);
    destination += part.values.num_elements();
  }
  return stack;
}

}  // namespace

CpuBackend::CpuBackend(const CpuBackendConfig& config)
    : config_(config),
      pool_(config.num_threads, cpu::init_gemm_thread),
      attention_(std::make_unique<AttentionScratch>()),
      moe_(std::make_unique<MoeScratch>()) {
  cpu::init_gemm_thread();
}

CpuBackend::~CpuBackend() = default;

Buffer CpuBackend::allocate(int64_t size_bytes) { return Buffer::host(size_bytes); }

void CpuBackend::copy_in(void* device, const void* host, int64_t size_bytes) {
  // An empty host vector has no address, which memcpy may not be given.
  if (size_bytes > 0) std::memcpy(device, host, static_cast<size_t>(size_bytes));
}

void CpuBackend::copy_out(void* host, const void* device, int64_t size_bytes) {
  if (size_bytes > 0) std::memcpy(host, device, static_cast<size_t>(size_bytes));
}

void CpuBackend::fill_zero(void* device, int64_t size_bytes) {
  std::memset(device, 0, static_cast<size_t>(size_bytes));
}

int64_t CpuBackend::free_memory_bytes() const {
  return static_cast<int64_t>(::sysconf(_SC_AVPHYS_PAGES)) * ::sysconf(_SC_PAGE_SIZE);
}

Buffer CpuBackend::pack_table(const StoredMatrix& table) {
  const StackedMatrix rows = stack_as_f32({&table, 1});
  Buffer buffer = allocate(static_cast<int64_t>(rows.values.size() * sizeof(float)));
  std::memcpy(buffer.data(), rows.values.data(), rows.values.size() * sizeof(float));
  return buffer;
}

LinearWeight CpuBackend::pack_linear(std::span<const StoredMatrix> parts) {
  const StackedMatrix stack = stack_as_f32(parts);
  return {
      stack.out_features, stack.in_features, stack.fp8 && config_.fp8_activations,
      std::make_shared<PackedMatrix>(stack.values.data(), stack.out_features, stack.in_features)};
}

GroupedLinearWeight CpuBackend::pack_grouped_linear(
    std::span<const std::vector<StoredMatrix>> groups) {
  auto packed = std::make_shared<PackedGroup>();
  GroupedLinearWeight weight;
  weight.num_groups = static_cast<int64_t>(groups.size());
  for (const auto& parts : groups) {
    const StackedMatrix stack = stack_as_f32(parts);
    weight.out_features = stack.out_features;
    weight.in_features = stack.in_features;
    weight.fp8 = stack.fp8 && config_.fp8_activations;
    packed->matrices.emplace_back(stack.values.data(), stack.out_features, stack.in_features);
  }
  weight.packed = std::move(packed);
  return weight;
}

KvUpWeight CpuBackend::pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) {
  const StackedMatrix stack = stack_as_f32({&kv_b, 1});
  const int64_t latent = stack.in_features;
  const int64_t head_dim = stack.out_features / num_heads;
  CHECK(stack.out_features == num_heads * head_dim && head_dim > nope_dim, stack.out_features,
        num_heads, nope_dim);
  const int64_t v_dim = head_dim - nope_dim;
  auto packed = std::make_shared<PackedKvUp>(
      PackedKvUp{PackedMatrix(stack.values.data(), stack.out_features, latent), {}, {}});
  std::vector<float> transposed(latent * nope_dim);
  for (int64_t head = 0; head < num_heads; ++head) {
    const float* rows = stack.values.data() + head * head_dim * latent;
    for (int64_t i = 0; i < nope_dim; ++i) {
      for (int64_t j = 0; j < latent; ++j) transposed[j * nope_dim + i] = rows[i * latent + j];
    }
    packed->absorb_k.emplace_back(transposed.data(), latent, nope_dim);
    packed->absorb_v.emplace_back(rows + nope_dim * latent, v_dim, latent);
  }
  return {num_heads, latent, nope_dim, v_dim, std::move(packed)};
}

void CpuBackend::attach_thread() { cpu::init_gemm_thread(); }

StepGraph CpuBackend::capture(std::function<void()> step) {
  return {std::make_shared<std::function<void()>>(std::move(step))};
}

void CpuBackend::launch(const StepGraph& graph) {
  (*static_cast<const std::function<void()>*>(graph.impl.get()))();
}

void CpuBackend::for_rows(int64_t num_rows, int64_t row_cost,
                          const std::function<void(int64_t)>& body) {
  if (num_rows * row_cost <= kSerialCost) {
    for (int64_t row = 0; row < num_rows; ++row) body(row);
    return;
  }
  const int64_t rows_per_task = std::max<int64_t>(1, kSerialCost / 2 / row_cost);
  pool_.parallel_for((num_rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
    const int64_t end = std::min(num_rows, (task + 1) * rows_per_task);
    for (int64_t row = task * rows_per_task; row < end; ++row) body(row);
  });
}

void CpuBackend::embed(const TensorView& table, const TensorView& token_ids,
                       const TensorView& out) {
  CHECK(token_ids.dim(0) == out.dim(0) && table.dim(1) == out.dim(1), table.to_string(),
        out.to_string());
  gather_rows(table, token_ids, out);
}

void CpuBackend::gather_rows(const TensorView& x, const TensorView& row_idx,
                             const TensorView& out) {
  CHECK(row_idx.dim(0) == out.dim(0) && x.dim(1) == out.dim(1), x.to_string(), out.to_string());
  for (int64_t row = 0; row < out.dim(0); ++row) {
    const int32_t source = row_idx.data<int32_t>()[row];
    CHECK(source >= 0 && source < x.dim(0), source, x.to_string());
    std::memcpy(out.row<float>(row), x.row<float>(source), x.dim(1) * sizeof(float));
  }
}

void CpuBackend::rms_norm(const TensorView& x, const TensorView& weight, float eps,
                          const Rows& rows) {
  const TensorView& out = rows.values;
  const int64_t width = x.dim(1);
  CHECK(weight.dim(0) == width && out.dim(1) == width && out.dim(0) == x.dim(0), x.to_string(),
        weight.to_string(), out.to_string());
  const float* scale = weight.data<float>();
  for_rows(x.dim(0), width, [&](int64_t row) {
    const float* in = x.row<float>(row);
    float* result = out.row<float>(row);
    const double mean = cpu::sum_of_squares(in, width) / static_cast<double>(width);
    const auto factor = static_cast<float>(1.0 / std::sqrt(mean + eps));
    for (int64_t i = 0; i < width; ++i) result[i] = in[i] * factor * scale[i];
  });
}

void CpuBackend::add(const TensorView& delta, const TensorView& sum) {
  CHECK(delta.dim(0) == sum.dim(0) && delta.dim(1) == sum.dim(1), delta.to_string(),
        sum.to_string());
  const int64_t width = sum.dim(1);
  for_rows(sum.dim(0), width, [&](int64_t row) {
    const float* in = delta.row<float>(row);
    float* total = sum.row<float>(row);
    for (int64_t i = 0; i < width; ++i) total[i] += in[i];
  });
}

TensorView CpuBackend::quantize_rows(const TensorView& x) {
  const int64_t num_rows = x.dim(0);
  const int64_t width = x.dim(1);
  if (static_cast<int64_t>(quantized_.size()) < num_rows * width) {
    quantized_.resize(num_rows * width);
  }
  for_rows(num_rows, width, [&](int64_t row) {
    float* copy = quantized_.data() + row * width;
    std::memcpy(copy, x.row<float>(row), width * sizeof(float));
    round_to_f8e4m3_row(copy, width);
  });
  return TensorView::of(quantized_.data(), {num_rows, width});
}

void CpuBackend::linear(const Rows& rows, const LinearWeight& weight, const TensorView& out) {
  const TensorView& x = rows.values;
  CHECK(
      x.dim(1) == weight.in_features && out.dim(1) == weight.out_features && out.dim(0) == x.dim(0),
      x.to_string(), out.to_string(), weight.out_features, weight.in_features);
  const TensorView input = weight.fp8 ? quantize_rows(x) : x;
  cpu::multiply(pool_, cpu::packed_matrix(weight), input.data<float>(), input.stride(0), x.dim(0),
                out.data<float>(), out.stride(0));
}

void CpuBackend::swiglu(const TensorView& gate_up, const Rows& rows) {
  const TensorView& out = rows.values;
  const int64_t width = out.dim(1);
  CHECK(gate_up.dim(1) == 2 * width && gate_up.dim(0) == out.dim(0), gate_up.to_string(),
        out.to_string());
  for_rows(out.dim(0), width * 4, [&](int64_t row) {
    const float* gate = gate_up.row<float>(row);
    float* result = out.row<float>(row);
    for (int64_t i = 0; i < width; ++i) result[i] = cpu::silu(gate[i]) * gate[width + i];
  });
}

}  // namespace deepflight
