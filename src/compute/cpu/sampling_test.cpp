// Sampling against formulas and brute force: greedy, temperature, filters, penalties, bans,
// log-probabilities, and draws that depend on nothing but the request.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/op_testing.h"
#include "compute/ops/philox.h"

namespace deepflight {
namespace {

using namespace testing;  // NOLINT: the helpers of op_testing.h

constexpr int64_t kMaxListed = 8;  // biases or bans of a slot
constexpr int64_t kMaxLogprobs = 20;

SlotSampling neutral() {
  return {.temperature = 1.0f,
          .top_p = 1.0f,
          .min_p = 0.0f,
          .repetition_penalty = 1.0f,
          .presence_penalty = 0.0f,
          .frequency_penalty = 0.0f,
          .top_k = 0,
          .num_logprobs = -1,
          .num_biases = 0,
          .num_banned = 0,
          .min_tokens = 0,
          .mask = kMaskOff,
          .seed = 1};
}

// Slots by hand, and their rows sampled.
struct Slots {
  Slots(int num_slots, int64_t vocab_size)
      : vocab(vocab_size),
        sampling(num_slots, neutral()),
        seen(num_slots * vocab_size, 0),
        bias_values(num_slots, kMaxListed) {
    num_outputs.values.assign(num_slots, 0);
    last_tokens.values.assign(num_slots, -1);
    masks.values.assign(num_slots * ((vocab_size + 31) / 32), 0);
    counts.values.assign(num_slots * vocab, 0);
    bias_ids.values.assign(num_slots * kMaxListed, -1);
    banned_ids.values.assign(num_slots * kMaxListed, -1);
  }

  struct Outcome {
    std::vector<int32_t> tokens;
    Matrix adjusted{0, 0};  // logits after penalties, biases and bans
    std::vector<float> logprobs;
    std::vector<int32_t> top_ids;
    Matrix top_logprobs{0, 0};
    int32_t first_bad_row = -7;
  };

  // Row r samples for slot rows[r] from logits row r.
  Outcome run(const std::vector<int32_t>& rows, const Matrix& logits, int threads = 1) {
    const auto num_slots = static_cast<int64_t>(sampling.size());
    const auto num_rows = static_cast<int64_t>(rows.size());
    StepState state;
    state.num_outputs = num_outputs.view();
    state.last_tokens = last_tokens.view();
    state.token_masks = masks.view(num_slots, (vocab + 31) / 32);
    state.output_counts = counts.view(num_slots, vocab);
    state.prompt_seen = TensorView::of(seen.data(), {num_slots, vocab});
    state.bias_ids = bias_ids.view(num_slots, kMaxListed);
    state.bias_values = bias_values.view();
    state.banned_ids = banned_ids.view(num_slots, kMaxListed);
    state.sampling = sampling.data();
    const Ints row_slots{rows};
    StepInputs inputs;
    inputs.num_sampled_rows = num_rows;
    inputs.sampled_slots = row_slots.view();
    Outcome outcome;
    outcome.tokens.assign(num_rows, -7);
    outcome.adjusted = logits;
    outcome.logprobs.assign(num_rows, kPoison);
    outcome.top_ids.assign(num_rows * kMaxLogprobs, -7);
    outcome.top_logprobs = Matrix(num_rows, kMaxLogprobs);
    CpuBackend backend({.num_threads = threads});
    backend.sample(state, inputs, outcome.adjusted.view(),
                   {kMaxLogprobs, TensorView::of(outcome.tokens.data(), {num_rows}),
                    TensorView::of(outcome.logprobs.data(), {num_rows}),
                    TensorView::of(outcome.top_ids.data(), {num_rows, kMaxLogprobs}),
                    outcome.top_logprobs.view(), TensorView::of(&outcome.first_bad_row, {1})});
    return outcome;
  }

  // Draws number 0 .. count - 1 of slot 0 from one row of logits.
  std::vector<int32_t> draws(const Matrix& row, int count) {
    Slots many(count, vocab);
    many.sampling.assign(count, sampling[0]);
    Matrix logits(count, vocab);
    std::vector<int32_t> rows(count);
    for (int i = 0; i < count; ++i) {
      many.num_outputs.values[i] = i;
      rows[i] = i;
      std::copy_n(row.row(0), vocab, logits.row(i));
    }
    return many.run(rows, logits).tokens;
  }

