// Absorbed attention against float64, with NaN in everything that must not be read.
//
// The e4m3 kernel takes rounded queries, as the reference does, and rounds weights, which that does
// not: relative errors d_j of at most 2^-4 / sqrt(3) in the square mean give sum(w_j (d_j - mean d)
// v_j) beside sum(w_j v_j), of as many vectors about at right angles. Where weights are equal they
// round alike, and BF16's bound holds. A model of the arithmetic in float64 stays below 3.1%.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "compute/cuda/kernels/attention/mla_decode/mla_decode_testing.h"

namespace deepflight::cuda_mla_decode {
namespace {

void check(const Shape& shape, bool fast, int64_t head_step = 1) {
  SCOPED_TRACE(::testing::Message() << "heads " << shape.heads << " latent " << shape.latent
                                    << " format " << static_cast<int>(shape.format) << " sequences "
                                    << shape.sequences.size() << " fast " << fast);
  const World world(shape);
  if (fast) {
    ASSERT_TRUE(mla_decode_is_fast(world.problem(1, true)));
    world.prepare(nullptr);
  }
  for (int64_t layer = 1; layer < kLayers; ++layer) {
    world.poison();
    launch_mla_decode(world.problem(layer, fast), nullptr);
    const auto first = world.result();
    world.expect_right(layer, fast, head_step);
    for (int again = 0; again < 3; ++again) {
      world.poison();
      launch_mla_decode(world.problem(layer, fast), nullptr);
      ASSERT_EQ(first, world.result());
    }
  }
}

const std::vector<Sequence> kRagged = {{1, 1},   {64, 1},   {7, 2, true}, {65, 6},
                                       {700, 2}, {129, 65}, {0, 1},       {3, 5}};

TEST(MlaDecode, Generic) {
  for (const PageFormat format : kFormats) {
    check({1, 512, 64, format, kRagged}, false);
    check({4, 512, 64, format, kRagged}, false);
    check({2, 16, 8, format, kRagged}, false);
    check({3, 32, 8, format, {{3000, 1}, {5, 0}, {300, 300}}}, false);
    check({128, 512, 64, format, {{200, 1}, {1, 1, true}, {130, 2}}}, false);
  }
}

void check_fast(PageFormat format) {
  for (const int64_t heads : {1, 3, 4, 16, 32, 64, 96, 128}) {
    check({heads, 512, 64, format, kRagged}, true);
    check({heads, 512, 64, format, {{200, 1}, {1, 1, true}, {130, 2}}}, true);
    check({heads, 512, 64, format, {{3000, 1}}}, true);
    check({heads, 512, 64, format, {{64, 1}}}, true);
    check({heads, 512, 64, format, {{1, 1}}}, true);
    check({heads, 512, 64, format, {{5, 3, true}}}, true);
    check({heads, 512, 64, format, {{300, 300}, {77, 1}, {5, 0}}}, true, 16);
  }
}
// Batches as decode steps have them: the same number of queries each, any lengths.
void check_batches(PageFormat format) {
  for (const int64_t queries : {1, 2, 4, 6}) {
    for (const int64_t heads : {16, 128}) {
      std::vector<Sequence> sequences;
      std::mt19937 random(static_cast<unsigned>(queries));
      for (int i = 0; i < 72; ++i) {  // more than pairs of SMs
        const int64_t kv_len = std::max<int64_t>(queries, random() % (i % 8 == 0 ? 3500 : 600));
        sequences.push_back({kv_len, queries, i % 13 == 5});
      }
      check({heads, 512, 64, format, sequences}, true, heads / 8);
    }
  }
}

// As MTP modules ask: the first positions are no keys, and a query may see none.
TEST(MlaDecode, KeysBeforeTheFirstAreNotSeen) {
  for (const PageFormat format : {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group}) {
    for (const int64_t first_key : {1, 2, 5, 64}) {
      const auto check_from = [&](Shape shape, bool fast, int64_t head_step = 1) {
        shape.first_key = first_key;
        check(shape, fast, head_step);
      };
      check_from({4, 512, 64, format, kRagged}, true);
      check_from({128, 512, 64, format, kRagged}, true, 16);
      check_from({4, 512, 64, format, {{3000, 1}, {300, 300}}}, true);
      check_from({4, 512, 64, format, kRagged}, false);
      check_from({2, 16, 8, format, kRagged}, false);
    }
  }
}

TEST(MlaDecode, Bf16) { check_fast(PageFormat::kBF16); }
TEST(MlaDecode, Bf16Batches) { check_batches(PageFormat::kBF16); }
TEST(MlaDecode, E4m3) { check_fast(PageFormat::kF8E4M3); }
TEST(MlaDecode, E4m3Batches) { check_batches(PageFormat::kF8E4M3); }
TEST(MlaDecode, Group) { check_fast(PageFormat::kF8Group); }
TEST(MlaDecode, GroupBatches) { check_batches(PageFormat::kF8Group); }

// Weights without rounding errors: equal ones, and (almost) a single one. Tail pages too.
TEST(MlaDecode, E4m3Equal) {
  for (const int64_t heads : {1, 16, 128}) {
    for (const float size : {0.0f, 40.0f}) {
      check({heads, 512, 64, PageFormat::kF8E4M3, kRagged, size}, true);
      check({heads,
             512,
             64,
             PageFormat::kF8E4M3,
             {{3000, 1}, {200, 1}, {1, 1, true}, {130, 2}},
             size},
            true);
    }
  }
}

// Queries that are not numbers, or have such scales, must not leave their rows.
TEST(MlaDecode, E4m3OddQueries) {
  World world({16, 512, 64, PageFormat::kF8E4M3, {{700, 1}}});
  world.prepare(nullptr);
  world.poison();
  launch_mla_decode(world.problem(1, true), nullptr);
  const auto want = world.result();
  world.set_query(3 * 576 + 100, 0x7f);
  world.set_query_scale(7, INFINITY);
  world.poison();
  launch_mla_decode(world.problem(1, true), nullptr);
  const auto got = world.result();
  for (int64_t i = 0; i < std::ssize(want); ++i) {
    if (i / 512 != 3 && i / 512 != 7) {
      ASSERT_EQ(got[i], want[i]) << i;
    }
  }
}

// Means of values near 1 over one long row of pages a block, where rounding towards zero in the
// tensor cores would show: their sums are kept short.
TEST(MlaDecode, E4m3LongSums) {
  constexpr int64_t kPages = 64, kDim = 576, kHeads = 1;
  const int64_t num_sequences = DeviceInfo::current().num_sms;
  std::vector<uint8_t> host_pool(kPages * 64 * kDim);
  const auto noise = random_normal(std::ssize(host_pool), 0.25f, 3);
  std::vector<double> mean(512, 0);
  for (int64_t i = 0; i < std::ssize(host_pool); ++i) {
    host_pool[i] = f32_to_f8e4m3(1 + noise[i]);
    if (i % kDim < 512) mean[i % kDim] += f8e4m3_to_f32(host_pool[i]) / (kPages * 64.0);
  }
  const DeviceArray<uint8_t> pool(host_pool);
  const DeviceArray<uint8_t> q(std::vector<uint8_t>(num_sequences * kDim, 0));
  const DeviceArray<float> q_scales(std::vector<float>(num_sequences, 1.0f));
  const DeviceArray<uint16_t> out(num_sequences * 512);
  std::vector<int32_t> slots(num_sequences), offsets(num_sequences + 1);
  std::iota(slots.begin(), slots.end(), 0);
  std::iota(offsets.begin(), offsets.end(), 0);
  const DeviceArray<int32_t> d_slots(slots), d_offsets(offsets);
  const DeviceArray<uint8_t> scratch(mla_decode_scratch_bytes());
  const DeviceArray<uint8_t> metadata(
      mla_decode_metadata_bytes(num_sequences, num_sequences, kHeads));
  for (const int64_t kv_len : {4096, 16384, 65536}) {
    std::vector<int32_t> table(num_sequences * (kv_len / 64));
    for (int64_t i = 0; i < std::ssize(table); ++i) table[i] = static_cast<int32_t>(i % kPages);
    const DeviceArray<int32_t> d_table(table);
    const DeviceArray<int32_t> lens(
        std::vector<int32_t>(num_sequences, static_cast<int32_t>(kv_len)));
    MlaDecodeProblem p;
    p.num_heads = kHeads, p.latent_dim = 512, p.rope_dim = 64, p.softmax_scale = kScale;
    p.num_sequences = p.num_tokens = num_sequences;
    p.query_offsets = d_offsets.data(), p.kv_lens = lens.data(), p.slots = d_slots.data();
    p.q = q.data(), p.q_stride = p.q_head_stride = kDim, p.query_scales = q_scales.data();
    p.out = out.data(), p.out_stride = p.out_head_stride = 512;
    p.pool = pool.data(), p.num_pages = kPages, p.page_stride_bytes = 64 * kDim;
    p.format = PageFormat::kF8E4M3;
    p.page_table = d_table.data(), p.page_table_stride = kv_len / 64;
    prepare_mla_decode(p, metadata.data(), nullptr);
    p.metadata = metadata.data(), p.scratch = scratch.data();
    launch_mla_decode(p, nullptr);
    const auto got = from_bf16(out.host());
    double sum = 0;
    for (int64_t i = 0; i < std::ssize(got); ++i) sum += got[i] / mean[i % 512] - 1;
    const double bias = sum / static_cast<double>(std::ssize(got));
    fmt::print("e4m3, {} keys a block: mean relative error {:.2e}\n", kv_len, bias);
    EXPECT_LE(std::abs(bias), 6e-3);
  }
}

void check_graph(PageFormat format) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < 20; ++i) sequences.push_back({100 + 137 * i % 2000, 2, i == 7});
  for (const int64_t heads : {16, 128}) {
    World world({heads, 512, 64, format, sequences});
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    world.prepare(stream);  // attributes are set before a capture
    launch_mla_decode(world.problem(1, true), stream);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    world.prepare(stream);
    launch_mla_decode(world.problem(1, true), stream);
    launch_mla_decode(world.problem(2, true), stream);
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (const int64_t by : {0, 64, 99, 1500}) {
      world.shorten(by);
      world.poison();
      CUDA_CHECK(cudaDeviceSynchronize());
      CUDA_CHECK(cudaGraphLaunch(exec, stream));
      CUDA_CHECK(cudaStreamSynchronize(stream));
      world.expect_right(2, true, heads / 8);
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaStreamDestroy(stream));
  }
}

