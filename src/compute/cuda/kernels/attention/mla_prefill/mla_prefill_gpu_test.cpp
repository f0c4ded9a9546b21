// Expanded attention against float64, with NaN in everything that must not be read.
#include "compute/cuda/kernels/attention/mla_prefill/mla_prefill_testing.h"

namespace deepflight::cuda_mla_prefill {
namespace {

// Both kernels against float64, and the fast one against the generic one everywhere, twice.
void check_world(const World& world) {
  MlaPrefillCase test(world);
  const std::vector<float> generic = test.run(Kernel::kGeneric);
  test.check(generic, "generic");
  if (::testing::Test::HasFailure()) return;
  const std::vector<float> fast = test.run(Kernel::kDefault);
  test.check(fast, "fast");
  const std::vector<double> want(generic.begin(), generic.end());
  EXPECT_LE(relative_error(fast, want), 8e-3);
  int shown = 0;
  for (size_t i = 0; i < fast.size() && shown < 8; ++i) {
    if (std::abs(fast[i] - want[i]) <= 0.02 + 0.02 * std::abs(want[i])) continue;
    const size_t width = world.heads * world.v;
    ADD_FAILURE() << "token " << i / width << " head " << i % width / world.v << " column "
                  << i % world.v << ": " << fast[i] << " instead of " << want[i];
    ++shown;
  }
  if (shown > 0) return;
  for (int i = 0; i < 2; ++i) {
    const std::vector<float> again = test.run(Kernel::kDefault);
    EXPECT_EQ(std::memcmp(again.data(), fast.data(), fast.size() * sizeof(float)), 0)
        << "differs from run to run";
  }
}

World small_world(int64_t heads, int64_t latent, int64_t nope, int64_t rope, int64_t v) {
  World world;
  world.heads = heads;
  world.latent = latent;
  world.nope = nope;
  world.rope = rope;
  world.v = v;
  world.scale = 0.2f;
  world.chunk_tokens = 256;
  world.sequences = {{1, 1}, {65, 65}, {0, 0}, {300, 7}, {130, 129}, {700, 300}};
  return world;
}

TEST(MlaPrefill, SmallModels) {
  check_world(small_world(4, 32, 16, 8, 16));
  check_world(small_world(2, 16, 8, 8, 16));
  check_world(small_world(3, 20, 12, 6, 10));  // nothing aligned
  for (const PageFormat format : {PageFormat::kF8E4M3, PageFormat::kF8Group}) {
    World world = small_world(4, 32, 16, 8, 16);
    world.format = format;
    check_world(world);
    world = small_world(3, 20, 12, 6, 10);
    world.format = format;
    check_world(world);
  }
}

// One block of keys, one tile: what a wrong descriptor or layout breaks first.
TEST(MlaPrefill, OneBlock) {
  World world;
  world.heads = 1;
  world.chunk_tokens = 128;
  for (const int64_t len : {1, 64, 128}) {
    world.sequences = {{len, len}};
    check_world(world);
  }
  world.heads = 2;
  world.sequences = {{128, 1}};
  check_world(world);
}

TEST(MlaPrefill, SeveralBlocks) {
  World world;
  for (const Sequence& sequence :
       {Sequence{129, 129}, {256, 128}, {500, 500}, {640, 100}, {1000, 1000}}) {
    world.sequences = {sequence};
    check_world(world);
  }
}

TEST(MlaPrefill, ChunksOfKvAreJoined) {
  World world;
  world.chunk_tokens = 256;
  world.sequences = {{1000, 1000}};
  check_world(world);
  world.sequences = {{3000, 65}, {300, 300}, {257, 2}};
  check_world(world);
  world.chunk_tokens = 128;
  world.sequences = {{129, 129}, {513, 200}};
  check_world(world);
}

TEST(MlaPrefill, RaggedBatches) {
  for (const int64_t heads : {1, 4, 16}) {
    World world;
    world.heads = heads;
    world.chunk_tokens = 768;
    world.sequences = {{1, 1},     {63, 63},   {64, 64},    {700, 65},   {127, 127},
                       {128, 128}, {129, 129}, {1500, 500}, {2048, 333}, {77, 1}};
    check_world(world);
  }
}

TEST(MlaPrefill, ManyShortSequences) {
  World world;
  world.chunk_tokens = 16384;
  for (int64_t i = 0; i < 70; ++i) world.sequences.push_back({1 + i * 3 % 140, 0});
  for (int64_t i = 0; i < 70; ++i)
    world.sequences[i].query_len = (world.sequences[i].kv_len + 1) / 2;
  check_world(world);
}

// As MTP modules ask: the first positions are no keys, and a query may see none.
TEST(MlaPrefill, KeysBeforeTheFirstAreNotSeen) {
  for (const int64_t first_key : {1, 2, 5, 64}) {
    World world;
    world.chunk_tokens = 256;
    world.first_key = first_key;
    world.sequences = {{1, 1}, {65, 65}, {300, 300}, {300, 7}, {700, 300}, {64, 64}};
    check_world(world);
    world = small_world(4, 32, 16, 8, 16);
    world.first_key = first_key;
    check_world(world);
  }
}

TEST(MlaPrefill, AllHeads) {
  World world;
  world.heads = 128;
  world.scale = 0.13523f;
  world.chunk_tokens = 1024;
  world.sequences = {{1000, 1000}, {3000, 500}, {1100, 129}};
  check_world(world);
}

TEST(MlaPrefill, E4m3Pools) {
  for (const PageFormat format : {PageFormat::kF8E4M3, PageFormat::kF8Group}) {
    World world;
    world.heads = 16;
    world.format = format;
    world.chunk_tokens = 512;
    world.sequences = {{500, 500}, {1100, 64}, {65, 63}};
    check_world(world);
  }
}

// What the sanitizers can follow in seconds: several blocks and chunks, ragged ends, both kernels.
TEST(MlaPrefillSanitize, Short) {
  World world;
  world.heads = 2;
  world.chunk_tokens = 256;
  world.sequences = {{300, 150}, {65, 65}, {1, 1}};
  check_world(world);
}

// Scores so far from zero that weights leave what a float can hold, on either side: offsets move.
TEST(MlaPrefill, LargeScores) {
  for (const float scale : {1.0f, 5.0f, 20.0f, 100.0f}) {
    World world;
    world.scale = scale;
    world.chunk_tokens = 256;
    world.sequences = {{900, 900}, {300, 7}, {64, 64}, {1, 1}};
    MlaPrefillCase test(world);
    const std::vector<float> generic = test.run(Kernel::kGeneric);
    const std::vector<float> fast = test.run(Kernel::kDefault);
    EXPECT_LE(relative_error(fast, std::vector<double>(generic.begin(), generic.end())), 1e-2)
        << scale;
  }
}

// Rows have the same bits however their prompt was cut into chunks, and with other sequences in the
// step or none. Scores far enough from zero that offsets move, at other keys for each row.
TEST(MlaPrefill, RowsDoNotDependOnTheStep) {
  World world;
  world.heads = 8;
  world.scale = 15.0f;
  world.chunk_tokens = 512;
  world.sequences = {{1500, 1400}, {300, 300}, {700, 77}, {64, 64}};
  const MlaPrefillCase test(world);
  const auto rows_differ = [&](const std::vector<uint16_t>& got, int64_t got_row,
                               const std::vector<uint16_t>& want, int64_t want_row) {
    const int64_t width = world.heads * world.v;
    return std::memcmp(got.data() + got_row * width, want.data() + want_row * width, width * 2) !=
           0;
  };
  for (const Kernel kernel : {Kernel::kDefault, Kernel::kGeneric}) {
    for (int64_t s = 0; s < static_cast<int64_t>(world.sequences.size()); ++s) {
      const int64_t queries = world.sequences[s].query_len;
      const auto whole = test.run({{s, 0, queries}}, kernel);
      for (const int64_t chunk : {1, 37, 64, 500}) {
        if (queries / chunk > 400) continue;
        for (const bool company : {false, true}) {
          int64_t num_other = 0;
          for (int64_t first = 0; first < queries; first += chunk) {
            const int64_t count = std::min(chunk, queries - first);
            std::vector<MlaPrefillCase::Part> parts = {{s, first, count}};
            if (company) parts.insert(parts.begin(), {(s + 1) % 4, first % 60, 1 + first % 4});
            const auto got = test.run(parts, kernel);
            const int64_t before = company ? parts[0].num_queries : 0;
            for (int64_t i = 0; i < count; ++i) {
              num_other += rows_differ(got, before + i, whole, first + i);
            }
          }
          EXPECT_EQ(num_other, 0) << "sequence " << s << " chunks of " << chunk
                                  << (company ? " in company" : " alone")
                                  << (kernel == Kernel::kDefault ? "" : ", generic");
        }
      }
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_mla_prefill
