// CudaBackend: BF16 activations on one Hopper GPU. Ops put kernels on a stream and return; nothing
// waits for the device but copy_out, wait and synchronize. Every op may be captured in a graph once
// the same shapes, or larger ones, have run before (scratch is then as large as it will get).
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "compute/ops/backend.h"

namespace deepflight {

struct CudaBackendConfig {
  int device = 0;
  // Longest run of tokens that the experts take at once: bounds the scratch of long prompts.
  int64_t moe_chunk_tokens = 8192;
  // Longest run of KV tokens that expanded attention holds expanded at once.
  int64_t kv_chunk_tokens = 8192;
  int upload_threads = 12;
  // Only kernels whose result for a row (a token's activations, a sampled row) depends on that row
  // alone, so that a request's outputs have the same bits in any company. Some steps take longer.
  bool batch_invariant = false;
  // Dense FP8 products by cuBLASLt where it has a kernel. Not with batch_invariant.
  bool cublaslt_fp8 = false;
  // Measure which kernels are fastest before they are used (minutes), and keep that for later runs.
  bool autotune = false;
};

class CudaBackend final : public Backend {
 public:
  // Error: kUnavailable, no such device or not a Hopper one.
  static Result<std::unique_ptr<CudaBackend>> create(const CudaBackendConfig& config);
  // Whether create() would succeed with this device.
  static bool can_use(int device);
  ~CudaBackend() override;

  std::string device_name() const;
  int64_t total_memory_bytes() const;

  DType activation_dtype() const override { return DType::kBF16; }
  bool quantizes_rows() const override { return true; }
  Buffer allocate(int64_t size_bytes) override;
  Buffer allocate_staging(int64_t size_bytes) override;
  int64_t free_memory_bytes() const override;
  void copy_in(void* device, const void* host, int64_t size_bytes) override;
  void copy_out(void* host, const void* device, int64_t size_bytes) override;
  void copy_in_beside(void* device, const void* staging, int64_t size_bytes) override;
  void copy_out_beside(void* staging, const void* device, int64_t size_bytes) override;
  void copy_in_async(void* device, const void* staging, int64_t size_bytes) override;
  void copy_out_async(void* staging, const void* device, int64_t size_bytes) override;
  void fill_zero(void* device, int64_t size_bytes) override;
  Buffer pack_table(const StoredMatrix& table) override;
  LinearWeight pack_linear(std::span<const StoredMatrix> parts) override;
  GroupedLinearWeight pack_grouped_linear(
      std::span<const std::vector<StoredMatrix>> groups) override;
  KvUpWeight pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) override;

  void prepare_kernels(int64_t max_tokens) override;
  StepGraph capture(std::function<void()> step) override;
  void launch(const StepGraph& graph) override;
  void attach_thread() override;
  void begin_section(const char* section) override;
  StepEvent record() override;
  void wait(const StepEvent& event) override;
  void synchronize() override;

  void apply_deltas(const StepState& state, const StepDeltas& deltas) override;
  void prepare_step(const StepState& state, const StepInputs& inputs) override;
  void update_state(const StepState& state, const StepInputs& inputs,
                    const SampledTokens& sampled) override;

  void embed(const TensorView& table, const TensorView& token_ids, const TensorView& out) override;
  void rms_norm(const TensorView& x, const TensorView& weight, float eps, const Rows& out) override;
  void add(const TensorView& delta, const TensorView& sum) override;
  void add_rms_norm(const TensorView& delta, const TensorView& residual, const TensorView& weight,
                    float eps, const Rows& out) override;
  void rms_norm_pair(const Rows& a, const TensorView& a_weight, const TensorView& b,
                     const TensorView& b_weight, float eps) override;
  void linear(const Rows& x, const LinearWeight& weight, const TensorView& out) override;
  void swiglu(const TensorView& gate_up, const Rows& out) override;
  void linear_swiglu(const Rows& x, const LinearWeight& gate_up, const TensorView& scratch,
                     const Rows& out) override;
  void gather_rows(const TensorView& x, const TensorView& row_idx, const TensorView& out) override;

  void rope(const TensorView& q_pe, const TensorView& positions, const RopeTable& table) override;
  void write_kv(const TensorView& latent, const StepState& state, const StepInputs& inputs,
                const KvPool& pool, int64_t layer) override;
  void rope_write_kv(const TensorView& q_pe, const TensorView& latent, const StepState& state,
                     const StepInputs& inputs, const RopeTable& table, const KvPool& pool,
                     int64_t layer) override;
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
  struct Impl;
  explicit CudaBackend(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace deepflight
