// Online softmax over pages; see paged_softmax.h.
#include "compute/cpu/paged_softmax.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "compute/cpu/gemm.h"
#include "compute/cpu/math.h"
#include "compute/cpu/scratch.h"
#include "compute/ops/kv_token.h"

namespace deepflight::cpu {
namespace {

// Turns a row's scores of one page into probabilities relative to the running maximum (zero outside
// [begin, end)), and returns the factor for what was summed before.
float softmax_page(float* scores, int64_t begin, int64_t end, float scale, float* running_maximum,
                   float* running_sum) {
  float maximum = *running_maximum;
  for (int64_t i = begin; i < end; ++i) maximum = std::max(maximum, scores[i] * scale);
  const float correction =
      std::isinf(*running_maximum) ? 0.0f : fast_exp(*running_maximum - maximum);
  for (int64_t i = begin; i < end; ++i) scores[i] = fast_exp(scores[i] * scale - maximum);
  std::fill(scores, scores + begin, 0.0f);
  std::fill(scores + end, scores + kPage, 0.0f);
  float lanes[8] = {};
  for (int64_t i = 0; i < kPage; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += scores[i + lane];
  }
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  *running_sum = *running_sum * correction + sum;
  *running_maximum = maximum;
  return correction;
}

void scale_and_add(float* total, float factor, const float* addend, int64_t count) {
  for (int64_t i = 0; i < count; ++i) total[i] = total[i] * factor + addend[i];
}

}  // namespace

char* page_address(const KvPool& pool, int32_t page, int64_t layer) {
  CHECK(page >= 0 && page < pool.num_pages, page, pool.num_pages);
  return static_cast<char*>(pool.base) + page * pool.page_stride_bytes() +
         layer * pool.layer_stride_bytes();
}

const float* load_page(const KvPool& pool, int32_t page, int64_t layer, int64_t num_valid) {
  const char* source = page_address(pool, page, layer);
  if (pool.format == KvFormat::kF32 && num_valid >= kPage) {
    return reinterpret_cast<const float*>(source);
  }
  thread_local std::vector<float> copy;
  float* rows = at_least(copy, kPage * pool.token_dim);
  const int64_t count = std::min(num_valid, kPage);
  for (int64_t i = 0; i < count; ++i) {
    load_kv_token(pool, layer, source + i * pool.token_bytes(), rows + i * pool.token_dim);
  }
  std::fill(rows + count * pool.token_dim, rows + kPage * pool.token_dim, 0.0f);
  return rows;
}

void QueryRows::reset(int64_t v_dim) const {
  std::fill_n(outputs, num_rows * v_dim, 0.0f);
  std::fill_n(maxima, num_rows, -INFINITY);
  std::fill_n(sums, num_rows, 0.0f);
}

void attend_page(const PageView& page, float scale, const QueryRows& rows) {
  thread_local std::vector<float> score_buffer, product_buffer, factor_buffer;
  float* scores = at_least(score_buffer, rows.num_rows * kPage);
  float* products = at_least(product_buffer, rows.num_rows * page.v_dim);
  float* factors = at_least(factor_buffer, rows.num_rows);
  multiply_small({kPage, page.qk_dim, true}, rows.num_rows, rows.queries, page.keys, scores);
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    float* row_scores = scores + row * kPage;
    const int64_t begin = std::max<int64_t>(page.first_key - page.first_position, 0);
    const int64_t end = std::clamp<int64_t>(rows.position(row) - page.first_position + 1, 0, kPage);
    if (end <= begin) {  // adds nothing: zero probabilities, what was summed stays
      std::fill_n(row_scores, kPage, 0.0f);
      factors[row] = 1.0f;
    } else {
      factors[row] =
          softmax_page(row_scores, begin, end, scale, rows.maxima + row, rows.sums + row);
    }
  }
  multiply_small({page.v_dim, kPage, false}, rows.num_rows, scores, page.values, products);
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    scale_and_add(rows.outputs + row * page.v_dim, factors[row], products + row * page.v_dim,
                  page.v_dim);
  }
}

}  // namespace deepflight::cpu