  int64_t vocab;
  std::vector<SlotSampling> sampling;
  void allow(int slot, int32_t token) {
    const auto word = static_cast<size_t>(slot * ((vocab + 31) / 32) + token / 32);
    masks.values[word] =
        static_cast<int32_t>(static_cast<uint32_t>(masks.values[word]) | 1u << (token % 32));
  }

  Ints num_outputs, last_tokens, counts, bias_ids, banned_ids, masks;
  std::vector<uint8_t> seen;
  Matrix bias_values;
};

TEST(Sampling, PaddingRowsGiveTokenZero) {
  Slots slots(1, 100);
  Matrix logits = Matrix::random(2, 100, 21);
  logits.at(0, 3) = 50.0f;
  logits.at(1, 7) = kPoison;  // nobody looks at a padding row
  const auto outcome = slots.run({0, -1}, logits);
  EXPECT_EQ(outcome.tokens, (std::vector<int32_t>{3, 0}));
  EXPECT_EQ(outcome.first_bad_row, -1);
}

// --- greedy and temperature

TEST(Sampling, GreedyTakesTheLowestOfTheBest) {
  Slots slots(1, 9);
  slots.sampling[0].temperature = 0.0f;
  slots.sampling[0].top_k = 5;  // filters do not matter
  slots.sampling[0].top_p = 0.1f;
  Matrix logits = Matrix::random(1, 9, 1);
  logits.at(0, 7) = logits.at(0, 4) = logits.at(0, 8) = 9.0f;
  EXPECT_EQ(slots.run({0}, logits).tokens[0], 4);
  std::fill(logits.storage.begin(), logits.storage.end(), -3.0f);
  EXPECT_EQ(slots.run({0}, logits).tokens[0], 0);
}

TEST(Sampling, TemperatureGivesTheSoftmax) {
  constexpr int kDraws = 20'000;
  const Matrix logits = Matrix::random(1, 10, 2);
  for (const float temperature : {0.5f, 1.0f, 1.7f}) {
    Slots slots(1, 10);
    slots.sampling[0].temperature = temperature;
    slots.sampling[0].seed = 12345;
    std::array<int, 10> counts{};
    for (const int32_t token : slots.draws(logits, kDraws)) ++counts.at(token);
    double total = 0;
    for (int i = 0; i < 10; ++i) total += std::exp(logits.at(0, i) / temperature);
    double chi_square = 0;
    for (int i = 0; i < 10; ++i) {
      const double expected = kDraws * std::exp(logits.at(0, i) / temperature) / total;
      ASSERT_GT(expected, 5.0);
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 27.88) << temperature;  // 9 degrees of freedom, p = 0.001
  }
}

TEST(Sampling, TinyTemperatureIsGreedy) {
  Slots slots(1, 50);
  slots.sampling[0].temperature = 1e-40f;
  const Matrix logits = Matrix::random(1, 50, 3);
  const auto best = std::max_element(logits.row(0), logits.row(0) + 50) - logits.row(0);
  for (const int32_t token : slots.draws(logits, 50)) EXPECT_EQ(token, best);
}

// --- masks

TEST(Sampling, MasksLeaveWhatTheyAllow) {
  Slots slots(3, 70);
  for (auto& sampling : slots.sampling) sampling.temperature = 0.0f;
  Matrix logits = Matrix::random(3, 70, 31);
  for (int row = 0; row < 3; ++row) {
    logits.at(row, 5) = 50.0f;
    logits.at(row, 69) = 40.0f;
    slots.allow(row, 69);
    slots.allow(row, 31);
  }
  slots.sampling[1].mask = kMaskOn;
  slots.sampling[2].mask = kMaskOn;
  slots.sampling[2].num_biases = 1;  // a bias does not lift a mask, nor does it bring one down
  slots.bias_ids.values[2 * kMaxListed] = 5;
  slots.bias_values.at(2, 0) = 100.0f;
  EXPECT_EQ(slots.run({0, 1, 2}, logits).tokens, (std::vector<int32_t>{5, 69, 69}));
}

TEST(Sampling, MasksBeginBehindTheirToken) {
  Slots slots(4, 40);
  Matrix logits = Matrix::random(4, 40, 32);
  for (int row = 0; row < 4; ++row) {
    slots.sampling[row].temperature = 0.0f;
    slots.sampling[row].mask = mask_after(17);
    logits.at(row, 3) = 50.0f;
    logits.at(row, 9) = 40.0f;
    slots.allow(row, 9);
  }
  slots.last_tokens.values = {17, 16, -1, 17};
  // Before the mask an end may be banned; behind the token only the mask counts.
  for (const int row : {1, 3}) {
    slots.sampling[row].min_tokens = 1000;
    slots.sampling[row].num_banned = 2;
    slots.banned_ids.values[row * kMaxListed] = 3;
    slots.banned_ids.values[row * kMaxListed + 1] = 9;
  }
  const auto tokens = slots.run({0, 1, 2, 3}, logits).tokens;
  EXPECT_EQ(tokens[0], 9);
  EXPECT_NE(tokens[1], 3);
  EXPECT_NE(tokens[1], 9);
  EXPECT_EQ(tokens[2], 3);
  EXPECT_EQ(tokens[3], 9);
}

// Draws from the masked distribution, whose log-probabilities are those before the mask.
TEST(Sampling, MaskedDrawsAreTheSoftmaxOfWhatIsLeft) {
  const Matrix logits = Matrix::random(1, 64, 33);
  constexpr int kDraws = 4000;
  Slots slots(kDraws, 64);
  Matrix rows(kDraws, 64);
  std::vector<int32_t> order(kDraws);
  const std::vector<int32_t> allowed = {2, 33, 34, 63};
  for (int i = 0; i < kDraws; ++i) {
    slots.sampling[i].mask = kMaskOn;
    slots.sampling[i].num_logprobs = 0;
    slots.num_outputs.values[i] = i;
    for (const int32_t token : allowed) slots.allow(i, token);
    order[i] = i;
    std::copy_n(logits.row(0), 64, rows.row(i));
  }
  const auto outcome = slots.run(order, rows);
  std::map<int32_t, int> counts;
  for (const int32_t token : outcome.tokens) ++counts[token];
  double total = 0, all = 0;
  for (const int32_t token : allowed) total += std::exp(logits.at(0, token));
  for (int i = 0; i < 64; ++i) all += std::exp(logits.at(0, i));
  EXPECT_EQ(counts.size(), allowed.size());
  for (const int32_t token : allowed) {
    const double expected = kDraws * std::exp(logits.at(0, token)) / total;
    EXPECT_NEAR(counts[token], expected, 5 * std::sqrt(expected)) << token;
  }
  EXPECT_NEAR(outcome.logprobs[0], logits.at(0, outcome.tokens[0]) - std::log(all), 1e-5);
}

// --- filters

// The tokens that pass, most likely first, with their weights: top-k, then the shortest run of at
// least top_p of what is left, then those of at least min_p times the best.
std::vector<std::pair<int32_t, double>> kept_tokens(const SlotSampling& params,
                                                    const Matrix& logits) {
  std::vector<std::pair<int32_t, double>> kept;
  for (int32_t i = 0; i < logits.columns; ++i) kept.emplace_back(i, logits.at(0, i));
  std::stable_sort(kept.begin(), kept.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  const double best = kept[0].second;
  for (auto& [token, weight] : kept) weight = std::exp((weight - best) / params.temperature);
  if (params.top_k > 0) kept.resize(std::min<size_t>(kept.size(), params.top_k));
  double total = 0;
  for (const auto& [token, weight] : kept) total += weight;
  double sum = 0;
  size_t count = 0;
  while (count < kept.size() && (count == 0 || sum < params.top_p * total)) {
    sum += kept[count++].second;
  }
  if (params.top_p < 1.0f) kept.resize(count);
  std::erase_if(kept, [&](const auto& entry) { return entry.second < params.min_p; });
  return kept;
}

// Every draw is the one that inverting the kept tokens' distribution gives, and every kept token
// that is not rare comes up.
void check_filter(const SlotSampling& params, const Matrix& logits) {
  SCOPED_TRACE(fmt::format("top_k {} top_p {} min_p {} temperature {}", params.top_k, params.top_p,
                           params.min_p, params.temperature));
  constexpr int kDraws = 1500;
  Slots slots(1, logits.columns);
  slots.sampling[0] = params;
  const auto kept = kept_tokens(params, logits);
  double total = 0;
  for (const auto& [token, weight] : kept) total += weight;
  const auto draws = slots.draws(logits, kDraws);
  std::set<int32_t> seen;
  for (int i = 0; i < kDraws; ++i) {
    double target = philox_uniform(params.seed, static_cast<uint32_t>(i)) * total;
    size_t index = 0;
    while (index + 1 < kept.size() && target >= kept[index].second) target -= kept[index++].second;
    ASSERT_EQ(draws[i], kept[index].first) << "draw " << i;
    seen.insert(draws[i]);
  }
  for (const auto& [token, weight] : kept) {
    if (weight / total > 0.01) {
      EXPECT_TRUE(seen.contains(token)) << token;
    }
  }
  EXPECT_LE(seen.size(), kept.size());
}

TEST(Sampling, FiltersKeepExactlyTheRightTokens) {
  uint32_t seed = 10;
  for (const int32_t top_k : {0, 1, 4, 12, 100}) {
    for (const float top_p : {1.0f, 0.97f, 0.6f, 0.001f}) {
      for (const float min_p : {0.0f, 0.05f, 0.4f, 1.0f}) {
        SlotSampling params = neutral();
        params.top_k = top_k;
        params.top_p = top_p;
        params.min_p = min_p;
        params.temperature = seed % 2 ? 0.7f : 1.3f;
        params.seed = seed;
        check_filter(params, Matrix::random(1, 12, seed++));
      }
    }
  }
}

TEST(Sampling, FiltersWithTies) {
  Matrix logits(1, 8);
  const float values[8] = {1, 2, 2, 2, 0, 0, 2, -1};
  std::copy_n(values, 8, logits.row(0));
  for (const auto& [top_k, top_p, min_p] :
       std::vector<std::tuple<int, float, float>>{{2, 1.0f, 0.0f},     // the lower two of four
                                                  {0, 0.45f, 0.0f},    // two or three of four
                                                  {0, 1.0f, 1.0f},     // all four
                                                  {3, 0.5f, 1.0f}}) {  // two of three
    SlotSampling params = neutral();
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    check_filter(params, logits);
  }
}

TEST(Sampling, AWideVocabulary) {
  SlotSampling params = neutral();
  params.top_p = 0.9f;
  check_filter(params, Matrix::random(1, 3000, 11, 0, 4.0f));
}

// --- penalties, biases, bans

TEST(Sampling, PenaltiesFollowTheFormulas) {
  const Matrix logits = Matrix::random(1, 12, 12, 0, 3.0f);
  for (const auto& [repetition, presence, frequency] :
       std::vector<std::tuple<float, float, float>>{{1.0f, 0.0f, 0.0f},
                                                    {1.3f, 0.0f, 0.0f},
                                                    {0.7f, 0.0f, 0.0f},
                                                    {1.0f, 0.6f, 0.0f},
                                                    {1.0f, 0.0f, 0.9f},
                                                    {1.0f, -2.0f, -1.5f},
                                                    {1.5f, 0.5f, 0.25f}}) {
    Slots slots(2, 12);
    SlotSampling& params = slots.sampling[1];
    params.repetition_penalty = repetition;
    params.presence_penalty = presence;
    params.frequency_penalty = frequency;
    params.temperature = 0.0f;
    std::vector<double> want = to_double(logits.row(0), 12);
    for (int i = 0; i < 12; ++i) {
      const bool in_prompt = i % 3 == 0;
      const int count = i % 4 == 1 ? i : 0;
      slots.seen[12 + i] = in_prompt;
      slots.counts.values[12 + i] = count;
      slots.seen[i] = 1;  // slot 0's history is not slot 1's
      slots.counts.values[i] = 5;
      // vLLM: repetition over prompt and output, the others over the output alone.
      if (in_prompt || count > 0)
        want[i] = want[i] > 0 ? want[i] / repetition : want[i] * repetition;
      want[i] -= frequency * count;
      want[i] -= count > 0 ? presence : 0;
    }
    const auto outcome = slots.run({1}, logits);
    expect_near(outcome.adjusted, want, 1e-5);
    EXPECT_EQ(outcome.tokens[0], std::max_element(want.begin(), want.end()) - want.begin());
  }
}

TEST(Sampling, LogitBiasIsAdded) {
  const Matrix logits = Matrix::random(1, 12, 13);
  Slots slots(2, 12);
  slots.sampling[1].num_biases = 3;
  slots.sampling[1].temperature = 0.0f;
  const std::map<int, float> biases = {{3, 100.0f}, {0, -100.0f}, {11, 0.25f}};
  int64_t n = 0;
  auto want = to_double(logits.row(0), 12);
  for (const auto& [token, bias] : biases) {
    slots.bias_ids.values[kMaxListed + n] = token;
    slots.bias_values.at(1, n++) = bias;
    want[token] += bias;
  }
  const auto outcome = slots.run({1}, logits);
  expect_near(outcome.adjusted, want, 1e-5);
  EXPECT_EQ(outcome.tokens[0], 3);
}

TEST(Sampling, BansHoldBeforeMinTokens) {
  Matrix logits(1, 6);
  const float values[6] = {50, 40, 0, 1, 30, 2};
  std::copy_n(values, 6, logits.row(0));
  for (const float temperature : {0.0f, 1.0f}) {
    Slots slots(1, 6);
    SlotSampling& params = slots.sampling[0];
    params.temperature = temperature;
    params.min_tokens = 3;
    params.num_banned = 2;
    slots.banned_ids.values[0] = 0;
    slots.banned_ids.values[1] = 1;
    slots.banned_ids.values[2] = 4;  // past num_banned
    for (int num_outputs = 0; num_outputs < 5; ++num_outputs) {
      slots.num_outputs.values[0] = num_outputs;
      EXPECT_EQ(slots.run({0}, logits).tokens[0], num_outputs < 3 ? 4 : 0) << num_outputs;
    }
    // A bias does not lift a ban.
    params.num_biases = 1;
    slots.bias_ids.values[0] = 0;
    slots.bias_values.at(0, 0) = 100.0f;
    slots.num_outputs.values[0] = 0;
    EXPECT_EQ(slots.run({0}, logits).tokens[0], 4);
  }
}

TEST(Sampling, BannedTokensAreNeverDrawn) {
  Slots slots(1, 5);
  slots.sampling[0].min_tokens = 1 << 30;
  slots.sampling[0].num_banned = 4;
  for (int i = 0; i < 4; ++i) slots.banned_ids.values[i] = i + (i >= 2);  // all but 2
  Matrix logits = Matrix::random(1, 5, 14);
  for (int draw = 0; draw < 200; ++draw) {
    slots.num_outputs.values[0] = draw;
    ASSERT_EQ(slots.run({0}, logits).tokens[0], 2);
  }
}

// --- log-probabilities

TEST(Sampling, LogprobsAreThoseOfTheRawLogits) {
  const Matrix logits = Matrix::random(3, 40, 15, 0, 5.0f);
  Slots slots(3, 40);
  for (int slot = 0; slot < 3; ++slot) {
    SlotSampling& params = slots.sampling[slot];
    params.num_logprobs = slot == 0 ? 0 : slot == 1 ? 20 : -1;
    params.temperature = 0.3f;
    params.presence_penalty = 2.0f;
    params.num_biases = 1;
    slots.bias_ids.values[slot * kMaxListed] = 17;  // makes an unlikely token win
    slots.bias_values.at(slot, 0) = 100.0f;
    slots.counts.values[slot * 40 + 3] = 1;
  }
  const auto outcome = slots.run({0, 1, 2}, logits);
  for (int row = 0; row < 3; ++row) {
    EXPECT_EQ(outcome.tokens[row], 17);
    std::vector<double> want = to_double(logits.row(row), 40);
    double total = 0;
    for (const double value : want) total += std::exp(value);
    for (double& value : want) value -= std::log(total);
    if (row == 2) {  // did not ask: nothing is written
      EXPECT_TRUE(std::isnan(outcome.logprobs[row]));
      EXPECT_EQ(outcome.top_ids[row * kMaxLogprobs], -7);
      continue;
    }
    EXPECT_NEAR(outcome.logprobs[row], want[17], 1e-5);
    std::vector<int> order(40);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return want[a] > want[b]; });
    const int count = slots.sampling[row].num_logprobs;
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(outcome.top_ids[row * kMaxLogprobs + i], order[i]);
      EXPECT_NEAR(outcome.top_logprobs.at(row, i), want[order[i]], 1e-5);
    }
    if (count == 0) {
      EXPECT_EQ(outcome.top_ids[row * kMaxLogprobs], -7);
    }
  }
}

