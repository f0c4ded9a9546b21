// A paged pool with the tokens of some sequences, their queries, and what expanded attention makes
// of them, in float64 on the host and by the kernels; NaN in everything that must not be read.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "compute/cuda/kernels/attention/mla_prefill/launch.h"
#include "compute/cuda/kernels/attention/mla_prefill/testing/test_product.h"
#include "compute/cuda/primitives/page_testing.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_prefill {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Sequence {
  int64_t kv_len;
  int64_t query_len;
};

struct World {
  int64_t heads = 4;
  int64_t latent = 512;
  int64_t rope = 64;
  int64_t nope = 128;
  int64_t v = 128;
  PageFormat format = PageFormat::kBF16;
  float scale = 0.1f;
  int64_t first_key = 0;
  int64_t chunk_tokens = 1024;
  std::vector<Sequence> sequences;
};

inline constexpr int64_t kLayers = 3;
inline constexpr int64_t kLayer = 1;
inline constexpr float kKvScale = 0.0173f;
inline constexpr int64_t kPadding = 8;  // elements after each row of q and out

class MlaPrefillCase {
 public:
  explicit MlaPrefillCase(const World& world)
      : w_(world), qk_(w_.nope + w_.rope), q_stride_(w_.heads * qk_ + kPadding) {
    offsets_.push_back(0);
    for (const Sequence& sequence : w_.sequences) {
      offsets_.push_back(offsets_.back() + static_cast<int32_t>(sequence.query_len));
      kv_lens_.push_back(static_cast<int32_t>(sequence.kv_len));
      num_pages_ += pages_of(sequence.kv_len);
      max_pages_ = std::max(max_pages_, pages_of(sequence.kv_len) + 2);
    }
    num_tokens_ = offsets_.back();
    make_pool();
    weight_ = std::make_unique<DeviceArray<uint16_t>>(w_.heads * (w_.nope + w_.v) * w_.latent);
    launch_test_random(weight_->data(), weight_->size(),
                       1.0f / std::sqrt(static_cast<float>(w_.latent)), 7, nullptr);
    weight_host_ = weight_->host();
    q_ = std::make_unique<DeviceArray<uint16_t>>((num_tokens_ + 1) * q_stride_);
    launch_test_random(q_->data(), q_->size(), 1.0f, 8, nullptr);
    q_host_ = q_->host();
    for (int64_t t = 0; t < num_tokens_; ++t) {  // NaN after each row
      CUDA_CHECK(cudaMemset(q_->data() + t * q_stride_ + w_.heads * qk_, 0xff, kPadding * 2));
    }
    CUDA_CHECK(cudaMemset(q_->data() + num_tokens_ * q_stride_, 0xff, q_stride_ * 2));
  }

  // Runs and returns out [num_tokens, heads * v]; checks that nothing else was written.
  std::vector<float> run(Kernel kernel) const {
    const int64_t width = w_.heads * w_.v, out_stride = width + kPadding;
    const DeviceArray<uint16_t> out((num_tokens_ + 1) * out_stride);
    MlaPrefillProblem p = problem();
    p.out = out.data();
    p.out_stride = out_stride;
    launch(p, kernel);
    const std::vector<uint16_t> bits = out.host();
    std::vector<float> values;
    int64_t stray = 0;
    for (int64_t t = 0; t <= num_tokens_; ++t) {
      for (int64_t i = 0; i < out_stride; ++i) {
        const uint16_t value = bits[t * out_stride + i];
        if (t < num_tokens_ && i < width) {
          values.push_back(bf16_to_f32(value));
        } else if (value != 0xffff) {
          ++stray;
        }
      }
    }
    EXPECT_EQ(stray, 0) << "elements written outside the output";
    return values;
  }

  // Some queries of a sequence, with all that is before them as their past.
  struct Part {
    int64_t sequence, first_query, num_queries;
  };
  // Outputs [queries of all parts, heads * v] of a step of these alone.
  std::vector<uint16_t> run(const std::vector<Part>& parts, Kernel kernel) const {
    std::vector<int32_t> offsets{0}, kv_lens;
    std::vector<int32_t> slots;
    std::vector<uint16_t> q;
    for (const auto& [s, first, count] : parts) {
      offsets.push_back(offsets.back() + static_cast<int32_t>(count));
      kv_lens.push_back(
          static_cast<int32_t>(w_.sequences[s].kv_len - w_.sequences[s].query_len + first + count));
      slots.push_back(static_cast<int32_t>(w_.sequences.size() - 1 - s));
      const auto begin = q_host_.begin() + (offsets_[s] + first) * q_stride_;
      q.insert(q.end(), begin, begin + count * q_stride_);
    }
    const DeviceArray<uint16_t> d_q(q), out(offsets.back() * w_.heads * w_.v);
    const DeviceArray<int32_t> d_slots(slots);
    MlaPrefillProblem p = problem();
    p.num_sequences = static_cast<int64_t>(parts.size());
    p.host_query_offsets = offsets.data();
    p.host_kv_lens = kv_lens.data();
    p.slots = d_slots.data();
    p.q = d_q.data();
    p.out = out.data();
    p.out_stride = w_.heads * w_.v;
    launch(p, kernel);
    return out.host();
  }

