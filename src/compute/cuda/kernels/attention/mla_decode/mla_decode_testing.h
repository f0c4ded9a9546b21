// A paged pool with the tokens of some sequences, their queries, and what absorbed attention makes
// of them in float64 on the host; NaN in everything that must not be read.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "compute/cuda/kernels/attention/mla_decode/launch.h"
#include "compute/cuda/kernels/attention/mla_decode/queries_testing.h"
#include "compute/cuda/primitives/page_testing.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_decode {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Sequence {
  int64_t kv_len;
  int64_t queries;
  bool padding = false;
};

struct Shape {
  int64_t heads, latent, rope;
  PageFormat format;
  std::vector<Sequence> sequences;
  float query_size = 1.0f;
  int64_t first_key = 0;
};

constexpr PageFormat kFormats[] = {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group};
constexpr int64_t kLayers = 3, kPad = 8;
constexpr float kKvScale = 0.75f, kScale = 0.05f;

inline std::vector<float> scaled_normal(int64_t count, float size) {
  std::vector<float> values = random_normal(count, 1.0f, 7);
  for (float& value : values) value *= size;
  return values;
}

// A pool with the sequences' tokens in the layers 1 and 2, their page tables and queries.
class World {
 public:
  explicit World(Shape shape)
      : w_(std::move(shape)),
        dim_(w_.latent + w_.rope),
        num_slots_(static_cast<int64_t>(w_.sequences.size())),
        layout_(lay_out()),
        offsets_(host_offsets_),
        lens_(host_lens_),
        slots_(host_slots_),
        table_(host_table_),
        q_(to_bf16(scaled_normal(tokens() * w_.heads * dim_ + kPad, w_.query_size))),
        out_(tokens() * out_stride()),
        pool_(host_pool_),
        metadata_(mla_decode_metadata_bytes(num_slots_, tokens(), w_.heads)),
        scratch_(mla_decode_scratch_bytes()),
        host_q_(from_bf16(q_.host())),
        rounded_(host_q_, dim_),
        q_bytes_(rounded_.bytes),
        q_scales_(rounded_.scales) {}

  int64_t tokens() const { return host_offsets_.back(); }
  int64_t out_stride() const { return w_.heads * w_.latent + kPad; }

  MlaDecodeProblem problem(int64_t layer, bool fast) const {
    MlaDecodeProblem p;
    p.num_heads = w_.heads, p.latent_dim = w_.latent, p.rope_dim = w_.rope;
    p.softmax_scale = kScale;
    p.first_key = w_.first_key;
    p.num_sequences = num_slots_, p.num_tokens = tokens(), p.query_offsets = offsets_.data();
    p.kv_lens = lens_.data(), p.slots = slots_.data();
    p.q = q_.data(), p.q_stride = w_.heads * dim_, p.q_head_stride = dim_;
    p.out = out_.data(), p.out_stride = out_stride(), p.out_head_stride = w_.latent;
    p.pool = pool_.data();
    p.num_pages = num_pages_;
    p.page_stride_bytes = kLayers * 64 * token_bytes();
    p.layer_offset_bytes = layer * 64 * token_bytes();
    p.format = w_.format, p.kv_scale = kKvScale;
    p.page_table = table_.data(), p.page_table_stride = table_stride_;
    if (fast) p.metadata = metadata_.data(), p.scratch = scratch_.data();
    if (fast && w_.format == PageFormat::kF8E4M3) {
      p.q = q_bytes_.data(), p.query_scales = q_scales_.data();
    }
    return p;
  }
  void prepare(cudaStream_t stream) const {
    prepare_mla_decode(problem(1, true), metadata_.data(), stream);
  }
  void poison() const {
    CUDA_CHECK(cudaMemset(out_.data(), 0xff, out_.size_bytes()));
    CUDA_CHECK(cudaMemset(scratch_.data(), 0xff, scratch_.size_bytes()));
  }
  // Shorter sequences, on the device alone: what a graph that was captured before must see.
  void shorten(int64_t by) {
    for (int32_t& len : host_lens_) len = std::max<int32_t>(len - static_cast<int32_t>(by), 0);
    CUDA_CHECK(
        cudaMemcpy(lens_.data(), host_lens_.data(), lens_.size_bytes(), cudaMemcpyHostToDevice));
  }
  std::vector<uint16_t> result() const { return out_.host(); }
  // Of the e4m3 queries.
  void set_query(int64_t at, uint8_t bits) {
    CUDA_CHECK(cudaMemcpy(q_bytes_.data() + at, &bits, sizeof(bits), cudaMemcpyHostToDevice));
  }
  void set_query_scale(int64_t row, float scale) {
    CUDA_CHECK(cudaMemcpy(q_scales_.data() + row, &scale, sizeof(scale), cudaMemcpyHostToDevice));
  }