TEST(Sampling, MoreLogprobsThanTokens) {
  Slots slots(1, 3);
  slots.sampling[0].num_logprobs = 20;
  const auto outcome = slots.run({0}, Matrix::random(1, 3, 16));
  std::vector<int32_t> ids(outcome.top_ids.begin(), outcome.top_ids.begin() + 4);
  EXPECT_EQ(ids[3], -7);
  std::sort(ids.begin(), ids.begin() + 3);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 2, -7}));
}

// --- independence

TEST(Sampling, DrawsDependOnNothingButTheRequest) {
  constexpr int kSlots = 24;
  constexpr int64_t kVocab = 3000;
  Slots slots(kSlots, kVocab);
  for (int i = 0; i < kSlots; ++i) {
    SlotSampling& params = slots.sampling[i];
    params.seed = 1000 + i;
    params.temperature = i % 5 == 0 ? 0.0f : 1.2f;
    params.top_p = i % 3 == 0 ? 0.9f : 1.0f;
    params.num_logprobs = i % 4 == 0 ? 5 : -1;
    slots.num_outputs.values[i] = i * 3;
  }
  const Matrix logits = Matrix::random(kSlots, kVocab, 17);
  std::vector<int32_t> all(kSlots);
  std::iota(all.begin(), all.end(), 0);
  const auto want = slots.run(all, logits);
  for (const int threads : {2, 3}) EXPECT_EQ(slots.run(all, logits, threads).tokens, want.tokens);

  std::mt19937 engine(18);
  std::shuffle(all.begin(), all.end(), engine);
  Matrix shuffled(kSlots, kVocab);
  for (int i = 0; i < kSlots; ++i) std::copy_n(logits.row(all[i]), kVocab, shuffled.row(i));
  const auto outcome = slots.run(all, shuffled, 2);
  for (int i = 0; i < kSlots; ++i) {
    EXPECT_EQ(outcome.tokens[i], want.tokens[all[i]]);
    Matrix one(1, kVocab);
    std::copy_n(logits.row(all[i]), kVocab, one.row(0));
    EXPECT_EQ(slots.run({all[i]}, one).tokens[0], want.tokens[all[i]]);
  }
}