  // The answer for one query and head.
  std::vector<double> reference(int64_t sequence, int64_t query, int64_t head) const {
    const Sequence& s = w_.sequences[sequence];
    const int64_t row = offsets_[sequence] + query;
    const uint16_t* q = q_host_.data() + row * q_stride_ + head * qk_;
    const uint16_t* up = weight_host_.data() + head * (w_.nope + w_.v) * w_.latent;
    std::vector<double> absorbed(w_.latent);
    for (int64_t i = 0; i < w_.nope; ++i) {
      const double value = bf16_to_f32(q[i]);
      for (int64_t j = 0; j < w_.latent; ++j) {
        absorbed[j] += value * bf16_to_f32(up[i * w_.latent + j]);
      }
    }
    const int64_t num_visible = s.kv_len - s.query_len + query + 1;
    std::vector<double> mixed(w_.latent);
    double total = 0;
    for (int64_t k = w_.first_key; k < num_visible; ++k) {
      const float* token = tokens_[sequence].data() + k * (w_.latent + w_.rope);
      double score = 0;
      for (int64_t j = 0; j < w_.latent; ++j) score += absorbed[j] * token[j];
      for (int64_t j = 0; j < w_.rope; ++j) {
        score += bf16_to_f32(q[w_.nope + j]) * token[w_.latent + j];
      }
      const double weight = std::exp(score * w_.scale);
      total += weight;
      for (int64_t j = 0; j < w_.latent; ++j) mixed[j] += weight * token[j];
    }
    std::vector<double> result(w_.v);
    for (int64_t i = 0; i < w_.v; ++i) {
      for (int64_t j = 0; j < w_.latent; ++j) {
        if (total > 0)
          result[i] += bf16_to_f32(up[(w_.nope + i) * w_.latent + j]) * mixed[j] / total;
      }
    }
    return result;
  }

  // Compares some rows, or all if they are few, with the reference.
  void check(const std::vector<float>& out, const char* what) const {
    std::mt19937_64 engine(5);
    const int64_t all = num_tokens_ * w_.heads;
    const int64_t wanted = w_.latent < 512 ? 400 : 64;
    std::vector<float> got;
    std::vector<double> want;
    double worst = 0;
    std::string worst_at;
    for (int64_t n = 0; n < std::min(all, wanted); ++n) {
      int64_t pick = all <= wanted ? n : static_cast<int64_t>(engine() % all);
      const int64_t num_sequences = static_cast<int64_t>(w_.sequences.size());
      if (all > wanted && n < 2 * num_sequences) {  // first and last query of each sequence
        const int64_t s = n / 2;
        if (w_.sequences[s].query_len == 0) continue;
        const int64_t token = n % 2 == 0 ? offsets_[s] : offsets_[s + 1] - 1;
        pick = token * w_.heads + static_cast<int64_t>(engine() % w_.heads);
      }
      const int64_t token = pick / w_.heads, head = pick % w_.heads;
      int64_t s = 0;
      while (offsets_[s + 1] <= token) ++s;
      const std::vector<double> expected = reference(s, token - offsets_[s], head);
      const float* row = out.data() + pick * w_.v;
      const double error = relative_error(std::span(row, w_.v), expected);
      if (!(error <= worst)) {
        worst = error;
        worst_at = fmt_row(s, token - offsets_[s], head, row, expected);
      }
      got.insert(got.end(), row, row + w_.v);
      want.insert(want.end(), expected.begin(), expected.end());
    }
    // BF16 roundings of K, V, weights and output, each 2^-9 at most; one more for every chunk.
    EXPECT_LE(relative_error(got, want), 6e-3) << what;
    EXPECT_LE(worst, 2e-2) << what << " " << worst_at;
    std::printf("    %-8s error %.2e worst row %.2e\n", what, relative_error(got, want), worst);
  }

