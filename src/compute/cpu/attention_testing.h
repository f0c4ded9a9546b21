// For tests of the attention ops: sequences in a poisoned page pool, the ops' arguments, and the
// direct float64 answer.
#pragma once

#include <algorithm>
#include <numeric>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/op_testing.h"
#include "compute/ops/kv_token.h"

namespace deepflight::testing {

struct AttentionShape {
  int64_t num_heads = 4;
  int64_t latent = 32;
  int64_t nope = 16;
  int64_t rope = 8;
  int64_t v = 16;
  int64_t qk() const { return nope + rope; }
  int64_t token_dim() const { return latent + rope; }
};

struct AttentionSequence {
  int64_t kv_len;
  int64_t num_queries;  // the last tokens of kv_len
};

// Sequences on random pages. The pool is NaN wherever no token of theirs lies: page tails, foreign
// pages and other layers; page table entries past a sequence's pages are no pages.
class AttentionWorld {
 public:
  static constexpr int64_t kLayers = 3;
  static constexpr int64_t kLayer = 1;
  static constexpr float kScales[kLayers] = {4.0f, 0.75f, 0.125f};  // of kF8E4M3

  AttentionWorld(const AttentionShape& shape, std::vector<AttentionSequence> sequences,
                 KvFormat format, uint32_t seed, int64_t first_key = 0)
      : shape_(shape),
        first_key_(first_key),
        sequences_(std::move(sequences)),
        kv_b_(random_stored(DType::kF32, shape.num_heads * (shape.nope + shape.v), shape.latent,
                            seed)) {
    int64_t num_pages = 3;
    for (const auto& sequence : sequences_) {
      num_pages += pages_of(sequence.kv_len);
      max_pages_ = std::max(max_pages_, pages_of(sequence.kv_len) + 2);
      num_tokens_ += sequence.num_queries;
    }
    pool_ = {nullptr, format, num_pages, kLayers, shape.token_dim()};
    pool_.scales = kScales;
    pool_.rope_dim = shape.rope;
    memory_.assign(pool_.size_bytes(), 0xff);  // NaN in every format
    pool_.base = memory_.data();
    q_ = Matrix::random(num_tokens_, shape.num_heads * shape.qk(), seed + 1, 7);
    fill_pages(seed);
  }

  // The op's answer for some of the sequences (all: empty list), with only the last `max_queries`
  // queries of each. Rows come in the order of the list.
  Matrix run(Backend& backend, bool absorbed, std::vector<int> which = {},
             int64_t max_queries = 1 << 30) const {
    if (which.empty()) {
      which.resize(sequences_.size());
      std::iota(which.begin(), which.end(), 0);
    }
    Ints offsets{0}, kv_lens, slots;
    Matrix q(0, shape_.num_heads * shape_.qk(), 5);
    for (const int i : which) {
      const auto& sequence = sequences_[i];
      const int64_t count = std::min(max_queries, sequence.num_queries);
      offsets.values.push_back(offsets.values.back() + static_cast<int32_t>(count));
      kv_lens.values.push_back(static_cast<int32_t>(sequence.kv_len));
      slots.values.push_back(slot_of(i));
      q.rows += count;
      q.storage.resize(q.rows * q.stride, kPoison);
      for (int64_t t = 0; t < count; ++t) {
        std::copy_n(q_.row(first_row(i) + sequence.num_queries - count + t), q.columns,
                    q.row(q.rows - count + t));
      }
    }
    const StepState state = this->state();
    const AttentionBatch batch{static_cast<int64_t>(which.size()), offsets.view(), kv_lens.view(),
                               slots.view()};
    const StoredMatrix kv_b = kv_b_.matrix();
    const KvUpWeight weight = backend.pack_kv_up(kv_b, shape_.num_heads, shape_.nope);
    Matrix out(q.rows, shape_.num_heads * shape_.v, 3);
    const TensorView q_view = q.view().split_last(shape_.num_heads, shape_.qk());
    if (absorbed) {
      backend.mla_absorbed(
          {q_view, weight, state, batch, pool_, kLayer, kScale, out.view(), first_key_});
    } else {
      backend.mla_expanded(
          {q_view, weight, state, batch, pool_, kLayer, kScale, out.view(), first_key_});
    }
    return out;
  }

