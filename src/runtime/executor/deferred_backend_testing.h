// For tests: a device as lazy as one may be. Ops and asynchronous copies only join a queue, which
// runs when somebody waits, and a capture keeps the ops with the arguments they were issued with.
// So a step that reads host memory too late, or staging that is used again too early, shows.
// Memory is counted: allocations, scratch that grows with the largest step, captured graphs.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "compute/cpu/cpu_backend.h"

namespace deepflight {

class DeferredBackend final : public Backend {
 public:
  static constexpr int64_t kScratchBytesPerToken = 1000;
  static constexpr int64_t kScratchBytesPerKvToken = 10;
  static constexpr int64_t kGraphBytesPerRow = 5000;

  explicit DeferredBackend(CpuBackend& base, int64_t memory_bytes = int64_t{1} << 40)
      : base_(base), memory_bytes_(memory_bytes) {}

  // What the ops last saw, for tests that look at the device.
  StepState last_state;
  KvPool last_pool;
  std::vector<float> draft_logits;  // of the first sequence, one draft's after the other's
  int num_captures = 0;
  int num_copies_in = 0;
  int64_t last_copy_in_bytes = 0;
  int64_t last_copy_out_bytes = 0;
  int num_delta_rounds = 0;
  // The next sample() finds this row's logits broken.
  int bad_row = -1;
  // The next wait throws, as if the device had failed.
  bool broken = false;
  int64_t used_bytes() const { return allocated_bytes_ + scratch_bytes_ + graph_bytes_; }

  DType activation_dtype() const override { return base_.activation_dtype(); }
  Buffer allocate(int64_t size_bytes) override {
    if (size_bytes > free_memory_bytes()) throw std::runtime_error("out of memory");
    allocated_bytes_ += size_bytes;
    auto* owner = new Allocation{this, base_.allocate(size_bytes)};
    return Buffer(
        owner->memory.data(), size_bytes,
        [](void*, void* context) {
          auto* freed = static_cast<Allocation*>(context);
          freed->backend->allocated_bytes_ -= freed->memory.size_bytes();
          delete freed;
        },
        owner);
  }
  Buffer allocate_staging(int64_t size_bytes) override { return base_.allocate(size_bytes); }
  int64_t free_memory_bytes() const override { return memory_bytes_ - used_bytes(); }
  void copy_in(void* device, const void* host, int64_t size_bytes) override {
    synchronize();
    base_.copy_in(device, host, size_bytes);
  }
  void copy_out(void* host, const void* device, int64_t size_bytes) override {
    synchronize();
    base_.copy_out(host, device, size_bytes);
  }
  void copy_in_beside(void* device, const void* staging, int64_t size_bytes) override {
    base_.copy_in(device, staging, size_bytes);
  }
  void copy_out_beside(void* staging, const void* device, int64_t size_bytes) override {
    base_.copy_out(staging, device, size_bytes);
  }
  void copy_in_async(void* device, const void* staging, int64_t size_bytes) override {
    ++num_copies_in;
    last_copy_in_bytes = size_bytes;
    issue([=, this] { base_.copy_in(device, staging, size_bytes); });
  }
  void copy_out_async(void* staging, const void* device, int64_t size_bytes) override {
    last_copy_out_bytes = size_bytes;
    issue([=, this] { base_.copy_out(staging, device, size_bytes); });
  }
  void fill_zero(void* device, int64_t size_bytes) override {
    issue([=, this] { base_.fill_zero(device, size_bytes); });
  }
  Buffer pack_table(const StoredMatrix& table) override { return base_.pack_table(table); }
  LinearWeight pack_linear(std::span<const StoredMatrix> parts) override {
    return base_.pack_linear(parts);
  }
  GroupedLinearWeight pack_grouped_linear(
      std::span<const std::vector<StoredMatrix>> groups) override {
    return base_.pack_grouped_linear(groups);
  }
  KvUpWeight pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) override {
    return base_.pack_kv_up(kv_b, num_heads, nope_dim);
  }