 private:
  // All but out and scratch.
  MlaPrefillProblem problem() const {
    MlaPrefillProblem p;
    p.num_heads = w_.heads;
    p.latent_dim = w_.latent;
    p.rope_dim = w_.rope;
    p.nope_dim = w_.nope;
    p.v_dim = w_.v;
    p.softmax_scale = w_.scale;
    p.first_key = w_.first_key;
    p.num_sequences = static_cast<int64_t>(w_.sequences.size());
    p.host_query_offsets = offsets_.data();
    p.host_kv_lens = kv_lens_.data();
    p.slots = slots_->data();
    p.q = q_->data();
    p.q_stride = q_stride_;
    p.q_head_stride = qk_;
    p.pool = pool_->data();
    p.page_stride_bytes = kLayers * layer_bytes();
    p.layer_offset_bytes = kLayer * layer_bytes();
    p.format = w_.format;
    p.kv_scale = kKvScale;
    p.page_table = table_->data();
    p.page_table_stride = max_pages_;
    p.kv_chunk_tokens = w_.chunk_tokens;
    return p;
  }
  void launch(MlaPrefillProblem& p, Kernel kernel) const {
    const DeviceArray<uint8_t> scratch(
        mla_prefill_scratch_bytes(p, p.host_query_offsets[p.num_sequences]));
    p.scratch = scratch.data();
    const int64_t columns = w_.heads * (w_.nope + w_.v);
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaDeviceSynchronize());
    const ExpandFn expand = [&](const void* x, int64_t x_stride, void* target, int64_t stride,
                                int64_t rows) {
      launch_test_product(x, x_stride, weight_->data(), target, stride, rows, columns, w_.latent,
                          stream);
    };
    launch_mla_prefill(p, expand, stream, kernel);
    CUDA_CHECK(cudaStreamSynchronize(stream));
    CUDA_CHECK(cudaStreamDestroy(stream));
  }

  static int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
  static std::string fmt_row(int64_t s, int64_t query, int64_t head, const float* got,
                             const std::vector<double>& want) {
    std::string text = "sequence " + std::to_string(s) + " query " + std::to_string(query) +
                       " head " + std::to_string(head) + " got/want:";
    for (size_t i = 0; i < std::min<size_t>(want.size(), 12); ++i) {
      text += " " + std::to_string(got[i]) + "/" + std::to_string(want[i]);
    }
    return text;
  }
  int64_t token_dim() const { return w_.latent + w_.rope; }
  int64_t token_bytes() const { return page_token_bytes(w_.format, w_.latent, w_.rope); }
  int64_t layer_bytes() const { return kPageTokens * token_bytes(); }

  void make_pool() {
    const int64_t num_sequences = static_cast<int64_t>(w_.sequences.size());
    num_pages_ += 3;
    std::vector<int32_t> pages(num_pages_), table(num_sequences * max_pages_, -1), slots;
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937_64 engine(3);
    std::shuffle(pages.begin(), pages.end(), engine);
    std::vector<uint8_t> pool(num_pages_ * kLayers * layer_bytes(), 0xff);
    tokens_.resize(num_sequences);
    for (int64_t s = 0; s < num_sequences; ++s) {
      slots.push_back(static_cast<int32_t>(num_sequences - 1 - s));
      const int64_t count = w_.sequences[s].kv_len * token_dim();
      tokens_[s] = random_normal(count, 1.0f, 100 + s);
      for (int64_t k = 0; k < w_.sequences[s].kv_len; ++k) {
        int32_t& page = table[slots[s] * max_pages_ + k / kPageTokens];
        if (k % kPageTokens == 0) {
          page = pages.back();
          pages.pop_back();
        }
        uint8_t* token = pool.data() + (page * kLayers + kLayer) * layer_bytes() +
                         k % kPageTokens * token_bytes();
        for (int64_t i = 0; i < token_dim(); ++i) {
          float& value = tokens_[s][k * token_dim() + i];
          if (w_.format == PageFormat::kF8E4M3) value /= kKvScale;
          value = write_token_value(token, w_.format, w_.latent, i, k, value, kKvScale);
        }
      }
    }
    pool_ = std::make_unique<DeviceArray<uint8_t>>(pool);
    table_ = std::make_unique<DeviceArray<int32_t>>(table);
    slots_ = std::make_unique<DeviceArray<int32_t>>(slots);
  }

  World w_;
  int64_t qk_, q_stride_;
  int64_t num_pages_ = 0, max_pages_ = 0, num_tokens_ = 0;
  std::vector<int32_t> offsets_, kv_lens_;
  std::vector<std::vector<float>> tokens_;  // [sequence][kv_len * token_dim]
  std::vector<uint16_t> weight_host_, q_host_;
  std::unique_ptr<DeviceArray<uint8_t>> pool_;
  std::unique_ptr<DeviceArray<int32_t>> table_, slots_;
  std::unique_ptr<DeviceArray<uint16_t>> weight_, q_;
};

}  // namespace deepflight::cuda_mla_prefill
