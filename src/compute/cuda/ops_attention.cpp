// Rope, the KV pages, and latent attention in both forms.
#include <utility>

#include "compute/cuda/impl.h"
#include "compute/cuda/kernels/attention/mla_absorb/launch.h"
#include "compute/cuda/kernels/attention/mla_decode/launch.h"
#include "compute/cuda/kernels/attention/mla_prefill/launch.h"
#include "compute/cuda/kernels/norm_rope/launch.h"
#include "compute/cuda/runtime/timeline.h"

namespace deepflight {
namespace {

PageFormat page_format(KvFormat format) {
  switch (format) {
    case KvFormat::kBF16:
      return PageFormat::kBF16;
    case KvFormat::kF8E4M3:
      return PageFormat::kF8E4M3;
    case KvFormat::kF8Group:
      return PageFormat::kF8Group;
    case KvFormat::kF32:
      break;
  }
  CHECK(false, "F32 KV is the CPU's");
  return PageFormat::kBF16;
}

void set_rope(const TensorView& q_pe, const TensorView& positions, const RopeTable& table,
              cuda_norm_rope::RopeProblem* problem) {
  CHECK(table.cos_sin.dim(1) == q_pe.dim(2), table.cos_sin.to_string(), q_pe.to_string());
  problem->num_tokens = q_pe.dim(0);
  problem->positions = positions.data<int32_t>();
  problem->cos_sin = table.cos_sin.data<float>();
  problem->rope_dim = q_pe.dim(2);
  problem->interleaved = table.interleaved;
  problem->num_heads = q_pe.dim(1);
  problem->q_pe = bf16(q_pe);
  problem->q_token_stride = q_pe.stride(0);
  problem->q_head_stride = q_pe.stride(1);
}

void set_pool(const TensorView& latent, const StepState& state, const StepInputs& inputs,
              const KvPool& pool, int64_t layer, cuda_norm_rope::RopeProblem* problem) {
  CHECK(latent.dim(1) == pool.token_dim, latent.to_string(), pool.token_dim);
  problem->num_tokens = latent.dim(0);
  problem->positions = inputs.positions.data<int32_t>();
  problem->latent = bf16(latent);
  problem->latent_stride = latent.stride(0);
  problem->pool.base = pool.base;
  problem->pool.format = page_format(pool.format);
  CHECK(layer < pool.num_layers, layer, pool.num_layers);
  problem->pool.page_stride_bytes = pool.page_stride_bytes();
  problem->pool.layer = layer;
  problem->pool.token_dim = pool.token_dim;
  problem->pool.rope_dim = pool.rope_dim;
  problem->pool.scale = pool.scale(layer);
  problem->pool.token_slots = inputs.token_slots.data<int32_t>();
  problem->pool.page_table = state.page_table.data<int32_t>();
  problem->pool.page_table_stride = state.page_table.stride(0);
}

// What both forms of attention are told: widths, sequences and where their pages lie.
template <typename Problem>
Problem attention_problem(const MlaCall& call) {
  Problem problem;
  problem.num_heads = call.kv_up.num_heads;
  problem.latent_dim = call.kv_up.latent_dim;
  problem.rope_dim = call.pool.token_dim - call.kv_up.latent_dim;
  problem.softmax_scale = call.softmax_scale;
  problem.first_key = call.first_key;
  problem.num_sequences = call.batch.num_sequences;
  problem.slots = call.batch.slots.data<int32_t>();
  problem.pool = call.pool.base;
  problem.page_stride_bytes = call.pool.page_stride_bytes();
  problem.layer_offset_bytes = call.layer * call.pool.layer_stride_bytes();
  problem.format = page_format(call.pool.format);
  problem.kv_scale = call.pool.scale(call.layer);
  problem.page_table = call.state.page_table.data<int32_t>();
  problem.page_table_stride = call.state.page_table.stride(0);
  return problem;
}

// Room for a step's queries: [num_tokens, heads, latent + rope].
TensorView absorbed_queries(ScratchArena& arena, int64_t num_tokens, int64_t num_heads,
                            int64_t token_dim) {
  return TensorView(arena.get(num_tokens * num_heads * token_dim * 2), DType::kBF16,
                    {num_tokens, num_heads, token_dim});
}

// out[t, h] = w[h] x[t, h]. x: [tokens, heads, k], out: [tokens, heads, n], w: [n, k], dense, each
// head's `w_head_stride` elements behind the one before.
Bf16GemmProblem product_per_head(const TensorView& x, const void* w, int64_t w_head_stride,
                                 const TensorView& out) {
  Bf16GemmProblem product;
  product.x = x.raw();
  product.x_stride = x.stride(0);
  product.x_batch_stride = x.stride(1);
  product.w = w;
  product.w_stride = x.dim(2);
  product.w_batch_stride = w_head_stride;
  product.out = out.raw();
  product.out_stride = out.stride(0);
  product.out_batch_stride = out.stride(1);
  product.m = x.dim(0);
  product.n = out.dim(2);
  product.k = x.dim(2);
  product.batch = x.dim(1);
  return product;
}

cuda_mla_decode::MlaDecodeProblem decode_problem(const MlaCall& call) {
  const AttentionBatch& batch = call.batch;
  auto problem = attention_problem<cuda_mla_decode::MlaDecodeProblem>(call);
  problem.num_tokens = call.q.dim(0);
  problem.query_offsets = batch.query_offsets.data<int32_t>();
  problem.kv_lens = batch.kv_lens.data<int32_t>();
  problem.num_pages = call.pool.num_pages;
  return problem;
}

// What an e4m3 pool's kernel wants: the same as e4m3 with a scale a row. False where the kernel
// that makes it does not take the model.
bool absorb_fp8(const MlaCall& call, const void* w_uk, ScratchArena& arena, cudaStream_t stream,
                cuda_mla_decode::MlaDecodeProblem* decode) {
  if (call.pool.format != KvFormat::kF8E4M3) return false;
  const KvUpWeight& up = call.kv_up;
  cuda_mla_absorb::MlaAbsorbProblem problem;
  problem.num_tokens = call.q.dim(0);
  problem.num_heads = up.num_heads;
  problem.q = call.q.raw();
  problem.q_stride = call.q.stride(0);
  problem.q_head_stride = call.q.stride(1);
  problem.w_uk = w_uk;
  if (!cuda_mla_absorb::mla_absorb_fits(problem, up.nope_dim, up.latent_dim,
                                        call.pool.token_dim - up.latent_dim)) {
    return false;
  }
  const int64_t num_rows = problem.num_tokens * problem.num_heads;
  problem.out = static_cast<uint8_t*>(arena.get(num_rows * (call.pool.token_dim + 4)));
  problem.scales = reinterpret_cast<float*>(problem.out + num_rows * call.pool.token_dim);
  cuda_mla_absorb::launch_mla_absorb(problem, stream);
  decode->q = problem.out;
  decode->query_scales = problem.scales;
  decode->q_head_stride = call.pool.token_dim;
  decode->q_stride = up.num_heads * call.pool.token_dim;
  return true;
}

cuda_mla_prefill::MlaPrefillProblem prefill_problem(const MlaCall& call, int64_t kv_chunk_tokens) {
  const AttentionBatch& batch = call.batch;
  CHECK(batch.host_query_offsets != nullptr && batch.host_kv_lens != nullptr,
        "expanded attention needs the lengths on the host");
  auto problem = attention_problem<cuda_mla_prefill::MlaPrefillProblem>(call);
  problem.nope_dim = call.kv_up.nope_dim;
  problem.v_dim = call.kv_up.v_dim;
  problem.host_query_offsets = batch.host_query_offsets;
  problem.host_kv_lens = batch.host_kv_lens;
  problem.q = bf16(call.q);
  problem.q_stride = call.q.stride(0);
  problem.q_head_stride = call.q.stride(1);
  problem.out = bf16(call.out);
  problem.out_stride = call.out.stride(0);
  problem.kv_chunk_tokens = kv_chunk_tokens;
  return problem;
}

}  // namespace

void CudaBackend::rope(const TensorView& q_pe, const TensorView& positions,
                       const RopeTable& table) {
  const TimelineRange range("rope");
  cuda_norm_rope::RopeProblem problem;
  set_rope(q_pe, positions, table, &problem);
  cuda_norm_rope::rope_write_kv(problem, impl_->main.stream.get());
}

void CudaBackend::write_kv(const TensorView& latent, const StepState& state,
                           const StepInputs& inputs, const KvPool& pool, int64_t layer) {
  const TimelineRange range("write_kv");
  cuda_norm_rope::RopeProblem problem;
  set_pool(latent, state, inputs, pool, layer, &problem);
  cuda_norm_rope::rope_write_kv(problem, impl_->main.stream.get());
}

void CudaBackend::rope_write_kv(const TensorView& q_pe, const TensorView& latent,
                                const StepState& state, const StepInputs& inputs,
                                const RopeTable& table, const KvPool& pool, int64_t layer) {
  const TimelineRange range("rope_write_kv");
  cuda_norm_rope::RopeProblem problem;
  set_rope(q_pe, inputs.positions, table, &problem);
  set_pool(latent, state, inputs, pool, layer, &problem);
  // Of an e4m3 pool the absorbing kernel takes q_pe too.
  if (inputs.num_absorbed_tokens > 0 && pool.format != KvFormat::kF8E4M3) {
    const TensorView queries = absorbed_queries(impl_->absorbed_query, inputs.num_absorbed_tokens,
                                                q_pe.dim(1), pool.token_dim);
    problem.num_copied = inputs.num_absorbed_tokens;
    problem.q_copy = bf16(queries) + pool.token_dim - q_pe.dim(2);
    problem.copy_token_stride = queries.stride(0);
    problem.copy_head_stride = queries.stride(1);
    impl_->rope_copy_of = q_pe.raw();
  }
  cuda_norm_rope::rope_write_kv(problem, impl_->main.stream.get());
}

TensorView CudaBackend::Impl::absorb_query(const MlaCall& call, const void* w_uk) {
  const KvUpWeight& up = call.kv_up;
  const int64_t rope_dim = call.pool.token_dim - up.latent_dim;
  const TensorView queries =
      absorbed_queries(absorbed_query, call.q.dim(0), up.num_heads, call.pool.token_dim);
  const TensorView q_pe = call.q.slice(2, up.nope_dim, rope_dim);
  if (std::exchange(rope_copy_of, nullptr) != q_pe.raw()) {
    // rope_write_kv has not been here. A token's heads are dense, so rows are (token, head).
    CHECK(q_pe.stride(0) == up.num_heads * q_pe.stride(1), q_pe.to_string());
    CUDA_CHECK(cudaMemcpy2DAsync(bf16(queries) + up.latent_dim, queries.stride(1) * 2, bf16(q_pe),
                                 q_pe.stride(1) * 2, rope_dim * 2, q_pe.dim(0) * up.num_heads,
                                 cudaMemcpyDeviceToDevice, main.stream.get()));
  }
  launch(main, product_per_head(call.q.slice(2, 0, up.nope_dim), w_uk, up.latent_dim * up.nope_dim,
                                queries.slice(2, 0, up.latent_dim)));
  return queries;
}

TensorView CudaBackend::Impl::attend_absorbed(cuda_mla_decode::MlaDecodeProblem problem) {
  TensorView out;
  const auto carve = [&](Carver& carver) {
    out = carver.take(DType::kBF16, {problem.num_tokens, problem.num_heads, problem.latent_dim});
    problem.scratch = carver.take_bytes(cuda_mla_decode::mla_decode_scratch_bytes());
  };
  Carver measure(nullptr);
  carve(measure);
  Carver carver(main.op.get(measure.used_bytes()));
  carve(carver);
  problem.out = out.raw();
  problem.out_stride = out.stride(0);
  problem.out_head_stride = out.stride(1);
  problem.batch_invariant = config.batch_invariant;
  if (cuda_mla_decode::mla_decode_is_fast(problem)) {
    void* metadata = mla_metadata.get(cuda_mla_decode::mla_decode_metadata_bytes(
        problem.num_sequences, problem.num_tokens, problem.num_heads));
    if (!std::exchange(mla_metadata_ready, true)) {
      const TimelineRange range("mla_schedule");
      cuda_mla_decode::prepare_mla_decode(problem, metadata, main.stream.get());
    }
    problem.metadata = metadata;
  }
  const TimelineRange range("mla_decode");
  cuda_mla_decode::launch_mla_decode(problem, main.stream.get());
  return out;
}

void CudaBackend::mla_absorbed(const MlaCall& call) {
  const KvUpWeight& up = call.kv_up;
  CHECK(call.q.dim(1) == up.num_heads &&
            call.q.dim(2) == up.nope_dim + call.pool.token_dim - up.latent_dim &&
            call.out.dim(1) == up.num_heads * up.v_dim,
        call.q.to_string(), call.out.to_string(), up.num_heads, up.nope_dim, call.pool.token_dim);
  if (call.q.dim(0) == 0) return;
  const auto& weights = cuda::packed_kv_up(up);
  const void* w_uk = weights.absorb_k.data();
  auto problem = decode_problem(call);
  {
    const TimelineRange range("absorb_q");
    if (!absorb_fp8(call, w_uk, impl_->absorbed_query, impl_->main.stream.get(), &problem)) {
      const TensorView queries = impl_->absorb_query(call, w_uk);
      problem.q = queries.raw();
      problem.q_stride = queries.stride(0);
      problem.q_head_stride = queries.stride(1);
    }
  }
  const TensorView latent_out = impl_->attend_absorbed(problem);
  const TimelineRange range("absorb_v");
  const auto* w_uv =
      static_cast<const uint16_t*>(weights.expand.data()) + up.nope_dim * up.latent_dim;
  impl_->launch(impl_->main,
                product_per_head(latent_out, w_uv, (up.nope_dim + up.v_dim) * up.latent_dim,
                                 call.out.split_last(up.num_heads, up.v_dim)));
}

void CudaBackend::mla_expanded(const MlaCall& call) {
  const TimelineRange range("mla_prefill");
  auto problem = prefill_problem(call, impl_->config.kv_chunk_tokens);
  problem.scratch =
      impl_->main.op.get(cuda_mla_prefill::mla_prefill_scratch_bytes(problem, call.q.dim(0)));
  const auto& kv_up = cuda::packed_kv_up(call.kv_up);
  const auto expand = [&](const void* x, int64_t x_stride, void* out, int64_t out_stride,
                          int64_t num_rows) {
    Bf16GemmProblem product;
    product.x = x;
    product.x_stride = x_stride;
    product.w = kv_up.expand.data();
    product.w_stride = call.kv_up.latent_dim;
    product.out = out;
    product.out_stride = out_stride;
    product.m = num_rows;
    product.n = call.kv_up.num_heads * (call.kv_up.nope_dim + call.kv_up.v_dim);
    product.k = call.kv_up.latent_dim;
    impl_->launch(impl_->main, product);
  };
  cuda_mla_prefill::launch_mla_prefill(problem, expand, impl_->main.stream.get());
}

}  // namespace deepflight
