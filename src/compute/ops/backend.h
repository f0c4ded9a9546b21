// Backend: every operation that the model and the executor need, at the size that a good fused GPU
// kernel would have. The CPU backend is the readable reference and the oracle of any other.
//
// Conventions. Activations are [num_tokens, features] with activation_dtype() and any row stride;
// integers are I32; logits are F32. An op reads what it is given const and writes what it names
// `out` or says it updates. Fused ops have a default made of unfused ones (backend.cpp), which is
// their definition. Shapes are CHECKed, never trusted.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "compute/ops/step_state.h"
#include "compute/ops/weights.h"
#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace deepflight {

enum class RouterScoring : uint8_t { kSigmoid, kSoftmax };
// How the groups that may contribute experts are ranked.
enum class GroupScore : uint8_t {
  kNone,     // no groups: top-k over all experts
  kTop2Sum,  // V3: sum of a group's two best biased scores
  kMax,      // V2 group_limited_greedy: a group's best score
};

struct RoutingParams {
  RouterScoring scoring = RouterScoring::kSigmoid;
  GroupScore group_score = GroupScore::kNone;
  int num_groups = 1;
  int topk_groups = 1;
  int topk = 1;
  bool normalize = false;  // divide the chosen weights by their sum (+ 1e-20)
  float scaling_factor = 1.0f;
};

// Activations that products read. Where the backend quantizes_rows(), the workspace may carry the
// same rows in e4m3 (1x128 blocks) beside them: an op that writes `values` then writes `fp8` and
// `fp8_scales` too, and an FP8 product reads those. Empty otherwise: the product rounds by itself.
struct Rows {
  Rows() = default;
  Rows(const TensorView& values) : values(values) {}  // NOLINT: rows without an FP8 form

  TensorView values;  // [num_rows, features], activation dtype
  TensorView fp8;     // F8E4M3 [num_rows, features]; what lies beyond is as Fp8Rows has it
  // F32 [ceil(features / 128), Fp8Rows::scale_stride_of(rows)]: by block, then row.
  TensorView fp8_scales;

  int64_t dim(int i) const { return values.dim(i); }
  Rows first_rows(int64_t num_rows) const {
    Rows rows = values.first_rows(num_rows);
    if (fp8) {
      rows.fp8 = fp8.first_rows(num_rows);
      rows.fp8_scales = fp8_scales;
    }
    return rows;
  }
  Rows first_columns(int64_t num_columns) const {
    Rows rows = values.slice(1, 0, num_columns);
    if (fp8) {
      rows.fp8 = fp8.slice(1, 0, num_columns);
      rows.fp8_scales = fp8_scales;
    }
    return rows;
  }
  // Not to be written in the activation dtype: `values` has its shape and no memory.
  Rows fp8_only() const {
    Rows rows = *this;
    rows.values = TensorView(nullptr, values.dtype(), {values.dim(0), values.dim(1)});
    return rows;
  }
};

// Rotary embedding of the last rope_dim elements: theta_i per pair and a factor on cos and sin.
struct RopeTable {
  TensorView cos_sin;       // F32 [max_positions, rope_dim]: cos of each pair, then sin of each
  bool interleaved = true;  // pairs are (2i, 2i + 1) as stored by DeepSeek, else (i, i + dim / 2)
};

// One layer's attention for the tokens of one AttentionBatch.
struct MlaCall {
  TensorView q;  // [num_tokens, num_heads, nope + rope], rope part rotated; dense in its last two
  const KvUpWeight& kv_up;
  const StepState& state;
  const AttentionBatch& batch;
  const KvPool& pool;
  int64_t layer;
  float softmax_scale;
  TensorView out;  // [num_tokens, num_heads * v_dim]
  // Keys of positions before it are not seen; at most 64. A token that so sees none gets zeros.
  int64_t first_key = 0;
};

