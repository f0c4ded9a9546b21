// Streams, graphs, scratch and the uploader.
#include "base/check.h"
#include "compute/cuda/runtime/gpu_testing.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"
#include "compute/cuda/runtime/timeline.h"
#include "compute/cuda/runtime/uploader.h"

namespace deepflight {
namespace {

TEST(Graph, ReplaysWhatWasIssued) {
  Stream stream;
  testing::DeviceArray<int32_t> values(std::vector<int32_t>{1, 2, 3, 4});
  testing::DeviceArray<int32_t> copy(4);
  const Graph graph(stream, [&] {
    CUDA_CHECK(
        cudaMemcpyAsync(copy.data(), values.data(), 16, cudaMemcpyDeviceToDevice, stream.get()));
  });
  EXPECT_EQ(copy.host(), (std::vector<int32_t>{-1, -1, -1, -1}));
  graph.launch(stream);
  EXPECT_EQ(copy.host(), (std::vector<int32_t>{1, 2, 3, 4}));
}

TEST(Graph, AFailedCaptureLeavesTheStreamUsable) {
  Stream stream;
  EXPECT_THROW(Graph(stream, [] { throw std::runtime_error("no"); }), std::runtime_error);
  testing::DeviceArray<int32_t> values(4);
  CUDA_CHECK(cudaMemsetAsync(values.data(), 0, 16, stream.get()));
  EXPECT_EQ(values.host(), (std::vector<int32_t>{0, 0, 0, 0}));
}

TEST(ScratchArena, GrowsUntilFrozen) {
  ScratchArena arena;
  void* first = arena.get(1000);
  EXPECT_EQ(arena.get(500), first);
  EXPECT_NE(arena.get(1 << 20), nullptr);
  arena.freeze();
  EXPECT_NO_THROW(arena.get(1 << 20));
  EXPECT_THROW(arena.get((1 << 20) + 1), CheckFailure);
}

TEST(Uploader, CopiesAllBytes) {
  Uploader uploader(3);
  for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t{4097}, (int64_t{16} << 20) + 3,
                             (int64_t{100} << 20) + 77}) {
    std::vector<uint8_t> source(size);
    std::mt19937_64 engine(static_cast<uint64_t>(size));
    for (auto& byte : source) byte = static_cast<uint8_t>(engine());
    testing::DeviceArray<uint8_t> target(size + 1);
    uploader.copy(target.data(), source.data(), size);
    const auto expected = source;
    std::fill(source.begin(), source.end(), uint8_t{0});  // the source is free again
    uploader.finish();
    auto got = target.host();
    EXPECT_EQ(got.back(), 0xff) << size;
    got.pop_back();
    EXPECT_TRUE(got == expected) << size;
  }
}

// Many pieces in blocks that they do not fit evenly: all arrive, and small ones share blocks.
TEST(Uploader, PiecesOfAllSizesInSmallBlocks) {
  Uploader uploader(2, 4096, 2);
  std::mt19937_64 engine(5);
  std::vector<uint8_t> expected;
  const int64_t total = 300'000;
  testing::DeviceArray<uint8_t> target(total);
  while (static_cast<int64_t>(expected.size()) < total) {
    const auto left = total - static_cast<int64_t>(expected.size());
    const auto size = std::min<int64_t>(left, static_cast<int64_t>(engine() % 9000));
    std::vector<uint8_t> piece(size);
    for (auto& byte : piece) byte = static_cast<uint8_t>(engine());
    uploader.copy(target.data() + expected.size(), piece.data(), size);
    expected.insert(expected.end(), piece.begin(), piece.end());
  }
  uploader.finish();
  EXPECT_TRUE(target.host() == expected);
}

TEST(Uploader, ProducersSeeEveryByteOnce) {
  Uploader uploader(4);
  const int64_t count = (int64_t{40} << 20) / 4 + 5;
  testing::DeviceArray<uint32_t> target(count);
  uploader.copy(target.data(), count * 4, [](int64_t begin, int64_t size, char* to) {
    EXPECT_EQ(begin % 256, 0);
    for (int64_t i = 0; i < size / 4; ++i) {
      reinterpret_cast<uint32_t*>(to)[i] = static_cast<uint32_t>(begin / 4 + i);
    }
  });
  uploader.finish();
  const auto got = target.host();
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(got[i], i);
}

TEST(Timeline, TellsWhatRanAndInWhichOp) {
  Stream stream;
  testing::DeviceArray<uint8_t> memory(int64_t{64} << 20);
  CUDA_CHECK(cudaMemsetAsync(memory.data(), 0, 16, stream.get()));
  stream.synchronize();
  for (int round = 0; round < 2; ++round) {
    const Status started = Timeline::start();
    ASSERT_TRUE(started.ok()) << started.error().message;
    Timeline::set_section("layer 1");
    {
      const TimelineRange range("fill");
      CUDA_CHECK(cudaMemsetAsync(memory.data(), 1, memory.size_bytes(), stream.get()));
    }
    CUDA_CHECK(cudaMemsetAsync(memory.data(), 2, memory.size_bytes(), stream.get()));
    stream.synchronize();
    const auto activities = Timeline::stop();
    ASSERT_EQ(activities.size(), 2u);
    EXPECT_EQ(activities[0].range, "layer 1/fill");
    EXPECT_EQ(activities[1].range, "");
    for (const auto& activity : activities) {
      EXPECT_EQ(activity.name, "memset");
      EXPECT_GT(activity.end_ns - activity.begin_ns, 5'000);
      EXPECT_LT(activity.end_ns - activity.begin_ns, 1'000'000);
      EXPECT_FALSE(activity.in_graph);
    }
    EXPECT_LE(activities[0].end_ns, activities[1].begin_ns);
  }
}

TEST(Timeline, ReplaysComeInTheirParts) {
  Stream stream;
  testing::DeviceArray<uint8_t> memory(int64_t{64} << 20);
  const Graph graph(stream, [&] {
    for (const int value : {1, 2}) {
      CUDA_CHECK(cudaMemsetAsync(memory.data(), value, memory.size_bytes(), stream.get()));
    }
  });
  graph.launch(stream);
  stream.synchronize();
  ASSERT_TRUE(Timeline::start().ok());
  graph.launch(stream);
  graph.launch(stream);
  stream.synchronize();
  const auto activities = Timeline::stop();
  ASSERT_EQ(activities.size(), 4u);
  for (const auto& activity : activities) {
    EXPECT_TRUE(activity.in_graph);
    EXPECT_GT(activity.end_ns, activity.begin_ns);
  }
}

}  // namespace
}  // namespace deepflight
