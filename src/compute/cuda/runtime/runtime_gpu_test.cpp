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

}  // namespace
}  // namespace deepflight