// (token, k) pairs sorted by expert; in token order within an expert.
struct ExpertRows {
  TensorView offsets;    // I32 [num_experts + 1]: first row of each expert
  TensorView rows;       // I32 [num_tokens * topk]: token * topk + k of each row
  TensorView positions;  // I32 [num_tokens * topk]: the row of each token * topk + k
};

// A captured step: run it again with launch(). On the CPU it is a closure.
struct StepGraph {
  std::shared_ptr<void> impl;
};

// A point in the order of issued work. Empty: work that is done.
struct StepEvent {
  std::shared_ptr<void> impl;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // --- memory and weights
  virtual DType activation_dtype() const = 0;
  // Whether FP8 products gain from Rows that carry their FP8 form.
  virtual bool quantizes_rows() const { return false; }
  virtual Buffer allocate(int64_t size_bytes) = 0;
  // Host memory that the asynchronous copies may use.
  virtual Buffer allocate_staging(int64_t size_bytes) = 0;
  // Bytes that allocate() can still give.
  virtual int64_t free_memory_bytes() const = 0;
  virtual void copy_in(void* device, const void* host, int64_t size_bytes) = 0;
  virtual void copy_out(void* host, const void* device, int64_t size_bytes) = 0;
  // In the order of the ops. The staging memory must stay as it is until the copy is done.
  virtual void copy_in_async(void* device, const void* staging, int64_t size_bytes) = 0;
  virtual void copy_out_async(void* staging, const void* device, int64_t size_bytes) = 0;
  // Beside the ops, which neither wait for these nor are waited for; done on return. From any
  // thread.
  virtual void copy_in_beside(void* device, const void* staging, int64_t size_bytes) = 0;
  virtual void copy_out_beside(void* staging, const void* device, int64_t size_bytes) = 0;
  virtual void fill_zero(void* device, int64_t size_bytes) = 0;
  // When a pack_* call returns, the host memory it was given is free; the weights may still be on
  // their way, and ops that are issued later wait for them.
  // Rows in activation_dtype(), dense: a table for embed().
  virtual Buffer pack_table(const StoredMatrix& table) = 0;
  // The rows of `parts` one under the other, as one product.
  virtual LinearWeight pack_linear(std::span<const StoredMatrix> parts) = 0;
  // groups[g] lists the parts of group g; all groups have one shape.
  virtual GroupedLinearWeight pack_grouped_linear(
      std::span<const std::vector<StoredMatrix>> groups) = 0;
  // kv_b: [num_heads * (nope + v), latent], per head its nope rows, then its v rows.
  virtual KvUpWeight pack_kv_up(const StoredMatrix& kv_b, int64_t num_heads, int64_t nope_dim) = 0;

  // Makes ready (compiles, loads) the kernels that steps of up to max_tokens tokens will run with
  // the weights packed so far.
  virtual void prepare_kernels(int64_t /*max_tokens*/) {}

  // --- capture and order
  // Records the ops that `step` issues. The arguments of those ops must stay alive and in place.
  virtual StepGraph capture(std::function<void()> step) = 0;
  virtual void launch(const StepGraph& graph) = 0;
  // Must run once on each thread that will issue ops.
  virtual void attach_thread() = 0;
  // After all work issued so far.
  virtual StepEvent record() = 0;
  // Waits for it; from any thread.
  virtual void wait(const StepEvent& event) = 0;
  // Waits until all work issued so far is done.
  virtual void synchronize() = 0;

  // --- measuring
  // The ops that follow belong to this part of the model ("attention", "moe", ...), for a profile.
  virtual void begin_section(const char*) {}

