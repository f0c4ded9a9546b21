// Readahead goes through its spans, no further than it may, and stops when told.
#include "base/readahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/files.h"

namespace deepflight {
namespace {

class ReadaheadTest : public testing::Test {
 protected:
  ReadaheadTest()
      : path_(std::filesystem::path(testing::TempDir()) /
              ("readahead_test_" + std::to_string(::getpid()))) {
    std::ofstream(path_) << std::string(1'000'000, 'x');
    file_.emplace(MappedFile::open(path_).value());
  }
  ~ReadaheadTest() override { std::filesystem::remove(path_); }

  std::vector<std::span<const std::byte>> spans() const {
    return {file_->bytes().subspan(1, 399'999), file_->bytes().subspan(400'000), {}};
  }
  // Waits until `readahead` has asked for so much, then a little longer for it to overstep.
  static int64_t settled(Readahead& readahead, int64_t wanted) {
    for (int i = 0; i < 2000 && readahead.requested_bytes() < wanted; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return readahead.requested_bytes();
  }

  std::filesystem::path path_;
  std::optional<MappedFile> file_;
};

TEST_F(ReadaheadTest, StaysWithinItsWindow) {
  Readahead readahead(spans(), 300'000);
  const int64_t first = settled(readahead, 200'000);
  EXPECT_GE(first, 200'000);
  EXPECT_LE(first, 300'000);
  readahead.advance(200'000);
  const int64_t second = settled(readahead, 399'999);
  EXPECT_EQ(second, 399'999);  // the next step would be too far
  readahead.advance(10'000'000);
  EXPECT_EQ(settled(readahead, 999'999), 999'999);
}

TEST_F(ReadaheadTest, SmallWindowsMoveToo) {
  Readahead readahead(spans(), 1000);
  readahead.advance(999'999);
  EXPECT_EQ(settled(readahead, 999'999), 999'999);
}

TEST_F(ReadaheadTest, EndsInTheMiddle) {
  const auto start = std::chrono::steady_clock::now();
  { Readahead readahead(spans(), 10); }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace deepflight