  StepGraph capture(std::function<void()> step) override {
    ++num_captures;
    auto graph = std::make_shared<CapturedOps>();
    graph->backend = this;
    capturing_ = graph.get();
    step();
    capturing_ = nullptr;
    graph_bytes_ += graph->size_bytes;
    return {graph};
  }
  void launch(const StepGraph& graph) override {
    for (const auto& op : static_cast<const CapturedOps*>(graph.impl.get())->ops) issue(op);
  }
  void attach_thread() override { base_.attach_thread(); }
  StepEvent record() override {
    std::lock_guard lock(mutex_);
    return {std::make_shared<int64_t>(num_issued_)};
  }
  void wait(const StepEvent& event) override {
    if (event.impl) run_until(*static_cast<const int64_t*>(event.impl.get()));
  }
  void synchronize() override {
    int64_t all;
    {
      std::lock_guard lock(mutex_);
      all = num_issued_;
    }
    run_until(all);
  }

  void apply_deltas(const StepState& state, const StepDeltas& deltas) override {
    ++num_delta_rounds;
    issue([=, this] { base_.apply_deltas(state, deltas); });
  }
  void prepare_step(const StepState& state, const StepInputs& inputs) override {
    if (capturing_ != nullptr) {
      capturing_->size_bytes = inputs.num_decode_rows * kGraphBytesPerRow;
    }
    scratch_bytes_ = std::max(scratch_bytes_, inputs.num_tokens * kScratchBytesPerToken);
    issue([=, this] { base_.prepare_step(state, inputs); });
  }
  void update_state(const StepState& state, const StepInputs& inputs,
                    const SampledTokens& sampled) override {
    last_state = state;
    issue([=, this] { base_.update_state(state, inputs, sampled); });
  }
  void embed(const TensorView& table, const TensorView& ids, const TensorView& out) override {
    issue([=, this] { base_.embed(table, ids, out); });
  }
  void rms_norm(const TensorView& x, const TensorView& weight, float eps,
                const Rows& out) override {
    issue([=, this] { base_.rms_norm(x, weight, eps, out); });
  }
  void add(const TensorView& delta, const TensorView& sum) override {
    issue([=, this] { base_.add(delta, sum); });
  }
  void linear(const Rows& x, const LinearWeight& weight, const TensorView& out) override {
    issue([=, this] { base_.linear(x, weight, out); });
  }
  void swiglu(const TensorView& gate_up, const Rows& out) override {
    issue([=, this] { base_.swiglu(gate_up, out); });
  }
  void gather_rows(const TensorView& x, const TensorView& idx, const TensorView& out) override {
    issue([=, this] { base_.gather_rows(x, idx, out); });
  }
  void rope(const TensorView& q_pe, const TensorView& positions, const RopeTable& table) override {
    issue([=, this] { base_.rope(q_pe, positions, table); });
  }
  void write_kv(const TensorView& latent, const StepState& state, const StepInputs& inputs,
                const KvPool& pool, int64_t layer) override {
    last_pool = pool;
    issue([=, this] { base_.write_kv(latent, state, inputs, pool, layer); });
  }
  void mla_absorbed(const MlaCall& call) override {
    issue([copy = Call(call), this] { base_.mla_absorbed(copy.get()); });
  }
  void mla_expanded(const MlaCall& call) override {
    // The host's numbers, as they are now, are the device's when the op runs.
    const AttentionBatch& batch = call.batch;
    const std::vector<int32_t> offsets(batch.host_query_offsets,
                                       batch.host_query_offsets + batch.num_sequences + 1);
    const std::vector<int32_t> kv_lens(batch.host_kv_lens,
                                       batch.host_kv_lens + batch.num_sequences);
    for (const int32_t kv_len : kv_lens) {
      scratch_bytes_ = std::max(scratch_bytes_, kv_len * kScratchBytesPerKvToken);
    }
    issue([=, copy = Call(call), this] {
      CHECK(std::ranges::equal(
          offsets, std::span(copy.batch.query_offsets.data<int32_t>(), offsets.size())));
      CHECK(std::ranges::equal(kv_lens,
                               std::span(copy.batch.kv_lens.data<int32_t>(), kv_lens.size())));
      base_.mla_expanded(copy.get());
    });
  }
  void route_experts(const TensorView& logits, const TensorView& bias, const RoutingParams& params,
                     const TensorView& ids, const TensorView& weights) override {
    issue([=, this] { base_.route_experts(logits, bias, params, ids, weights); });
  }
  void sort_by_expert(const TensorView& ids, const ExpertRows& order) override {
    issue([=, this] { base_.sort_by_expert(ids, order); });
  }
  void expand_rows(const TensorView& x, const ExpertRows& order, int64_t topk,
                   const TensorView& out) override {
    issue([=, this] { base_.expand_rows(x, order, topk, out); });
  }
  void grouped_linear(const TensorView& x, const GroupedLinearWeight& weight,
                      const TensorView& offsets, const TensorView& out) override {
    issue([=, this] { base_.grouped_linear(x, weight, offsets, out); });
  }
  void combine_experts(const TensorView& expert_out, const ExpertRows& order,
                       const TensorView& weights, const TensorView& out) override {
    issue([=, this] { base_.combine_experts(expert_out, order, weights, out); });
  }
  void moe(const Rows& x, const MoeWeights& weights, const TensorView& ids,
           const TensorView& topk_weights, const TensorView& out) override {
    issue([=, &weights, this] { base_.moe(x, weights, ids, topk_weights, out); });
  }
  void sample(const StepState& state, const StepInputs& inputs, const TensorView& logits,
              const SampledTokens& sampled) override {
    issue([=, this] {
      base_.sample(state, inputs, logits, sampled);
      if (bad_row >= 0) *sampled.first_bad_row.data<int32_t>() = std::exchange(bad_row, -1);
    });
  }
  void shift_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                    int64_t level, const TensorView& states, const TensorView& out) override {
    issue([=, this] { base_.shift_states(state, inputs, pool, level, states, out); });
  }
  void keep_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                   int64_t level, const TensorView& states) override {
    issue([=, this] { base_.keep_states(state, inputs, pool, level, states); });
  }
  void begin_drafts(const StepState& state, const StepInputs& inputs, const SampledTokens& sampled,
                    const DraftInputs& drafts) override {
    issue([=, this] { base_.begin_drafts(state, inputs, sampled, drafts); });
  }
  void take_drafts(const StepState& state, const TensorView& logits, int64_t draft_idx,
                   const DraftInputs& drafts) override {
    issue([=, this] {
      if (draft_idx == 0) draft_logits.clear();
      const float* row = logits.row<float>(0);
      draft_logits.insert(draft_logits.end(), row, row + logits.dim(1));
      base_.take_drafts(state, logits, draft_idx, drafts);
    });
  }

 private:
  using Op = std::function<void()>;
  struct Allocation {
    DeferredBackend* backend;
    Buffer memory;
  };
  struct CapturedOps {
    ~CapturedOps() { backend->graph_bytes_ -= size_bytes; }
    DeferredBackend* backend = nullptr;
    std::vector<Op> ops;
    int64_t size_bytes = 0;
  };
  // An MlaCall with copies of what it refers to, the weights aside.
  struct Call {
    explicit Call(const MlaCall& call)
        : q(call.q),
          kv_up(&call.kv_up),
          state(call.state),
          batch(call.batch),
          pool(call.pool),
          layer(call.layer),
          softmax_scale(call.softmax_scale),
          out(call.out),
          first_key(call.first_key) {}
    MlaCall get() const {
      return {q, *kv_up, state, batch, pool, layer, softmax_scale, out, first_key};
    }
    TensorView q;
    const KvUpWeight* kv_up;
    StepState state;
    AttentionBatch batch;
    KvPool pool;
    int64_t layer;
    float softmax_scale;
    TensorView out;
    int64_t first_key;
  };

  void issue(Op op) {
    if (capturing_ != nullptr) {
      capturing_->ops.push_back(std::move(op));
      return;
    }
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(op));
    ++num_issued_;
  }
  // Runs what was issued up to number `end`, on the caller's thread.
  void run_until(int64_t end) {
    std::lock_guard run_lock(run_mutex_);
    base_.attach_thread();
    while (num_run_ < end) {
      Op op;
      {
        std::lock_guard lock(mutex_);
        op = std::move(queue_.front());
        queue_.pop_front();
      }
      ++num_run_;
      op();
    }
    if (std::exchange(broken, false)) throw std::runtime_error("the device is lost");
  }

  CpuBackend& base_;
  const int64_t memory_bytes_;
  std::atomic<int64_t> allocated_bytes_ = 0;
  int64_t scratch_bytes_ = 0;
  int64_t graph_bytes_ = 0;
  CapturedOps* capturing_ = nullptr;
  std::mutex mutex_;      // of the queue
  std::mutex run_mutex_;  // of those who run it
  std::deque<Op> queue_;
  int64_t num_issued_ = 0;
  int64_t num_run_ = 0;
};

}  // namespace deepflight