  // --- step inputs and state
  // Resets the rows of admitted slots (zero, then what the delta says), sets token masks and
  // extends page tables.
  virtual void apply_deltas(const StepState& state, const StepDeltas& deltas) = 0;
  // Derives token ids and positions of decode rows from the state: a row's tokens are
  // last_tokens[slot], then draft_tokens[slot] (0 where there is no guess), at positions
  // kv_lens[slot] and on; absorbed.kv_lens[r] = kv_lens[slot] + 1 + draft_len (all 0 in padding
  // rows). Chunk entries are already filled by the host.
  // Also derives what the attention ops need from the lengths alone, once a step.
  virtual void prepare_step(const StepState& state, const StepInputs& inputs) = 0;
  // After sampling: accepts, of each decode row, the first sampled token and then as long as the
  // drafts before them are what was sampled; adds the step's tokens (of a decode row: as many as
  // were accepted) to kv_lens, stores the last accepted token in last_tokens, counts all accepted
  // ones in num_outputs and output_counts, and follows them in and out of thinking.
  virtual void update_state(const StepState& state, const StepInputs& inputs,
                            const SampledTokens& sampled) = 0;

  // --- dense
  // out[t] = table row token_ids[t]. table: [vocab, hidden] in activation dtype.
  virtual void embed(const TensorView& table, const TensorView& token_ids,
                     const TensorView& out) = 0;
  // out = x / sqrt(mean(x^2) + eps) * weight, per row. out may be x.
  virtual void rms_norm(const TensorView& x, const TensorView& weight, float eps,
                        const Rows& out) = 0;
  virtual void add(const TensorView& delta, const TensorView& sum) = 0;  // sum += delta
  // residual += delta; out = rms_norm(residual).
  virtual void add_rms_norm(const TensorView& delta, const TensorView& residual,
                            const TensorView& weight, float eps, const Rows& out);
  // Two norms of the same rows in one kernel (MLA's q and kv latents), in place.
  virtual void rms_norm_pair(const Rows& a, const TensorView& a_weight, const TensorView& b,
                             const TensorView& b_weight, float eps);
  // out = x * weight^T. out: [num_tokens, out_features], F32 or activation dtype.
  virtual void linear(const Rows& x, const LinearWeight& weight, const TensorView& out) = 0;
  // out = silu(gate) * up, gate_up: [num_tokens, 2 * width].
  virtual void swiglu(const TensorView& gate_up, const Rows& out) = 0;
  // out = swiglu(x * gate_up^T).
  virtual void linear_swiglu(const Rows& x, const LinearWeight& gate_up, const TensorView& scratch,
                             const Rows& out);
  // out[r] = x[row_idx[r]].
  virtual void gather_rows(const TensorView& x, const TensorView& row_idx,
                           const TensorView& out) = 0;

  // --- latent attention
  // Rotates q_pe in place at its token's position. q_pe: [num_tokens, num_heads, rope_dim].
  virtual void rope(const TensorView& q_pe, const TensorView& positions,
                    const RopeTable& table) = 0;
  // Writes each token's latent [latent | rope] row into its page, in the pool's format.
  virtual void write_kv(const TensorView& latent, const StepState& state, const StepInputs& inputs,
                        const KvPool& pool, int64_t layer) = 0;
  // Rotates q_pe and the rope part of latent, then writes latent to the pages.
  virtual void rope_write_kv(const TensorView& q_pe, const TensorView& latent,
                             const StepState& state, const StepInputs& inputs,
                             const RopeTable& table, const KvPool& pool, int64_t layer);
  // Absorbed MLA: out[t, h] = W_UV[h] (softmax(q' . K) K[:latent]) with q'[t, h] =
  // [q_nope W_UK[h] | q_pe]. Tokens attend causally to their sequence's pages, which hold their own
  // KV already.
  virtual void mla_absorbed(const MlaCall& call) = 0;
  // The same function in the expanded form: K and V of every head are made from the pages.
  virtual void mla_expanded(const MlaCall& call) = 0;

