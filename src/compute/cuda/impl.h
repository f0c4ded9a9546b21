// What CudaBackend holds, shared by its source files.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "compute/cuda/cuda_backend.h"
#include "compute/cuda/kernels/attention/mla_decode/problem.h"
#include "compute/cuda/kernels/gemm/cublaslt.h"
#include "compute/cuda/kernels/gemm/launch.h"
#include "compute/cuda/kernels/gemm_bf16/launch.h"
#include "compute/cuda/packed.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"
#include "compute/cuda/runtime/uploader.h"
#include "tensor/carver.h"
#include "tensor/fp8_rows.h"

namespace deepflight {

// Events that come back when their last owner lets go: the steady step creates none.
class EventPool {
 public:
  std::shared_ptr<Event> take() {
    std::unique_ptr<Event> event;
    {
      std::lock_guard lock(state_->mutex);
      if (!state_->free.empty()) {
        event = std::move(state_->free.back());
        state_->free.pop_back();
      }
    }
    if (!event) event = std::make_unique<Event>();
    return {event.release(), [state = state_](Event* returned) {
              std::lock_guard lock(state->mutex);
              state->free.emplace_back(returned);
            }};
  }

 private:
  struct State {
    std::mutex mutex;
    std::vector<std::unique_ptr<Event>> free;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// A stream and the scratch of the op that runs on it. Pieces nest: an op's own, its products'
// quantised inputs, and what the product kernels ask for.
struct Lane {
  Stream stream;
  ScratchArena op;
  ScratchArena quantized;
  ScratchArena product;

  void freeze() {
    op.freeze();
    quantized.freeze();
    product.freeze();
  }
};

struct CudaBackend::Impl {
  explicit Impl(const CudaBackendConfig& config)
      : config(config), next_tile(allocate_device(4)), uploader(config.upload_threads) {
    CUDA_CHECK(cudaMemset(next_tile.data(), 0, 4));
    if (config.cublaslt_fp8) cublaslt_fp8_gemm.emplace();
  }

  // For prepare_kernels(). `stacked`: what a group's matrix is made of.
  void note_use(const cuda::PackedMatrices& matrices, const std::vector<StoredMatrix>& stacked,
                bool grouped);
  // On the stream of copies; waits for it.
  void copy_beside(void* to, const void* from, int64_t size_bytes, cudaMemcpyKind kind);
  // `x` with its FP8 form if `fp8` asks for one: its own, or made in the lane's scratch.
  Rows with_fp8(Lane& lane, const Rows& x, bool fp8);
  // The shared expert, on the side lane.
  void shared_expert(const Rows& x, const MlpWeights& weights, const TensorView& out);
  void launch(Lane& lane, Bf16GemmProblem problem);
  void launch(Lane& lane, const Fp8GemmProblem& problem);
  // out = x * weight^T by `matrices`, dense or (offsets not null) grouped.
  void multiply(Lane& lane, const Rows& x, const cuda::PackedMatrices& matrices,
                const int32_t* offsets, const TensorView& out);
  // The product and its activation by one kernel, or false. x has its FP8 form.
  bool multiply_fused(Lane& lane, const Rows& x, const cuda::PackedMatrices& matrices,
                      const int32_t* offsets, const Rows& activated);
  // activated = swiglu(x * gate_up^T), in one kernel where that is faster: the same bits.
  // `gate_up`: BF16 [rows, 2 * width], written only where it is not. `ops` names the two in the
  // timeline.
  void multiply_swiglu(Lane& lane, std::pair<const char*, const char*> ops, const Rows& x,
                       const cuda::PackedMatrices& matrices, const int32_t* offsets,
                       const TensorView& gate_up, const Rows& activated);
  // q times W_UK, then the rotated q_pe: BF16 [num_tokens, heads, latent + rope].
  TensorView absorb_query(const MlaCall& call, const void* w_uk);
  // The problem's latent outputs, BF16 [num_tokens, heads, latent], in the main lane's scratch.
  TensorView attend_absorbed(cuda_mla_decode::MlaDecodeProblem problem);

  const CudaBackendConfig config;
  Lane main;              // all ops
  Buffer next_tile;       // of grouped products, all on the main lane
  Lane side;              // the shared expert, beside the routed ones
  std::mutex copy_mutex;  // of the stream below
  Stream copies;          // pages to and from the host, beside the steps
  Event forked;
  Event joined;
  EventPool events;
  ScratchArena mla_metadata;  // made by the first absorbed call of a step, for all layers
  bool mla_metadata_ready = false;
  ScratchArena absorbed_query;         // of the layer at work
  const void* rope_copy_of = nullptr;  // the q_pe whose columns absorbed_query has already
  Uploader uploader;
  std::vector<Fp8GemmUse> fp8_uses;  // shapes of the FP8 matrices packed so far
  Bf16Gemm bf16_gemm;
  std::optional<CublasltFp8Gemm> cublaslt_fp8_gemm;  // if it is to be used
};

// The FP8 form of rows as the kernels take it.
inline Fp8Rows fp8_rows(const Rows& rows) {
  if (!rows.fp8) return {};
  return {static_cast<uint8_t*>(rows.fp8.raw()), rows.fp8.stride(0),
          static_cast<float*>(rows.fp8_scales.raw()), rows.fp8_scales.stride(0)};
}

// Rows [begin, begin + count).
inline Rows rows_part(const Rows& rows, int64_t begin, int64_t count) {
  Rows part = rows.values.slice(0, begin, count);
  if (rows.fp8) {
    part.fp8 = rows.fp8.slice(0, begin, count);
    part.fp8_scales = rows.fp8_scales.slice(1, begin, count);
  }
  return part;
}

// Rows with an FP8 form only, in memory of the carver.
inline Rows carve_fp8_rows(Carver& carver, int64_t num_rows, int64_t columns) {
  Rows rows;
  rows.values = TensorView(nullptr, DType::kBF16, {num_rows, columns});
  rows.fp8 = carver
                 .take(DType::kF8E4M3,
                       {num_rows + Fp8Rows::kRowsBeyond, Fp8Rows::value_stride_of(columns)})
                 .slice(0, 0, num_rows)
                 .slice(1, 0, columns);
  rows.fp8_scales = carver.take(
      DType::kF32, {Fp8Rows::num_scale_blocks(columns), Fp8Rows::scale_stride_of(num_rows)});
  return rows;
}

inline uint16_t* bf16(const TensorView& view) {
  CHECK(view.dtype() == DType::kBF16, view.to_string());
  return static_cast<uint16_t*>(view.raw());
}

}  // namespace deepflight
