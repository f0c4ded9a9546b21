// Expanded latent attention: K and V of every head are made from the pages, some pages at a time so
// that memory stays bounded, and queries run over them head by head.
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

constexpr int64_t kMaxExpandedBytes = 64 << 20;  // of K and V at once

// The widths of the expanded form.
struct Widths {
  explicit Widths(const MlaCall& call)
      : heads(call.kv_up.num_heads),
        nope(call.kv_up.nope_dim),
        rope(call.pool.token_dim - call.kv_up.latent_dim),
        qk(nope + rope),
        v(call.kv_up.v_dim) {}
  int64_t heads, nope, rope, qk, v;

  int64_t page_bytes() const { return heads * kPage * (qk + v) * int64_t{sizeof(float)}; }
};

// One page to keys [heads][64][qk] and values [heads][64][v].
void expand_page(const MlaCall& call, const Widths& widths, const float* latent, float* keys,
                 float* values) {
  const auto& weight = cpu::packed_kv_up(call.kv_up).expand;
  const int64_t token_dim = call.pool.token_dim;
  const int64_t head_dim = widths.nope + widths.v;
  const int64_t row_dim = widths.heads * head_dim;
  thread_local std::vector<float> buffer;
  float* expanded = at_least(buffer, kPage * row_dim);
  for (int64_t panel = 0; panel < weight.num_panels(); ++panel) {
    weight.multiply_panel(panel, latent, token_dim, kPage, expanded, row_dim);
  }
  for (int64_t head = 0; head < widths.heads; ++head) {
    for (int64_t i = 0; i < kPage; ++i) {
      const float* source = expanded + i * row_dim + head * head_dim;
      float* key = keys + (head * kPage + i) * widths.qk;
      std::memcpy(key, source, widths.nope * sizeof(float));
      std::memcpy(key + widths.nope, latent + i * token_dim + call.kv_up.latent_dim,
                  widths.rope * sizeof(float));
      std::memcpy(values + (head * kPage + i) * widths.v, source + widths.nope,
                  widths.v * sizeof(float));
    }
  }
}

}  // namespace

void CpuBackend::mla_expanded(const MlaCall& call) {
  CHECK(call.q.dim(1) == call.kv_up.num_heads && call.q.dim(2) == Widths(call).qk,
        call.q.to_string(), call.kv_up.num_heads);
  for (int64_t sequence = 0; sequence < call.batch.num_sequences; ++sequence) {
    expand_and_attend(call, sequence);
  }
}

void CpuBackend::expand_and_attend(const MlaCall& call, int64_t sequence) {
  const Widths widths(call);
  const int64_t begin = call.batch.query_offsets.data<int32_t>()[sequence];
  const int64_t num_tokens = call.batch.query_offsets.data<int32_t>()[sequence + 1] - begin;
  const int64_t kv_len = call.batch.kv_lens.data<int32_t>()[sequence];
  const int32_t slot = call.batch.slots.data<int32_t>()[sequence];
  const int32_t* page_table = call.state.page_table.row<int32_t>(slot);
  const int64_t num_pages = (kv_len + kPage - 1) / kPage;
  const int64_t group_size =
      std::clamp<int64_t>(kMaxExpandedBytes / widths.page_bytes(), 1, num_pages);
  const int64_t num_rows = widths.heads * num_tokens;  // head-major: (head, token)

  auto& scratch = *attention_;
  float* queries = at_least(scratch.queries, num_rows * widths.qk);
  float* keys = at_least(scratch.keys, group_size * widths.heads * kPage * widths.qk);
  float* values = at_least(scratch.values, group_size * widths.heads * kPage * widths.v);
  const cpu::QueryRows all = {queries,
                              num_rows,
                              kv_len - num_tokens,
                              0,
                              1,
                              at_least(scratch.outputs, num_rows * widths.v),
                              at_least(scratch.maxima, num_rows),
                              at_least(scratch.sums, num_rows)};
  all.reset(widths.v);
  for (int64_t token = 0; token < num_tokens; ++token) {
    for (int64_t head = 0; head < widths.heads; ++head) {
      std::memcpy(queries + (head * num_tokens + token) * widths.qk,
                  call.q.row<float>(begin + token) + head * call.q.stride(1),
                  widths.qk * sizeof(float));
    }
  }

  const int64_t num_tiles = (num_tokens + cpu::kQueryTile - 1) / cpu::kQueryTile;
  for (int64_t group = 0; group < num_pages; group += group_size) {
    const int64_t count = std::min(group_size, num_pages - group);
    pool_.parallel_for(count, [&](int64_t index) {
      const int64_t page = group + index;
      const float* latent =
          cpu::load_page(call.pool, page_table[page], call.layer, kv_len - page * kPage);
      expand_page(call, widths, latent, keys + index * widths.heads * kPage * widths.qk,
                  values + index * widths.heads * kPage * widths.v);
    });
    pool_.parallel_for(widths.heads * num_tiles, [&](int64_t task) {
      const int64_t head = task % widths.heads;
      const int64_t first = task / widths.heads * cpu::kQueryTile;
      const int64_t row = head * num_tokens + first;
      const cpu::QueryRows rows = {queries + row * widths.qk,
                                   std::min(cpu::kQueryTile, num_tokens - first),
                                   all.first_position,
                                   first,
                                   1,
                                   all.outputs + row * widths.v,
                                   all.maxima + row,
                                   all.sums + row};
      for (int64_t index = 0; index < count; ++index) {
        const int64_t page_start = (group + index) * kPage;
        if (page_start > rows.last_position()) break;
        const int64_t block = (index * widths.heads + head) * kPage;
        cpu::attend_page({keys + block * widths.qk, values + block * widths.v, widths.qk, widths.v,
                          page_start, call.first_key},
                         call.softmax_scale, rows);
      }
    });
  }
  for_rows(num_tokens, widths.heads * widths.v, [&](int64_t token) {
    for (int64_t head = 0; head < widths.heads; ++head) {
      const int64_t row = head * num_tokens + token;
      float* target = call.out.row<float>(begin + token) + head * widths.v;
      const float sum = all.sums[row] > 0.0f ? all.sums[row] : 1.0f;
      for (int64_t i = 0; i < widths.v; ++i) target[i] = all.outputs[row * widths.v + i] / sum;
    }
  });
}

}  // namespace deepflight