  // --- mixture of experts
  // logits: F32 [num_tokens, num_experts]; bias: F32 [num_experts] or empty (added for choice
  // only). Writes topk_ids I32 and topk_weights F32, both [num_tokens, topk], best first; ties go
  // to the lower expert.
  virtual void route_experts(const TensorView& logits, const TensorView& bias,
                             const RoutingParams& params, const TensorView& topk_ids,
                             const TensorView& topk_weights) = 0;
  // The order in which experts take their rows, from topk_ids [num_tokens, topk].
  virtual void sort_by_expert(const TensorView& topk_ids, const ExpertRows& order) = 0;
  // out[i] = x[order.rows[i] / topk]: each token's row once per expert that it goes to.
  virtual void expand_rows(const TensorView& x, const ExpertRows& order, int64_t topk,
                           const TensorView& out) = 0;
  // Rows [offsets[g], offsets[g + 1]) of x times matrix g.
  virtual void grouped_linear(const TensorView& x, const GroupedLinearWeight& weight,
                              const TensorView& offsets, const TensorView& out) = 0;
  virtual void grouped_linear_swiglu(const TensorView& x, const GroupedLinearWeight& gate_up,
                                     const TensorView& offsets, const TensorView& scratch,
                                     const TensorView& out);
  // out[t] += sum_k topk_weights[t, k] * expert_out[where (t, k) lies], in order k = 0, 1, ...
  virtual void combine_experts(const TensorView& expert_out, const ExpertRows& order,
                               const TensorView& topk_weights, const TensorView& out) = 0;
  // out = shared(x) + sum_k topk_weights[k] * down(swiglu(gate_up(x))) over the token's experts.
  // The default chains the ops above through buffers that it allocates: a definition, not a fast
  // path.
  virtual void moe(const Rows& x, const MoeWeights& weights, const TensorView& topk_ids,
                   const TensorView& topk_weights, const TensorView& out);

  // --- sampling
  // For each row of logits (F32 [num_rows, vocab_size], changed in place): log-probabilities where
  // the slot asks for them, from the logits as given; then penalties, biases, and bans or the
  // slot's mask, which leaves at least one token; then the arg max (temperature 0) or a draw from
  // the top-k, top-p and min-p filtered distribution with the uniform number philox(seed,
  // num_outputs): the same whatever the batch. Logits that are not finite (broken weights) give
  // token 0 and are told in sampled.first_bad_row.
  //
  // A row with draft_idx j > 0 samples as if the j drafts before it were output already: they count
  // for penalties, min_tokens and the number of the draw. So what update_state accepts is, token
  // for token, what steps without drafts would have sampled. It is also exact rejection sampling: a
  // draft x is kept with probability p(x), and what comes in its place is p without x.
  // Relaxed and simulated acceptance (SlotSampling) put the draft in the place of the sampled
  // token. A slot with a mask has no drafts.
  virtual void sample(const StepState& state, const StepInputs& inputs, const TensorView& logits,
                      const SampledTokens& sampled) = 0;

  // --- drafts
  // An MTP module reads, at the position of token t, the token and the state that the main model
  // (level 0) had at the token before it. out[t] = states of the token before t: 0 at position 0;
  // the row before, where that is of the same sequence; else what keep_states left: in the page's
  // tail at a page's first position, else in carried_states. Tokens are those of inputs.token_slots
  // and positions; states, out: [num_tokens, hidden].
  virtual void shift_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                            int64_t level, const TensorView& states, const TensorView& out) = 0;
  // Keeps the states of tokens at a page's last position in the page's tail, and of the last token
  // of each run of one slot's tokens in carried_states. After shift_states.
  virtual void keep_states(const StepState& state, const StepInputs& inputs, const KvPool& pool,
                           int64_t level, const TensorView& states) = 0;
  // After update_state: fills all of `drafts` but the views that are the step's own (0 in padding
  // rows) and takes the slots' old drafts away.
  virtual void begin_drafts(const StepState& state, const StepInputs& inputs,
                            const SampledTokens& sampled, const DraftInputs& drafts) = 0;
  // The arg max of each sequence's logits (F32 [num_results, vocab]) becomes draft number
  // `draft_idx` of its slot, if the slot is to have so many, and the next token of drafts.chain,
  // or, where there are extra rows, of the sequence's verified rows: draft_rows go on to it.
  virtual void take_drafts(const StepState& state, const TensorView& logits, int64_t draft_idx,
                           const DraftInputs& drafts) = 0;
};

}  // namespace deepflight
