// Rotation, page writes and both roads of latent attention against float64; bits that do not
// depend on company, chunking or threads.
#include <gtest/gtest.h>

#include "compute/cpu/attention_testing.h"

namespace deepflight {
namespace {

using namespace testing;  // NOLINT: the helpers of op_testing.h

// --- rope

// Rotates pair (a, b) by the table's angle; which elements pair up is the only difference.
std::vector<double> rope_reference(const Matrix& x, int64_t heads, int64_t dim,
                                   const Ints& positions, const Matrix& table, bool interleaved) {
  std::vector<double> result;
  for (int64_t t = 0; t < x.rows; ++t) {
    std::vector<double> row = to_double(x.row(t), x.columns);
    const float* cosines = table.row(positions.values[t]);
    for (int64_t head = 0; head < heads; ++head) {
      double* values = row.data() + head * dim;
      for (int64_t i = 0; i < dim / 2; ++i) {
        const int64_t first = interleaved ? 2 * i : i;
        const int64_t second = interleaved ? 2 * i + 1 : i + dim / 2;
        const double a = values[first];
        const double b = values[second];
        values[first] = a * cosines[i] - b * cosines[dim / 2 + i];
        values[second] = b * cosines[i] + a * cosines[dim / 2 + i];
      }
    }
    result.insert(result.end(), row.begin(), row.end());
  }
  return result;
}

TEST(Rope, RotatesPairsBothWays) {
  CpuBackend backend({.num_threads = 2});
  for (const auto& [heads, dim] : {std::pair<int, int>{1, 2}, {3, 8}, {128, 64}, {5, 6}}) {
    for (const bool interleaved : {true, false}) {
      const Matrix table = Matrix::random(40, dim, 1);
      Matrix x = Matrix::random(6, heads * dim, 2, 9);
      const Ints positions{0, 39, 7, 7, 1, 20};
      const auto want = rope_reference(x, heads, dim, positions, table, interleaved);
      backend.rope(x.view().split_last(heads, dim), positions.view(), {table.view(), interleaved});
      expect_near(x, want, 2e-6);
    }
  }
}

// The rope part of wider heads is rotated; what lies between stays as it is.
TEST(Rope, LeavesTheRestOfAHeadAlone) {
  CpuBackend backend({.num_threads = 1});
  const Matrix table = Matrix::random(4, 4, 3);
  Matrix q = Matrix::random(2, 3 * 10, 4);
  const Matrix before = q;
  const Ints positions{3, 2};
  backend.rope(q.view().split_last(3, 10).slice(2, 6, 4), positions.view(), {table.view(), true});
  for (int64_t t = 0; t < 2; ++t) {
    for (int64_t head = 0; head < 3; ++head) {
      const int64_t at = head * 10;
      EXPECT_TRUE(same_bits(q.row(t) + at, before.row(t) + at, 6));
      EXPECT_FALSE(same_bits(q.row(t) + at + 6, before.row(t) + at + 6, 4));
    }
  }
}

TEST(Rope, RefusesPositionsOutsideTheTable) {
  CpuBackend backend({.num_threads = 1});
  const Matrix table = Matrix::random(4, 4, 5);
  Matrix x = Matrix::random(1, 4, 6);
  for (const int32_t bad : {-1, 4}) {
    const Ints positions{bad};
    EXPECT_THROW(backend.rope(x.view().split_last(1, 4), positions.view(), {table.view(), true}),
                 CheckFailure);
  }
}

// --- page writes

TEST(WriteKv, ChangesOnlyTheAddressedBytes) {
  CpuBackend backend({.num_threads = 2});
  constexpr int64_t kDim = 12;
  for (const KvFormat format :
       {KvFormat::kF32, KvFormat::kBF16, KvFormat::kF8E4M3, KvFormat::kF8Group}) {
    KvPool pool{nullptr, format, 6, 3, kDim};
    pool.rope_dim = 4;
    std::vector<uint8_t> memory(pool.size_bytes(), 0xa5);
    pool.base = memory.data();
    Ints page_table{4, 1,  -1,  // slot 0
                    0, -1, -1,  // slot 1: takes no part
                    5, 2,  3};  // slot 2
    StepState state;
    state.page_table = page_table.view(3, 3);
    const Ints slots{0, 2, 2, 2, 0};
    const Ints positions{63, 0, 127, 128, 64};
    StepInputs inputs;
    inputs.num_tokens = 5;
    inputs.token_slots = slots.view();
    inputs.positions = positions.view();
    const Matrix latent = Matrix::random(5, kDim, 7, 4);
    backend.write_kv(latent.view(), state, inputs, pool, 1);

    std::vector<uint8_t> want(memory.size(), 0xa5);
    for (int64_t t = 0; t < 5; ++t) {
      const int32_t position = positions.values[t];
      const int64_t page = page_table.values[slots.values[t] * 3 + position / 64];
      const int64_t token = (page * 3 + 1) * 64 + position % 64;
      store_kv_token(pool, 1, latent.row(t), want.data() + token * pool.token_bytes());
    }
    EXPECT_EQ(memory, want);
  }
}

TEST(WriteKv, RefusesWhatIsNoPage) {
  CpuBackend backend({.num_threads = 1});
  KvPool pool{nullptr, KvFormat::kF32, 2, 1, 4};
  std::vector<float> memory(pool.size_bytes() / 4);
  pool.base = memory.data();
  const Matrix latent = Matrix::random(1, 4, 8);
  for (const int32_t page : {-1, 2, 1}) {
    for (const int32_t position : {0, 64, 128, -1}) {
      if (page == 1 && (position == 0 || position == 64)) continue;  // that is a page
      const Ints page_table{page, page}, slots{0}, positions{position};
      StepState state;
      state.page_table = page_table.view(1, 2);
      StepInputs inputs;
      inputs.num_tokens = 1;
      inputs.token_slots = slots.view();
      inputs.positions = positions.view();
      EXPECT_THROW(backend.write_kv(latent.view(), state, inputs, pool, 0), CheckFailure)
          << page << " at " << position;
    }
  }
}

TEST(WriteKv, RopeWriteKvIsItsDefinition) {
  CpuBackend backend({.num_threads = 1});
  const Matrix cos_sin = Matrix::random(8, 4, 9);
  const RopeTable table{cos_sin.view(), true};
  const Ints page_table{1}, slots{0, 0}, positions{3, 4};
  StepState state;
  state.page_table = page_table.view(1, 1);
  StepInputs inputs;
  inputs.num_tokens = 2;
  inputs.token_slots = slots.view();
  inputs.positions = positions.view();
  Matrix q = Matrix::random(2, 12, 10), latent = Matrix::random(2, 10, 11);
  Matrix q_unfused = q, latent_unfused = latent;
  std::vector<std::vector<float>> pools;
  for (const bool fused : {true, false}) {
    pools.emplace_back(2 * 64 * 10, 0.5f);
    const KvPool pool{pools.back().data(), KvFormat::kF32, 2, 1, 10};
    if (fused) {
      backend.rope_write_kv(q.view().split_last(3, 4), latent.view(), state, inputs, table, pool,
                            0);
    } else {
      backend.rope(q_unfused.view().split_last(3, 4), inputs.positions, table);
      backend.rope(latent_unfused.view().slice(1, 6, 4).split_last(1, 4), inputs.positions, table);
      backend.write_kv(latent_unfused.view(), state, inputs, pool, 0);
    }
  }
  EXPECT_EQ(pools[0], pools[1]);
  EXPECT_EQ(q.storage, q_unfused.storage);
  EXPECT_EQ(latent.storage, latent_unfused.storage);
}

// --- attention

constexpr double kTolerance = 2e-5;
const AttentionShape kSmall = {};
const AttentionShape kOddHeads = {.num_heads = 3, .latent = 24, .nope = 10, .rope = 6, .v = 14};
const AttentionShape kOneHead = {.num_heads = 1, .latent = 7, .nope = 5, .rope = 2, .v = 3};
const AttentionShape kPublished = {
    .num_heads = 2, .latent = 512, .nope = 128, .rope = 64, .v = 128};

// Decode rows and chunks side by side, lengths around the page size.
const std::vector<AttentionSequence> kMix = {{1, 1},   {63, 1},   {64, 1},  {65, 1},
                                             {200, 1}, {1, 1},    {63, 63}, {64, 10},
                                             {65, 65}, {200, 70}, {200, 2}, {129, 64}};

class AttentionTest : public ::testing::TestWithParam<KvFormat> {};

TEST_P(AttentionTest, BothRoadsAgainstFloat64) {
  CpuBackend backend({.num_threads = 2});
  uint32_t seed = 20;
  for (const AttentionShape& shape : {kSmall, kOddHeads, kOneHead, kPublished}) {
    SCOPED_TRACE(fmt::format("{} heads of {}", shape.num_heads, shape.nope));
    const AttentionWorld world(shape, kMix, GetParam(), seed++);
    const auto want = world.reference();
    const Matrix absorbed = world.run(backend, true);
    expect_near(absorbed, want, kTolerance);
    const Matrix expanded = world.run(backend, false);
    expect_near(expanded, want, kTolerance);
    for (int64_t row = 0; row < absorbed.rows; ++row) {
      for (int64_t i = 0; i < absorbed.columns; ++i) {
        ASSERT_NEAR(absorbed.at(row, i), expanded.at(row, i), kTolerance);
      }
    }
  }
}

// As MTP modules ask: the first positions are no keys, and their own queries may see nothing.
TEST_P(AttentionTest, KeysBeforeTheFirstAreNotSeen) {
  CpuBackend backend({.num_threads = 2});
  for (const int64_t first_key : {1, 2, 5, 64}) {
    const AttentionWorld world(kOddHeads, kMix, GetParam(), 30, first_key);
    const auto want = world.reference();
    expect_near(world.run(backend, true), want, kTolerance);
    expect_near(world.run(backend, false), want, kTolerance);
  }
}

TEST_P(AttentionTest, RandomBatches) {
  CpuBackend backend({.num_threads = 2});
  std::mt19937 engine(21);
  for (uint32_t round = 0; round < 12; ++round) {
    std::vector<AttentionSequence> sequences(1 + engine() % 6);
    for (auto& sequence : sequences) {
      sequence.kv_len = 1 + engine() % 200;
      sequence.num_queries =
          1 + static_cast<int64_t>(engine() % 3 == 0 ? engine() % sequence.kv_len : 0);
    }
    const AttentionWorld world(round % 2 ? kSmall : kOddHeads, sequences, GetParam(), 100 + round);
    const auto want = world.reference();
    expect_near(world.run(backend, true), want, kTolerance);
    expect_near(world.run(backend, false), want, kTolerance);
  }
}

TEST_P(AttentionTest, BitsDependOnNothingButTheSequence) {
  const AttentionWorld world(kOddHeads, kMix, GetParam(), 22);
  for (const bool absorbed : {true, false}) {
    CpuBackend one_thread({.num_threads = 1});
    const Matrix all = world.run(one_thread, absorbed);
    for (const int threads : {2, 3}) {
      CpuBackend backend({.num_threads = threads});
      const Matrix again = world.run(backend, absorbed);
      EXPECT_EQ(std::memcmp(all.storage.data(), again.storage.data(), all.storage.size() * 4), 0)
          << threads << " threads";
    }
    CpuBackend backend({.num_threads = 2});
    for (int s = 0; s < static_cast<int>(kMix.size()); ++s) {
      const int64_t last_row = world.first_row(s) + kMix[s].num_queries;
      for (const int64_t max_queries : {1, 3, 17, 64, 1 << 30}) {
        const Matrix alone = world.run(backend, absorbed, {s}, max_queries);
        for (int64_t i = 0; i < alone.rows; ++i) {
          ASSERT_TRUE(same_bits(alone.row(i), all.row(last_row - alone.rows + i), alone.columns))
              << "sequence " << s << ", last " << max_queries << " queries, row " << i;
        }
      }
    }
    const Matrix reordered = world.run(backend, absorbed, {9, 4, 0});
    EXPECT_TRUE(same_bits(reordered.row(0), all.row(world.first_row(9)), all.columns));
    EXPECT_TRUE(same_bits(reordered.row(70), all.row(world.first_row(4)), all.columns));
    EXPECT_TRUE(same_bits(reordered.row(71), all.row(world.first_row(0)), all.columns));
  }
}

// Scores of hundreds: the running maximum must keep the exponentials in range.
TEST_P(AttentionTest, LargeScores) {
  CpuBackend backend({.num_threads = 1});
  AttentionShape shape = kSmall;
  shape.rope = 512;  // q_pe . k_pe of 512 normal pairs has a deviation of 22 * 0.2
  const AttentionWorld world(shape, {{200, 3}, {65, 1}}, GetParam(), 23);
  const auto want = world.reference();
  expect_near(world.run(backend, true), want, 1e-4);
  expect_near(world.run(backend, false), want, 1e-4);
}

TEST_P(AttentionTest, NothingToDo) {
  CpuBackend backend({.num_threads = 1});
  const AttentionWorld world(kSmall, {{65, 1}}, GetParam(), 24);
  for (const bool absorbed : {true, false}) {
    EXPECT_EQ(world.run(backend, absorbed, {0}, 0).rows, 0);
  }
}

std::string format_name(const ::testing::TestParamInfo<KvFormat>& info) {
  const char* const names[] = {"F32", "BF16", "F8", "F8Group"};
  return names[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Formats, AttentionTest,
                         ::testing::Values(KvFormat::kF32, KvFormat::kBF16, KvFormat::kF8E4M3,
                                           KvFormat::kF8Group),
                         format_name);

}  // namespace
}  // namespace deepflight