  // The first `queries` of a sequence.
  struct Pick {
    int64_t sequence, queries;
  };
  // Outputs [queries of all picks, heads, latent] of a step of the picks alone.
  std::vector<uint16_t> run(const std::vector<Pick>& picks, bool batch_invariant) const {
    std::vector<int32_t> offsets{0}, lens, slots;
    std::vector<float> q;
    for (const auto& [s, queries] : picks) {
      const int32_t all = host_offsets_[s + 1] - host_offsets_[s];
      offsets.push_back(offsets.back() + static_cast<int32_t>(queries));
      lens.push_back(host_lens_[s] - all + static_cast<int32_t>(queries));
      slots.push_back(host_slots_[s]);
      const auto first = host_q_.begin() + host_offsets_[s] * w_.heads * dim_;
      q.insert(q.end(), first, first + queries * w_.heads * dim_);
    }
    const DeviceArray<int32_t> d_offsets(offsets), d_lens(lens), d_slots(slots);
    const DeviceArray<uint16_t> d_q(to_bf16(q)), out(offsets.back() * w_.heads * w_.latent);
    const E4m3Rows rounded(q, dim_);
    const DeviceArray<uint8_t> d_bytes(rounded.bytes);
    const DeviceArray<float> d_scales(rounded.scales);
    const DeviceArray<uint8_t> metadata(
        mla_decode_metadata_bytes(static_cast<int64_t>(picks.size()), offsets.back(), w_.heads));
    MlaDecodeProblem p = problem(1, true);
    p.num_sequences = static_cast<int64_t>(picks.size()), p.num_tokens = offsets.back();
    p.query_offsets = d_offsets.data(), p.kv_lens = d_lens.data(), p.slots = d_slots.data();
    p.out = out.data(), p.out_stride = w_.heads * w_.latent;
    if (p.query_scales != nullptr) {
      p.q = d_bytes.data(), p.query_scales = d_scales.data();
    } else {
      p.q = d_q.data();
    }
    p.batch_invariant = batch_invariant;
    prepare_mla_decode(p, metadata.data(), nullptr);
    p.metadata = metadata.data();
    launch_mla_decode(p, nullptr);
    return out.host();
  }

