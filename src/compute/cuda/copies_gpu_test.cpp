// Copies between pages and staging memory beside the ops (the host tier's): right from several
// threads at once, and neither waiting for the ops nor waited for.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "compute/cuda/cuda_backend.h"

namespace deepflight {
namespace {

constexpr int64_t kPageBytes = int64_t{1} << 20;

// A page's bytes, different for each page and round.
void fill(void* page, int64_t number, int64_t round) {
  auto* bytes = static_cast<uint8_t*>(page);
  for (int64_t i = 0; i < kPageBytes; ++i) {
    bytes[i] = static_cast<uint8_t>(i * 7 + (i >> 12) + number * 31 + round * 101);
  }
}

TEST(CopiesBeside, ThreadsMoveTheirPages) {
  constexpr int kThreads = 4, kRounds = 20;
  const auto cuda = CudaBackend::create({}).value();
  const Buffer pool = cuda->allocate(kThreads * 2 * kPageBytes);
  const Buffer from = cuda->allocate_staging(kThreads * kPageBytes);
  const Buffer to = cuda->allocate_staging(kThreads * kPageBytes);
  std::vector<std::thread> threads;
  std::vector<int> num_wrong(kThreads, 0);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {  // which the backend has not been told of
      auto* page = static_cast<uint8_t*>(pool.data()) + 2 * t * kPageBytes;
      auto* source = static_cast<uint8_t*>(from.data()) + t * kPageBytes;
      auto* target = static_cast<uint8_t*>(to.data()) + t * kPageBytes;
      for (int round = 0; round < kRounds; ++round) {
        fill(source, t, round);
        std::memset(target, 0, kPageBytes);
        cuda->copy_in_beside(page + round % 2 * kPageBytes, source, kPageBytes);
        cuda->copy_out_beside(target, page + round % 2 * kPageBytes, kPageBytes);
        num_wrong[t] += std::memcmp(source, target, kPageBytes) != 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, std::vector<int>(kThreads, 0));
}

TEST(CopiesBeside, OpsAndCopiesDoNotWait) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kWorkBytes = int64_t{1} << 30;
  constexpr int kOps = 2000;  // some half a second of them
  const auto cuda = CudaBackend::create({}).value();
  const Buffer work = cuda->allocate(kWorkBytes), page = cuda->allocate(kPageBytes);
  const Buffer from = cuda->allocate_staging(kPageBytes), to = cuda->allocate_staging(kPageBytes);
  fill(from.data(), 3, 5);
  std::memset(to.data(), 0, kPageBytes);
  cuda->fill_zero(work.data(), kWorkBytes);
  cuda->synchronize();

  const auto start = Clock::now();
  for (int i = 0; i < kOps; ++i) cuda->fill_zero(work.data(), kWorkBytes);
  const StepEvent done = cuda->record();
  cuda->copy_in_beside(page.data(), from.data(), kPageBytes);
  cuda->copy_out_beside(to.data(), page.data(), kPageBytes);
  const auto copied = Clock::now();
  EXPECT_EQ(std::memcmp(from.data(), to.data(), kPageBytes), 0);
  cuda->wait(done);
  const auto ended = Clock::now();
  // Were the copies in the order of the ops, nothing would be left to wait for.
  EXPECT_LT(copied - start, (ended - start) / 2);
}

}  // namespace
}  // namespace deepflight
