// CpuBackend: float32 activations, weights widened to float32 at load, matrix products by oneDNN.
// Every row's result depends on its own inputs only (see gemm.h), so the same request gives the
// same bits in any company. FP8 weights quantise their activations as the GPU does.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "compute/ops/backend.h"

namespace deepflight {

struct CpuBackendConfig {
  int num_threads = 0;  // 0: one per core
  // Round the inputs of FP8 products to e4m3 per 1x128 block. Off only to compare with references
  // that widen the weights and leave activations alone.
  bool fp8_activations = true;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendConfig& config);
  ~CpuBackend() override;

  DType activation_dtype() const override { return DType::kF32; }
  Buffer allocate(int64_t size_bytes) override;
  Buffer allocate_staging(int64_t size_bytes) override { return allocate(size_bytes); }
  int64_t free_memory_bytes() const override;
  void copy_in(void* device, const void* host, int64_t size_bytes) override;
  void copy_out(void* host, const void* device, int64_t size_bytes) override;
  void copy_in_beside(void* device, const void* staging, int64_t size_bytes) override {
    copy_in(device, staging, size_bytes);
  }
  void copy_out_beside(void* staging, const void* device, int64_t size_bytes) override {
    copy_out(staging, device, size_bytes);
  }
  void copy_in_async(void* device, const void* staging, int64_t size_bytes) override {
    copy_in(device, staging, size_bytes);
  }
  void copy_out_async(void* staging, const void* device, int64_t size_bytes) override {
    copy_out(staging, device, size_bytes);
  }
  void fill_zero(void* device, int64_t size_bytes) override;
  Buffer pack_table(const StoredMatrix& table) override;
  LinearWeight pack_linear(std::span<const StoredMatrix> parts) override;
  GroupedLinearWeight pack_grouped_linear(
      std::span<const std::vector<StoredMatrix>> groups) override;
  KvUpWeight pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) override;

  StepGraph capture(std::function<void()> step) override;
  void launch(const StepGraph& graph) override;
  void attach_thread() override;
  // Work is done when its op returns.
  StepEvent record() override { return {}; }
  void wait(const StepEvent&) override {}
  void synchronize() override {}

  void apply_deltas(const StepState& state, const StepDeltas& deltas) override;
  void prepare_step(const StepState& state, const StepInputs& inputs) override;
  void update_state(const StepState& state, const StepInputs& inputs,
                    const SampledTokens& sampled) override;

  void embed(const TensorView& table, const TensorView& token_ids, const TensorView& out) override;
  void rms_norm(const TensorView& x, const TensorView& weight, float eps, const Rows& out) override;
  void add(const TensorView& delta, const TensorView& sum) override;
  void linear(const Rows& x, const LinearWeight& weight, const TensorView& out) override;
  void swiglu(const TensorView& gate_up, const Rows& out) override;
  void gather_rows(const TensorView& x, const TensorView& row_idx, const TensorView& out) override;

  void rope(const TensorView& q_pe, const TensorView& positions, const RopeTable& table) override;
  void write_kv(const TensorView& latent, const StepState& state, const StepInputs& inputs,
                const KvPool& pool, int64_t layer) override;
  void mla_absorbed(const MlaCall& call) override;
  void mla_expanded(const MlaCall& call) override;

  void route_experts(const TensorView& logits, const TensorView& bias, const RoutingParams& params,
                     const TensorView& topk_ids, const TensorView& topk_weights) override;
  void sort_by_expert(const TensorView& topk_ids, const ExpertRows& order) override;
  void expand_rows(const TensorView& x, const ExpertRows& order, int64_t topk,
                   const TensorView& out) override;
  void grouped_linear(const TensorView& x, const GroupedLinearWeight& weight,
                      const TensorView& offsets, const TensorView& out) override;
  void combine_experts(const TensorView& expert_out, const ExpertRows& order,
                       const TensorView& topk_weights, const TensorView& out) override;
  void moe(const Rows& x, const MoeWeights& weights, const TensorView& topk_ids,
           const TensorView& topk_weights, const TensorView& out) override;

  void sample(const StepState& state, const StepInputs& inputs, const TensorView& logits,
              const SampledTokens& sampled) override;

  void shift_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                    int64_t level, const TensorView& states, const TensorView& out) override;
  void keep_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                   int64_t level, const TensorView& states) override;
  void begin_drafts(const StepState& state, const StepInputs& inputs, const SampledTokens& sampled,
                    const DraftInputs& drafts) override;
  void take_drafts(const StepState& state, const TensorView& logits, int64_t draft_idx,
                   const DraftInputs& drafts) override;

 private:
  // Runs body(row) over rows, on all threads where there is enough work.
  void for_rows(int64_t num_rows, int64_t row_cost, const std::function<void(int64_t)>& body);
  // The expanded form for one sequence of the call.
  void expand_and_attend(const MlaCall& call, int64_t sequence);
  // x with every 1x128 block rounded to e4m3, in `quantized_`, dense.
  TensorView quantize_rows(const TensorView& x);

  const CpuBackendConfig config_;
  ThreadPool pool_;
  std::vector<float> quantized_;
  // Scratch of single ops, kept so that the steady step allocates nothing.
  struct AttentionScratch;
  struct MoeScratch;
  std::unique_ptr<AttentionScratch> attention_;
  std::unique_ptr<MoeScratch> moe_;
};

}  // namespace deepflight