TEST(MlaDecode, Bf16GraphSeesNewLengths) { check_graph(PageFormat::kBF16); }
TEST(MlaDecode, E4m3GraphSeesNewLengths) { check_graph(PageFormat::kF8E4M3); }

// Rows of a step that have other bits than the same rows of a step of their sequence alone.
int64_t count_other_rows(const World& world, const std::vector<World::Pick>& picks, int64_t queries,
                         int64_t heads, bool batch_invariant) {
  const auto together = world.run(picks, batch_invariant);
  const int64_t row = heads * 512;
  int64_t at = 0, num_other = 0;
  for (const auto& pick : picks) {
    const auto alone = world.run({{pick.sequence, queries}}, batch_invariant);
    for (int64_t i = 0; i < pick.queries; ++i, at += row) {
      num_other += std::memcmp(together.data() + at, alone.data() + i * row, row * 2) != 0;
    }
  }
  return num_other;
}

// Batch-invariant steps: rows have the same bits alone, in any company and order, and with fewer
// query tokens behind them (drafts).
void check_invariance(PageFormat format) {
  constexpr int64_t kQueries = 4, kSequences = 40;
  std::mt19937 random(9);
  std::vector<Sequence> sequences;
  for (int i = 0; i < kSequences; ++i) {
    sequences.push_back({kQueries + static_cast<int64_t>(random() % (i % 4 == 0 ? 3500 : 400)),
                         kQueries, i % 13 == 5});
  }
  sequences[3].kv_len = 66;  // a page that only the last two queries see
  for (const int64_t heads : {4, 16, 128}) {
    SCOPED_TRACE(::testing::Message()
                 << "heads " << heads << " format " << static_cast<int>(format));
    const World world({heads, 512, 64, format, sequences});
    std::vector<World::Pick> picks;
    for (int64_t s = 0; s < kSequences; ++s) picks.push_back({s, kQueries});
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
    // That is no matter of course: blocks share out the pages of a sequence that is alone.
    EXPECT_GT(count_other_rows(world, picks, kQueries, heads, false), 0);
    std::reverse(picks.begin(), picks.end());
    for (World::Pick& pick : picks) pick.queries = 1 + static_cast<int64_t>(random() % kQueries);
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
    picks.resize(7);
    for (World::Pick& pick : picks) pick.queries = 1;
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
  }
}

TEST(MlaDecode, Bf16RowsDoNotDependOnTheBatch) { check_invariance(PageFormat::kBF16); }
TEST(MlaDecode, E4m3RowsDoNotDependOnTheBatch) { check_invariance(PageFormat::kF8E4M3); }

// Short: for compute-sanitizer.
TEST(MlaDecodeSanitize, Fast) {
  for (const PageFormat format : kFormats)
    check({16, 512, 64, format, {{400, 2}, {7, 1, true}}}, true);
}

}  // namespace
}  // namespace deepflight::cuda_mla_decode