  // softmax(q . [W_UK c | k_pe] * scale) W_UV c, directly.
  std::vector<double> reference() const {
    std::vector<double> result;
    const int64_t head_dim = shape_.nope + shape_.v;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const auto& sequence = sequences_[s];
      for (int64_t t = 0; t < sequence.num_queries; ++t) {
        const int64_t position = sequence.kv_len - sequence.num_queries + t;
        for (int64_t head = 0; head < shape_.num_heads; ++head) {
          const float* q = q_.row(first_row(static_cast<int>(s)) + t) + head * shape_.qk();
          const double* up = kv_b_.values.data() + head * head_dim * shape_.latent;
          // q_nope W_UK once, so that the test is not the slow part.
          std::vector<double> absorbed(shape_.latent);
          for (int64_t i = 0; i < shape_.nope; ++i) {
            for (int64_t j = 0; j < shape_.latent; ++j) {
              absorbed[j] += q[i] * up[i * shape_.latent + j];
            }
          }
          std::vector<double> weights;
          double total = 0;
          for (int64_t i = first_key_; i <= position; ++i) {
            const auto& token = tokens_[s][i];
            double score = 0;
            for (int64_t j = 0; j < shape_.latent; ++j) score += absorbed[j] * token[j];
            for (int64_t j = 0; j < shape_.rope; ++j) {
              score += q[shape_.nope + j] * token[shape_.latent + j];
            }
            weights.push_back(std::exp(score * kScale));
            total += weights.back();
          }
          std::vector<double> mixed(shape_.latent);
          for (int64_t i = first_key_; i <= position; ++i) {
            for (int64_t j = 0; j < shape_.latent; ++j) {
              mixed[j] += weights[i - first_key_] / total * tokens_[s][i][j];
            }
          }
          for (int64_t i = 0; i < shape_.v; ++i) {
            double value = 0;
            for (int64_t j = 0; j < shape_.latent; ++j) {
              value += up[(shape_.nope + i) * shape_.latent + j] * mixed[j];
            }
            result.push_back(value);
          }
        }
      }
    }
    return result;
  }

  int64_t first_row(int sequence) const {
    int64_t row = 0;
    for (int i = 0; i < sequence; ++i) row += sequences_[i].num_queries;
    return row;
  }
  const std::vector<AttentionSequence>& sequences() const { return sequences_; }
  const KvPool& pool() const { return pool_; }

 private:
  static constexpr float kScale = 0.2f;

  static int64_t pages_of(int64_t kv_len) { return (kv_len + kKvPageTokens - 1) / kKvPageTokens; }
  // Slots in an order of their own.
  int32_t slot_of(int sequence) const {
    return static_cast<int32_t>(sequences_.size() - 1 - sequence);
  }

  StepState state() const {
    StepState state;
    state.page_table = page_table_.view(static_cast<int64_t>(sequences_.size()), max_pages_);
    return state;
  }

  void fill_pages(uint32_t seed) {
    std::vector<int32_t> pages(pool_.num_pages);
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 engine(seed);
    std::shuffle(pages.begin(), pages.end(), engine);
    std::normal_distribution<float> normal;
    page_table_.values.assign(sequences_.size() * max_pages_, -1);
    tokens_.resize(sequences_.size());
    for (size_t s = 0; s < sequences_.size(); ++s) {
      int32_t* row = page_table_.values.data() + slot_of(static_cast<int>(s)) * max_pages_;
      for (int64_t i = 0; i < sequences_[s].kv_len; ++i) {
        if (i % kKvPageTokens == 0) {
          row[i / kKvPageTokens] = pages.back();
          pages.pop_back();
        }
        uint8_t* target =
            memory_.data() +
            ((row[i / kKvPageTokens] * kLayers + kLayer) * kKvPageTokens + i % kKvPageTokens) *
                pool_.token_bytes();
        std::vector<float> values(shape_.token_dim());
        for (float& value : values) value = normal(engine);
        store_kv_token(pool_, kLayer, values.data(), target);
        load_kv_token(pool_, kLayer, target, values.data());
        tokens_[s].emplace_back(values.begin(), values.end());
      }
    }
  }

  AttentionShape shape_;
  int64_t first_key_;
  std::vector<AttentionSequence> sequences_;
  Stored kv_b_;
  int64_t max_pages_ = 0;
  int64_t num_tokens_ = 0;
  KvPool pool_;
  std::vector<uint8_t> memory_;
  Matrix q_{0, 0};
  Ints page_table_;
  std::vector<std::vector<std::vector<double>>> tokens_;  // [sequence][position][token_dim]
};

}  // namespace deepflight::testing
