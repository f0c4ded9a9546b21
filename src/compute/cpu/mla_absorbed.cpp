// Absorbed latent attention: queries go to the latent space, where K and V of all heads are the
// pages themselves. Rows of the working arrays are (token, head), so a token's heads share a page's
// product.
#include <algorithm>
#include <cstring>
#include <vector>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/packed.h"
#include "compute/cpu/paged_softmax.h"
#include "compute/cpu/scratch.h"

namespace deepflight {
namespace {

using cpu::at_least;
using cpu::kPage;

// Rows [first_row, first_row + num_rows) of one sequence.
struct RowTask {
  int64_t sequence;
  int64_t first_row;
  int64_t num_rows;
};

// Cuts the batch so that every thread has work, in tiles of one sequence each.
void make_tasks(const AttentionBatch& batch, int64_t num_heads, int num_threads,
                std::vector<RowTask>* tasks) {
  tasks->clear();
  const auto* offsets = batch.query_offsets.data<int32_t>();
  const int64_t num_rows = offsets[batch.num_sequences] * num_heads;
  const int64_t tile =
      std::clamp<int64_t>((num_rows + num_threads - 1) / num_threads, 1, cpu::kQueryTile);
  for (int64_t sequence = 0; sequence < batch.num_sequences; ++sequence) {
    const int64_t end = offsets[sequence + 1] * num_heads;
    for (int64_t row = offsets[sequence] * num_heads; row < end; row += tile) {
      tasks->push_back({sequence, row, std::min(tile, end - row)});
    }
  }
}

// [q_nope W_UK | q_pe] of one head, for all tokens.
void absorb_query(const MlaCall& call, int64_t head, float* queries) {
  const KvUpWeight& kv_up = call.kv_up;
  const int64_t dim = call.pool.token_dim;
  const float* source = call.q.data<float>() + head * call.q.dim(2);
  const auto& weight = cpu::packed_kv_up(kv_up).absorb_k[head];
  for (int64_t panel = 0; panel < weight.num_panels(); ++panel) {
    weight.multiply_panel(panel, source, call.q.stride(0), call.q.dim(0), queries + head * dim,
                          kv_up.num_heads * dim);
  }
  const int64_t rope_dim = dim - kv_up.latent_dim;
  for (int64_t token = 0; token < call.q.dim(0); ++token) {
    std::memcpy(queries + (token * kv_up.num_heads + head) * dim + kv_up.latent_dim,
                source + token * call.q.stride(0) + kv_up.nope_dim, rope_dim * sizeof(float));
  }
}

// All pages of the rows' sequence, then the normalisation. K doubles as V: of the outputs' columns
// only the latent ones mean something.
void attend(const MlaCall& call, int64_t sequence, const cpu::QueryRows& rows) {
  const int64_t dim = call.pool.token_dim;
  const int64_t kv_len = call.batch.kv_lens.data<int32_t>()[sequence];
  const int32_t slot = call.batch.slots.data<int32_t>()[sequence];
  if (slot < 0) {  // padding
    std::fill_n(rows.outputs, rows.num_rows * dim, 0.0f);
    return;
  }
  const int32_t* pages = call.state.page_table.row<int32_t>(slot);
  rows.reset(dim);
  for (int64_t page = 0; page <= rows.last_position() / kPage; ++page) {
    const float* latent = cpu::load_page(call.pool, pages[page], call.layer, kv_len - page * kPage);
    cpu::attend_page({latent, latent, dim, dim, page * kPage, call.first_key}, call.softmax_scale,
                     rows);
  }
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    const float inverse = rows.sums[row] > 0.0f ? 1.0f / rows.sums[row] : 0.0f;
    float* values = rows.outputs + row * dim;
    for (int64_t i = 0; i < call.kv_up.latent_dim; ++i) values[i] *= inverse;
  }
}

}  // namespace

void CpuBackend::mla_absorbed(const MlaCall& call) {
  const TensorView& q = call.q;
  const TensorView& out = call.out;
  const KvUpWeight& kv_up = call.kv_up;
  const AttentionBatch& batch = call.batch;
  const int64_t num_heads = kv_up.num_heads;
  const int64_t dim = call.pool.token_dim;
  CHECK(q.dim(1) == num_heads && q.dim(2) == kv_up.nope_dim + dim - kv_up.latent_dim &&
            q.stride(1) == q.dim(2),
        q.to_string(), num_heads, dim);
  if (q.dim(0) == 0) return;
  auto& scratch = *attention_;
  const int64_t num_rows = q.dim(0) * num_heads;
  float* queries = at_least(scratch.queries, num_rows * dim);
  float* outputs = at_least(scratch.outputs, num_rows * dim);
  float* maxima = at_least(scratch.maxima, num_rows);
  float* sums = at_least(scratch.sums, num_rows);

  pool_.parallel_for(num_heads, [&](int64_t head) { absorb_query(call, head, queries); });

  thread_local std::vector<RowTask> task_buffer;
  make_tasks(batch, num_heads, pool_.num_threads(), &task_buffer);
  const auto& tasks = task_buffer;  // the lambda runs on threads with buffers of their own
  const auto* offsets = batch.query_offsets.data<int32_t>();
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index) {
    const RowTask& task = tasks[index];
    const int64_t begin = offsets[task.sequence];
    const int64_t num_queries = offsets[task.sequence + 1] - begin;
    const int64_t row = task.first_row;
    attend(call, task.sequence,
           {queries + row * dim, task.num_rows,
            batch.kv_lens.data<int32_t>()[task.sequence] - num_queries, row - begin * num_heads,
            num_heads, outputs + row * dim, maxima + row, sums + row});
  });

  pool_.parallel_for(num_heads, [&](int64_t head) {
    const auto& weight = cpu::packed_kv_up(kv_up).absorb_v[head];
    for (int64_t panel = 0; panel < weight.num_panels(); ++panel) {
      weight.multiply_panel(panel, outputs + head * dim, num_heads * dim, q.dim(0),
                            out.data<float>() + head * kv_up.v_dim, out.stride(0));
    }
  });
}

}  // namespace deepflight
