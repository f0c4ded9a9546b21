#include "compute/cuda/kernels/attention/mla_prefill/launch.h"

#include "base/check.h"
#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/kernels/attention/mla_prefill/plan.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight::cuda_mla_prefill {
namespace {

constexpr int64_t kAlignment = 1024;
constexpr int64_t kBf16Bytes = 2;

// Where the parts of the scratch memory lie.
struct ScratchLayout {
  ScratchLayout(const MlaPrefillProblem& p, int64_t num_tokens) {
    latent = take(p.kv_chunk_tokens * p.latent_dim * kBf16Bytes);
    k_pe = take(p.kv_chunk_tokens * p.rope_dim * kBf16Bytes);
    expanded = take(p.kv_chunk_tokens * p.num_heads * (p.nope_dim + p.v_dim) * kBf16Bytes);
    lse = take(num_tokens * p.num_heads * static_cast<int64_t>(sizeof(float)));
    counter = take(sizeof(int32_t));
  }
  int64_t latent, k_pe, expanded, lse, counter;
  int64_t total = 0;

 private:
  int64_t take(int64_t bytes) {
    const int64_t offset = total;
    total += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
};

void check_problem(const MlaPrefillProblem& p) {
  CHECK(p.num_heads > 0 && p.latent_dim > 0 && p.rope_dim > 0 && p.nope_dim > 0 && p.v_dim > 0,
        p.num_heads, p.latent_dim, p.rope_dim, p.nope_dim, p.v_dim);
  CHECK(p.kv_chunk_tokens >= kKeyTile && p.kv_chunk_tokens % kKeyTile == 0, p.kv_chunk_tokens);
  CHECK(p.first_key >= 0 && p.first_key <= kPageTokens, p.first_key);
  CHECK(p.q_head_stride >= p.nope_dim + p.rope_dim && p.q_stride >= p.nope_dim + p.rope_dim &&
            p.out_stride >= p.num_heads * p.v_dim,
        p.q_stride, p.q_head_stride, p.out_stride);
  CHECK(p.scratch != nullptr && reinterpret_cast<uintptr_t>(p.scratch) % 256 == 0);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t query_len = p.host_query_offsets[s + 1] - p.host_query_offsets[s];
    CHECK(query_len >= 0 && query_len <= p.host_kv_lens[s], s, query_len, p.host_kv_lens[s]);
    CHECK(p.host_kv_lens[s] <= p.page_table_stride * kPageTokens, s, p.host_kv_lens[s],
          p.page_table_stride);
  }
}

}  // namespace

int64_t mla_prefill_scratch_bytes(const MlaPrefillProblem& shape, int64_t num_tokens) {
  return ScratchLayout(shape, num_tokens).total;
}

void launch_mla_prefill(const MlaPrefillProblem& problem, const ExpandFn& expand,
                        cudaStream_t stream, Kernel kernel) {
  const MlaPrefillProblem& p = problem;
  if (p.num_sequences == 0) return;
  check_problem(p);
  const int64_t num_tokens = p.host_query_offsets[p.num_sequences];
  const ScratchLayout layout(p, num_tokens);
  uint8_t* scratch = static_cast<uint8_t*>(p.scratch);
  const bool fast = kernel == Kernel::kDefault && fast_kernel_fits(p);
  const int64_t expanded_width = p.num_heads * (p.nope_dim + p.v_dim);
  auto* counter = reinterpret_cast<int32_t*>(scratch + layout.counter);
  const AttendProblem attend = {p.q,
                                p.q_stride,
                                p.q_head_stride,
                                scratch + layout.expanded,
                                scratch + layout.k_pe,
                                p.out,
                                p.out_stride,
                                reinterpret_cast<float*>(scratch + layout.lse),
                                counter,
                                num_tokens,
                                static_cast<int32_t>(p.num_heads),
                                static_cast<int32_t>(p.nope_dim),
                                static_cast<int32_t>(p.rope_dim),
                                static_cast<int32_t>(p.v_dim),
                                p.softmax_scale,
                                static_cast<int32_t>(p.first_key)};
  ChunkPlanner planner(p, fast ? kQueryTile : 1);
  Chunk chunk;
  while (planner.next(chunk)) {
    launch_gather(p, chunk, scratch + layout.latent, scratch + layout.k_pe, counter, stream);
    CUDA_CHECK(cudaGetLastError());
    expand(scratch + layout.latent, p.latent_dim, scratch + layout.expanded, expanded_width,
           chunk.num_rows);
    if (fast) {
      const DeviceInfo& device = DeviceInfo::current();
      CUDA_CHECK(launch_attend_wgmma(attend, chunk, device.num_sms, device.l2_bytes, stream));
    } else {
      launch_attend_generic(attend, chunk, stream);
    }
    CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace deepflight::cuda_mla_prefill