  // Of the last outputs; a head of `head_step`.
  void expect_right(int64_t layer, bool fast = true, int64_t head_step = 1) const {
    const bool rounds = fast && w_.format == PageFormat::kF8E4M3;
    // BF16 outputs 2^-9 a value at most, and BF16 weights; or e4m3 ones.
    const double tolerance = rounds && w_.query_size > 0 ? 0x1p-4 / std::sqrt(3.0) + 6e-3 : 6e-3;
    const auto queries = rounds ? rounded_queries() : host_q_;
    const auto bits = out_.host();
    const auto out = from_bf16(bits);
    std::vector<double> errors(tokens(), 0), norms(tokens(), 0);
    const auto check_token = [&](int64_t s, int64_t t) {
      const int64_t visible = host_lens_[s] - (host_offsets_[s + 1] - 1 - t);
      std::vector<double> mixed(w_.latent);
      for (int64_t h = 0; h < w_.heads; h += head_step) {
        const float* row = out.data() + t * out_stride() + h * w_.latent;
        std::fill(mixed.begin(), mixed.end(), 0);
        double total = 0;
        for (int64_t j = w_.first_key; host_slots_[s] >= 0 && j < visible; ++j) {
          const float* key = value_of(layer, s, j);
          const float* query = queries.data() + (t * w_.heads + h) * dim_;
          double score = 0;
          for (int64_t i = 0; i < dim_; ++i) score += double{query[i]} * key[i];
          const double weight = std::exp(score * kScale);
          total += weight;
          for (int64_t i = 0; i < w_.latent; ++i) mixed[i] += weight * key[i];
        }
        for (int64_t i = 0; i < w_.latent; ++i) {
          const double want = total > 0 ? mixed[i] / total : 0;
          errors[t] += (row[i] - want) * (row[i] - want);
          norms[t] += want * want;
        }
      }
    };
    std::vector<std::thread> threads;
    const int64_t num_threads = std::max(1u, std::thread::hardware_concurrency());
    for (int64_t i = 0; i < num_threads; ++i) {
      threads.emplace_back([&, i] {
        int64_t s = 0;
        for (int64_t t = 0; t < tokens(); ++t) {
          while (host_offsets_[s + 1] <= t) ++s;
          if (t % num_threads == i) check_token(s, t);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    for (int64_t t = 0; t < tokens(); ++t) {
      ASSERT_LE(std::sqrt(errors[t]), tolerance * std::sqrt(norms[t])) << "token " << t;
      for (int64_t i = w_.heads * w_.latent; i < out_stride(); ++i) {
        ASSERT_EQ(bits[t * out_stride() + i], 0xffff) << "written past row " << t;
      }
    }
  }

 private:
  std::vector<float> rounded_queries() const {
    std::vector<float> values = from_f8(rounded_.bytes);
    for (int64_t i = 0; i < std::ssize(values); ++i) values[i] *= rounded_.scales[i / dim_];
    return values;
  }
  int64_t token_bytes() const { return page_token_bytes(w_.format, w_.latent, w_.rope); }
  // Number of a token in the pool.
  int64_t token_idx(int64_t layer, int64_t s, int64_t j) const {
    const int64_t page = host_table_[host_slots_[s] * table_stride_ + j / 64];
    return (page * kLayers + layer) * 64 + j % 64;
  }
  const float* value_of(int64_t layer, int64_t s, int64_t j) const {
    return values_.data() + token_idx(layer, s, j) * dim_;
  }

  bool lay_out() {
    host_offsets_ = {0};
    num_pages_ = 3, table_stride_ = 2;
    for (int64_t s = 0; s < num_slots_; ++s) {
      const Sequence& sequence = w_.sequences[s];
      host_offsets_.push_back(host_offsets_.back() + static_cast<int32_t>(sequence.queries));
      host_lens_.push_back(static_cast<int32_t>(sequence.padding ? 1 << 30 : sequence.kv_len));
      host_slots_.push_back(sequence.padding ? -1 : static_cast<int32_t>(num_slots_ - 1 - s));
      const int64_t pages = (sequence.kv_len + 63) / 64;
      num_pages_ += pages;
      table_stride_ = std::max(table_stride_, pages + 2);
    }
    host_table_.assign(num_slots_ * table_stride_, 0x7f000000);
    std::vector<int32_t> ids(num_pages_);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
    const int64_t pool_tokens = num_pages_ * kLayers * 64;
    values_.assign(pool_tokens * dim_, NAN);
    host_pool_.assign(pool_tokens * token_bytes(), 0xff);  // NaN in every format
    for (int64_t s = 0; s < num_slots_; ++s) {
      if (host_slots_[s] < 0) continue;
      for (int64_t j = 0; j < w_.sequences[s].kv_len; j += 64) {
        host_table_[host_slots_[s] * table_stride_ + j / 64] = ids.back();
        ids.pop_back();
      }
      for (int64_t layer = 1; layer < kLayers; ++layer) fill(layer, s);
    }
    return true;
  }
  void fill(int64_t layer, int64_t s) {
    const int64_t kv_len = w_.sequences[s].kv_len;
    static const auto random = random_normal(1000003, 1.0f, 11);  // drawn once: pools are large
    const int64_t first = (1000 * layer + s) * 7919;
    for (int64_t j = 0; j < kv_len; ++j) {
      const int64_t token = token_idx(layer, s, j);
      for (int64_t i = 0; i < dim_; ++i) {
        values_[token * dim_ + i] =
            write_token_value(&host_pool_[token * token_bytes()], w_.format, w_.latent, i, j,
                              random[(first + j * dim_ + i) % 1000003], kKvScale);
      }
    }
  }
  const Shape w_;
  const int64_t dim_, num_slots_;
  int64_t num_pages_, table_stride_;
  std::vector<int32_t> host_offsets_, host_lens_, host_slots_, host_table_;
  std::vector<float> values_;  // of the pool, as the kernel sees them
  std::vector<uint8_t> host_pool_;
  const bool layout_;  // after which the host's vectors are made
  const DeviceArray<int32_t> offsets_, lens_, slots_, table_;
  const DeviceArray<uint16_t> q_, out_;
  const DeviceArray<uint8_t> pool_, metadata_, scratch_;
  const std::vector<float> host_q_;
  const E4m3Rows rounded_;
  const DeviceArray<uint8_t> q_bytes_;
  const DeviceArray<float> q_scales_;
};

}  // namespace deepflight::cuda_mla_decode
