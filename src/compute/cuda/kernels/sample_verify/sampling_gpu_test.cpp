// Sampling against the CPU backend's rules: every parameter, ties, masks, log-probabilities,
// padding and broken rows. A draw may differ from the host's only where the uniform number falls on
// the boundary of two tokens as far as rounding goes.
#include <iostream>
#include <sstream>

#include "compute/cuda/kernels/sample_verify/sampling_testing.h"

namespace deepflight::cuda_sample_verify {
namespace {

using deepflight::testing::random_normal;

constexpr double kBoundary = 1e-8;  // relative to the whole mass

std::string describe(const SlotSampling& s) {
  std::ostringstream text;
  text << "temperature " << s.temperature << " top_k " << s.top_k << " top_p " << s.top_p
       << " min_p " << s.min_p << " repetition " << s.repetition_penalty << " presence "
       << s.presence_penalty << " frequency " << s.frequency_penalty << " biases " << s.num_biases
       << " banned " << s.num_banned << " min_tokens " << s.min_tokens << " logprobs "
       << s.num_logprobs << " mask " << s.mask;
  return text.str();
}

// Runs the batch and compares all tokens. Returns how many differ, all of them on a boundary.
int64_t check_tokens(const Batch& batch) {
  const Outcome outcome = batch.run();
  const auto drawn = sample_on_host(batch);
  int64_t num_wrong = 0;
  int64_t num_boundary = 0;
  for (int64_t row = 0; row < static_cast<int64_t>(batch.slots.size()); ++row) {
    if (batch.slots[row] < 0) {
      EXPECT_EQ(outcome.tokens[row], 0);
      continue;
    }
    const Drawn& want = drawn[row];
    if (outcome.tokens[row] == want.token) continue;
    if (want.margin < kBoundary) {
      ++num_boundary;
    } else if (++num_wrong <= 4) {
      ADD_FAILURE() << "row " << row << " of vocab " << batch.vocab_size << ": got "
                    << outcome.tokens[row] << ", want " << want.token << ", margin " << want.margin
                    << "; " << describe(batch.sampling[batch.slots[row]]);
    }
  }
  EXPECT_EQ(num_wrong, 0);
  EXPECT_EQ(outcome.first_bad_row, -1);
  return num_boundary;
}

// Rows of fresh random logits, one slot each.
Batch random_batch(int64_t num_rows, int64_t vocab, float deviation, uint64_t seed,
                   int64_t padding = 0) {
  Batch batch(num_rows, vocab, padding);
  batch.logits = random_normal(num_rows * batch.logits_stride, deviation, seed);
  batch.slots.resize(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    batch.slots[row] = static_cast<int32_t>(num_rows - 1 - row);
    batch.sampling[row].seed = seed * 1000 + row;
    batch.num_outputs[row] = static_cast<int32_t>(row % 7);
    for (int64_t i = vocab; i < batch.logits_stride; ++i) {
      batch.logits[row * batch.logits_stride + i] = NAN;
    }
  }
  return batch;
}

template <typename T>
T pick(std::mt19937_64& engine, std::initializer_list<T> values) {
  return values.begin()[engine() % values.size()];
}

void random_filters(std::mt19937_64& engine, SlotSampling& s) {
  s.temperature = pick(engine, {0.0f, 0.3f, 0.7f, 1.0f, 1.0f, 1.7f, 10.0f});
  s.top_k = pick(engine, {0, 0, 1, 2, 20, 50, 1000, 100000});
  s.top_p = pick(engine, {1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 0.1f, 0.999f, 0.0f});
  s.min_p = pick(engine, {0.0f, 0.0f, 0.05f, 0.3f, 1e-4f, 1e-9f, 1.0f});
}

void random_adjustments(std::mt19937_64& engine, Batch& batch, int64_t slot) {
  SlotSampling& s = batch.sampling[slot];
  const int64_t vocab = batch.vocab_size;
  s.repetition_penalty = pick(engine, {1.0f, 1.0f, 1.3f, 0.8f});
  s.frequency_penalty = pick(engine, {0.0f, 0.0f, 0.4f, -0.3f});
  s.presence_penalty = pick(engine, {0.0f, 0.0f, 0.7f, -0.5f});
  s.num_biases = pick(engine, {0, 1, 5, kMaxListedIds});
  s.num_banned = pick(engine, {0, 1, 4});
  s.min_tokens = pick(engine, {0, 3, 100});
  for (int64_t i = 0; i < vocab; ++i) {
    batch.counts[slot * vocab + i] = engine() % 4 == 0 ? static_cast<int32_t>(engine() % 5) : 0;
    batch.seen[slot * vocab + i] = engine() % 3 == 0;
  }
  for (int i = 0; i < kMaxListedIds; ++i) {
    // Some tokens are listed more than once.
    batch.bias_ids[slot * kMaxListedIds + i] = static_cast<int32_t>(engine() % vocab * 7 % vocab);
    batch.bias_values[slot * kMaxListedIds + i] = static_cast<float>(engine() % 100) * 0.11f - 5.0f;
    batch.banned_ids[slot * kMaxListedIds + i] = static_cast<int32_t>(engine() % vocab);
  }
}

// Some rows with few tokens left, some with most; in force at once, by the last token, or not.
void random_mask(std::mt19937_64& engine, Batch& batch, int64_t slot) {
  const int64_t vocab = batch.vocab_size;
  batch.last_tokens[slot] = static_cast<int32_t>(engine() % 4) - 1;
  batch.sampling[slot].mask = pick(engine, {kMaskOff, kMaskOn, kMaskOn, mask_after(1)});
  const uint64_t one_in = pick(engine, {uint64_t{1}, uint64_t{2}, uint64_t{50}, uint64_t{5000}});
  batch.allow(slot, static_cast<int32_t>(engine() % static_cast<uint64_t>(vocab)));
  for (int64_t i = 0; i < vocab; ++i) {
    if (engine() % one_in == 0) batch.allow(slot, static_cast<int32_t>(i));
  }
}

TEST(Sample, Masks) {
  std::mt19937_64 engine(41);
  int64_t num_boundary = 0;
  for (const int64_t vocab : {1, 31, 32, 33, 1152, 5000, 129280}) {
    for (int round = 0; round < 3; ++round) {
      Batch batch = random_batch(vocab > 10000 ? 70 : 200, vocab, 3.0f, 7 * vocab + round, round);
      batch.make_counts();
      batch.make_masks();
      for (size_t slot = 0; slot < batch.sampling.size(); ++slot) {
        random_filters(engine, batch.sampling[slot]);
        if (slot % 2 == 0) random_adjustments(engine, batch, static_cast<int64_t>(slot));
        random_mask(engine, batch, static_cast<int64_t>(slot));
      }
      num_boundary += check_tokens(batch);
      const Outcome outcome = batch.run();
      for (size_t row = 0; row < batch.slots.size(); ++row) {
        const int32_t slot = batch.slots[row];
        if (!mask_is_on(batch.sampling[slot].mask, batch.last_tokens[slot])) continue;
        ASSERT_TRUE(batch.allows(slot, outcome.tokens[row])) << vocab << " row " << row;
      }
    }
  }
  std::cout << "draws on a boundary: " << num_boundary << "\n";
}

// A mask on one row leaves the others as they were.
TEST(Sample, MasksAreOfTheirRowsAlone) {
  Batch batch = random_batch(64, 5000, 2.0f, 43);
  const Outcome before = batch.run();
  batch.make_masks();
  for (int64_t slot = 0; slot < 64; slot += 3) {
    batch.sampling[slot].mask = kMaskOn;
    batch.allow(slot, 4999);
  }
  const Outcome after = batch.run();
  for (size_t row = 0; row < 64; ++row) {
    EXPECT_EQ(after.tokens[row], batch.slots[row] % 3 == 0 ? 4999 : before.tokens[row]);
  }
}

TEST(Sample, AllParameters) {
  std::mt19937_64 engine(1);
  int64_t num_boundary = 0;
  for (const int64_t vocab : {1, 2, 37, 1152, 1153, 5000, 129280}) {
    for (int round = 0; round < (vocab > 10000 ? 2 : 6); ++round) {
      Batch batch = random_batch(vocab > 10000 ? 150 : 200, vocab, round % 2 == 0 ? 3.0f : 1.0f,
                                 100 * vocab + round, round % 3);
      batch.make_counts();
      for (size_t slot = 0; slot < batch.sampling.size(); ++slot) {
        random_filters(engine, batch.sampling[slot]);
        if (slot % 2 == 0) random_adjustments(engine, batch, static_cast<int64_t>(slot));
      }
      batch.slots[3] = -1;
      num_boundary += check_tokens(batch);
    }
  }
  std::cout << "draws on a boundary: " << num_boundary << "\n";
}

TEST(Sample, ManyDrawsAreTheHosts) {
  int64_t num_boundary = 0;
  for (const float deviation : {0.0f, 0.1f, 1.0f, 2.0f, 4.0f, 10.0f}) {
    for (const float top_p : {1.0f, 0.9f}) {
      Batch batch = random_batch(130, 129280, deviation, static_cast<uint64_t>(deviation * 10) + 7);
      for (auto& s : batch.sampling) s.top_p = top_p;
      const int64_t boundary = check_tokens(batch);
      num_boundary += boundary;
    }
  }
  std::cout << "draws on a boundary: " << num_boundary << " of " << 12 * 130 << "\n";
  EXPECT_LE(num_boundary, 3);
}

TEST(Sample, Ties) {  // logits on a coarse grid: whole bins of equal tokens
  std::mt19937_64 engine(5);
  for (const int64_t vocab : {37, 1152, 20000, 129280}) {
    for (const float grid : {0.5f, 4.0f, 1000.0f}) {
      Batch batch = random_batch(40, vocab, 2.0f, vocab + 3);
      for (float& logit : batch.logits) logit = std::round(logit / grid) * grid;
      for (auto& s : batch.sampling) random_filters(engine, s);
      check_tokens(batch);
    }
  }
}

TEST(Sample, CrowdedBins) {  // far more tokens in a bin than can be listed
  std::mt19937_64 engine(6);
  for (const float deviation : {1e-3f, 1e-2f, 1e-1f}) {
    Batch batch = random_batch(60, 129280, deviation, 11);
    for (auto& s : batch.sampling) random_filters(engine, s);
    check_tokens(batch);
  }
  Batch huge = random_batch(20, 129280, 1.0f, 12);
  for (auto& s : huge.sampling) s.temperature = 1e30f;
  check_tokens(huge);
  for (auto& s : huge.sampling) s.temperature = 1e-40f;
  check_tokens(huge);
}

TEST(Sample, LargeLogits) {
  for (const float scale : {1e-30f, 1e4f, 1e30f}) {
    Batch batch = random_batch(50, 1152, scale, 13);
    for (size_t slot = 0; slot < 25; ++slot) batch.sampling[slot].temperature = scale;
    check_tokens(batch);
  }
}

TEST(Sample, GreedyTakesTheLowestOfTheBest) {
  for (const int64_t vocab : {9, 4097, 129280, 163840}) {
    Batch batch = random_batch(5, vocab, 1.0f, 14);
    for (auto& s : batch.sampling) s.temperature = 0.0f;
    for (const int64_t id : {vocab / 2, vocab - 1, vocab / 3}) batch.logits[id] = 50.0f;
    std::fill_n(batch.logits.begin() + vocab, vocab, -3.0f);
    std::fill_n(batch.logits.begin() + 2 * vocab, vocab, -0.0f);
    batch.logits[2 * vocab + vocab - 1] = 0.0f;  // +0 and -0 are equal
    const auto tokens = batch.run().tokens;
    EXPECT_EQ(tokens[0], vocab / 3);
    EXPECT_EQ(tokens[1], 0);
    EXPECT_EQ(tokens[2], 0);
    check_tokens(batch);
  }
}

TEST(Sample, EverythingBanned) {
  Batch batch = random_batch(2, 4, 1.0f, 15);
  batch.sampling[0].temperature = 0.0f;
  for (auto& s : batch.sampling) {
    s.num_banned = 4;
    s.min_tokens = 100;
  }
  for (size_t i = 0; i < batch.banned_ids.size(); ++i) {
    batch.banned_ids[i] = static_cast<int32_t>(i % 4);
  }
  EXPECT_EQ(batch.run().tokens, (std::vector<int32_t>{0, 0}));
}

TEST(Sample, Logprobs) {
  std::mt19937_64 engine(8);
  for (const int64_t vocab : {3, 37, 1153, 129280}) {
    for (const bool ties : {false, true}) {
      Batch batch = random_batch(24, vocab, 3.0f, vocab);
      if (ties) {
        for (float& logit : batch.logits) logit = std::round(logit / 2.0f) * 2.0f;
        // More equal ones than can be collected.
        std::fill_n(batch.logits.begin(), vocab, 1.0f);
      }
      batch.make_counts();
      for (int64_t slot = 0; slot < 24; ++slot) {
        random_filters(engine, batch.sampling[slot]);
        random_adjustments(engine, batch, slot);
        batch.sampling[slot].num_logprobs = pick(engine, {-1, 0, 1, 5, 20, 30});
      }
      check_tokens(batch);
      const Outcome outcome = batch.run();
      for (int64_t row = 0; row < 24; ++row) {
        const int wanted = batch.sampling[batch.slots[row]].num_logprobs;
        const float* logits = batch.logits.data() + row * batch.logits_stride;
        if (wanted < 0) {
          EXPECT_TRUE(std::isnan(outcome.logprobs[row]));
          EXPECT_EQ(outcome.top_ids[row * kMaxLogprobs], -1);
          continue;
        }
        const double maximum = *std::max_element(logits, logits + vocab);
        double sum = 0;
        for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - maximum);
        const double normalizer = maximum + std::log(sum);
        EXPECT_NEAR(outcome.logprobs[row], logits[outcome.tokens[row]] - normalizer, 2e-5);
        std::vector<int32_t> order(vocab);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        const int64_t count = std::min<int64_t>({wanted, kMaxLogprobs, vocab});
        for (int64_t i = 0; i < kMaxLogprobs; ++i) {
          const int64_t at = row * kMaxLogprobs + i;
          ASSERT_EQ(outcome.top_ids[at], i < count ? order[i] : -1)
              << "vocab " << vocab << " row " << row << " rank " << i;
          if (i < count) {
            ASSERT_NEAR(outcome.top_logprobs[at], logits[order[i]] - normalizer, 2e-5);
          }
        }
      }
    }
  }
}

TEST(Sample, BrokenRowsAreTold) {
  for (const int64_t vocab : {37, 129280}) {
    Batch batch = random_batch(12, vocab, 1.0f, 16);
    batch.slots[2] = -1;
    batch.logits[2 * vocab + 5] = NAN;  // nobody looks at a padding row
    EXPECT_EQ(batch.run().first_bad_row, -1);
    batch.logits[9 * vocab + vocab - 1] = NAN;
    batch.logits[7 * vocab + 30] = INFINITY;
    batch.logits[8 * vocab] = -INFINITY;
    batch.sampling[batch.slots[7]].temperature = 0.0f;
    const Outcome outcome = batch.run();
    EXPECT_EQ(outcome.first_bad_row, 7);
    EXPECT_EQ(outcome.tokens[7], 0);
    EXPECT_EQ(outcome.tokens[8], 0);
    EXPECT_EQ(outcome.tokens[9], 0);
    EXPECT_EQ(outcome.tokens[10], sample_on_host(batch, 10).token);
  }
  Batch none(1, 100);
  EXPECT_EQ(none.run().first_bad_row, -1);
}

TEST(Sample, FrequenciesAreTheSoftmax) {
  constexpr int kDraws = 20000;
  constexpr int kVocab = 10;
  const auto logits = random_normal(kVocab, 1.0f, 17);
  Batch batch(kDraws, kVocab);
  for (int i = 0; i < kDraws; ++i) {
    batch.slots.push_back(i);
    batch.logits.insert(batch.logits.end(), logits.begin(), logits.end());
    batch.sampling[i].seed = 12345;
    batch.num_outputs[i] = i;
  }
  std::vector<int> counts(kVocab, 0);
  for (const int32_t token : batch.run().tokens) ++counts.at(token);
  double total = 0;
  for (const float logit : logits) total += std::exp(logit);
  double chi_square = 0;
  for (int i = 0; i < kVocab; ++i) {
    const double expected = kDraws * std::exp(logits[i]) / total;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 27.88);  // 9 degrees of freedom, p = 0.001
}

TEST(Sample, TheBatchDoesNotMatter) {  // one row, and the same among 300: other splits and blocks
  Batch many = random_batch(300, 129280, 3.0f, 18);
  for (auto& s : many.sampling) {
    s.top_p = 0.95f;
    s.num_logprobs = 3;
  }
  const Outcome all = many.run();
  for (const int64_t row : {0, 150, 299}) {
    Batch one = many;
    one.slots = {many.slots[row]};
    one.logits.assign(many.logits.begin() + row * 129280, many.logits.begin() + (row + 1) * 129280);
    const Outcome alone = one.run();
    EXPECT_EQ(alone.tokens[0], all.tokens[row]);
    EXPECT_NEAR(alone.logprobs[0], all.logprobs[row], 1e-5);
    EXPECT_EQ(alone.top_ids[2], all.top_ids[row * kMaxLogprobs + 2]);
  }
}

// Tokens and log-probabilities of a row have the same bits alone and among any number of rows.
TEST(Sampling, RowsDoNotDependOnTheBatch) {
  for (const int64_t vocab : {1152, 129280}) {
    std::mt19937_64 engine(11);
    Batch all = random_batch(300, vocab, 3.0f, 21);
    for (SlotSampling& s : all.sampling) {
      random_filters(engine, s);
      s.num_logprobs = static_cast<int32_t>(engine() % 6);
    }
    const Outcome whole = all.run(true);
    for (const int64_t count : {1, 2, 33, 140}) {
      for (const int64_t begin : {0, 100, 160}) {
        Batch some = all;
        some.slots.assign(all.slots.begin() + begin, all.slots.begin() + begin + count);
        some.logits.assign(all.logits.begin() + begin * vocab,
                           all.logits.begin() + (begin + count) * vocab);
        const Outcome part = some.run(true);
        for (int64_t row = 0; row < count; ++row) {
          ASSERT_EQ(part.tokens[row], whole.tokens[begin + row]) << vocab << " row " << row;
          ASSERT_EQ(part.logprobs[row], whole.logprobs[begin + row]) << vocab << " row " << row;
          for (int64_t i = 0; i < all.sampling[all.slots[begin + row]].num_logprobs; ++i) {
            const int64_t at = row * kMaxLogprobs + i;
            ASSERT_EQ(part.top_ids[at], whole.top_ids[begin * kMaxLogprobs + at]);
            ASSERT_EQ(part.top_logprobs[at], whole.top_logprobs[begin * kMaxLogprobs + at]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_sample_verify