TEST(Sampling, SeedAndCounterChangeTheDraw) {
  const Matrix logits = Matrix::random(1, 500, 19, 0, 0.1f);
  Slots slots(1, 500);
  const auto draws = slots.draws(logits, 200);
  EXPECT_EQ(draws, slots.draws(logits, 200));
  EXPECT_GT(std::set<int32_t>(draws.begin(), draws.end()).size(), 120u);
  slots.sampling[0].seed = 2;
  const auto others = slots.draws(logits, 200);
  int num_equal = 0;
  for (int i = 0; i < 200; ++i) num_equal += draws[i] == others[i];
  EXPECT_LT(num_equal, 10);
}

// Broken weights are told instead of sorting what has no order; other rows are sampled.
TEST(Sampling, TellsLogitsThatAreNotFinite) {
  for (const float bad : {kPoison, INFINITY, -INFINITY}) {
    for (const float temperature : {0.0f, 1.0f}) {
      Slots slots(4, 100);
      for (auto& sampling : slots.sampling) sampling.temperature = temperature;
      Matrix logits = Matrix::random(4, 100, 20);
      const auto want = slots.run({0, 1, 2, 3}, logits);
      EXPECT_EQ(want.first_bad_row, -1);
      logits.at(1, 77) = bad;
      logits.at(3, 5) = bad;
      const auto got = slots.run({0, 1, 2, 3}, logits, 3);
      EXPECT_EQ(got.first_bad_row, 1) << bad;
      EXPECT_EQ(got.tokens, (std::vector<int32_t>{want.tokens[0], 0, want.tokens[2], 0}));
    }
  }
}

}  // namespace
}  // namespace deepflight
