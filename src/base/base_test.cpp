// Result, CHECK, ThreadPool and the file helpers.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace deepflight {
namespace {

Result<int> parse_digit(char c) {
  if (c < '0' || c > '9') return invalid_argument("'{}' is no digit", c);
  return c - '0';
}

Result<int> add_digits(char a, char b) {
  ASSIGN_OR_RETURN(const int x, parse_digit(a));
  ASSIGN_OR_RETURN(const int y, parse_digit(b));
  return x + y;
}

TEST(Result, CarriesValueOrError) {
  EXPECT_EQ(add_digits('3', '4').value(), 7);
  const auto bad = add_digits('3', 'x');
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().message, "'x' is no digit");
  EXPECT_THROW((void)bad.value(), CheckFailure);
}

TEST(Check, NamesConditionAndValues) {
  const int pages = 3;
  try {
    CHECK(pages == 4, pages, "pages");
    FAIL() << "CHECK did not throw";
  } catch (const CheckFailure& failure) {
    EXPECT_NE(std::string(failure.what()).find("CHECK(pages == 4) failed: 3, pages"),
              std::string::npos)
        << failure.what();
  }
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> counts(round);
      pool.parallel_for(round, [&](int64_t i) { counts[i].fetch_add(1); });
      for (auto& count : counts) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, RethrowsATaskFailure) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.parallel_for(10, [](int64_t i) { CHECK(i != 7, i); }), CheckFailure);
  std::atomic<int> sum{0};
  pool.parallel_for(10, [&](int64_t i) { sum += static_cast<int>(i); });
  EXPECT_EQ(sum.load(), 45);
}

TEST(Files, ReadsAndBounds) {
  const auto path = std::filesystem::temp_directory_path() / "deepflight_files_test.json";
  std::ofstream(path) << R"({"a": [1, 2]})";
  EXPECT_EQ(read_json_file(path, 100).value()["a"][1], 2);
  EXPECT_EQ(read_file(path, 5).error().code, ErrorCode::kTooLarge);
  EXPECT_EQ(MappedFile::open(path).value().bytes().size(), 13u);
  std::filesystem::remove(path);
  EXPECT_EQ(read_file(path, 5).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(path).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(std::filesystem::temp_directory_path()).error().code, ErrorCode::kIo);
}

TEST(Files, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const std::string pipe = testing::TempDir() + "base_test_pipe";
  ::unlink(pipe.c_str());
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {pipe, std::string("/dev/zero"), testing::TempDir()}) {
    const auto text = read_file(path, 100);
    ASSERT_FALSE(text.ok()) << path;
    EXPECT_EQ(text.error().message, path + ": not a regular file");
    const auto mapped = MappedFile::open(path);
    ASSERT_FALSE(mapped.ok()) << path;
    EXPECT_EQ(mapped.error().message, path + ": not a regular file");
  }
  ::unlink(pipe.c_str());
}

TEST(Files, WritesWholeFiles) {
  const auto folder = std::filesystem::temp_directory_path() / "deepflight_write_test";
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(write_file(folder / "a" / "x", "first").ok());
  ASSERT_TRUE(write_file(folder / "a" / "x", "2nd").ok());
  EXPECT_EQ(read_file(folder / "a" / "x", 100).value(), "2nd");

  // A folder stands in the way: the error names the path and no temporary file stays.
  std::filesystem::create_directories(folder / "b" / "x" / "y");
  const auto failed = write_file(folder / "b" / "x", "text");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, (folder / "b" / "x").string() + ": cannot be written");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "b"), {}), 1);
  std::filesystem::remove_all(folder);
}

TEST(Files, WhatIsWrongWithJsonFitsALine) {
  for (const std::string& text : {std::string("\xff\xfe{}"), std::string("{\n\"a\": \"b\n"),
                                  std::string(1 << 20, 'x'), "\"" + std::string(1 << 20, 'y')}) {
    const auto json = parse_json(text, "f");
    ASSERT_FALSE(json.ok());
    EXPECT_TRUE(json.error().message.starts_with("f: not valid JSON: parse error at line "));
    EXPECT_LT(json.error().message.size(), 300u);
    for (const char c : json.error().message) EXPECT_TRUE(c >= ' ' && c <= '~') << int{c};
  }
}

TEST(Files, JsonDepthIsBounded) {
  EXPECT_TRUE(parse_json("[[[1]]]", "x", 3).ok());
  EXPECT_FALSE(parse_json("[[[[1]]]]", "x", 3).ok());
  EXPECT_TRUE(parse_json(R"(["[[[[["])", "x", 3).ok());
  EXPECT_FALSE(parse_json("[1", "x").ok());
}

}  // namespace
}  // namespace deepflight
