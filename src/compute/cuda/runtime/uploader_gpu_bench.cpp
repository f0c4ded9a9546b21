// GB/s of plain pinned copies, which are what PCIe gives, and of the Uploader from a mapped file in
// the page cache, by threads and slice size; one large piece, and the pieces of R1's experts. Then
// the same file read from the disk, with and without Readahead.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "base/files.h"
#include "base/readahead.h"
#include "compute/cuda/runtime/gpu_testing.h"
#include "compute/cuda/runtime/uploader.h"

namespace deepflight {
namespace {

constexpr int64_t kFileBytes = int64_t{2} << 30;
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kExpertBytes = int64_t{2048} * 7168;
constexpr int64_t kExpertScaleBytes = 16 * 56 * 4;

// A file of kFileBytes, gone at the end. In $TMPDIR or /tmp.
class TemporaryFile {
 public:
  TemporaryFile() {
    const char* folder = std::getenv("TMPDIR");
    path_ = fmt::format("{}/uploader_bench_{}", folder != nullptr ? folder : "/tmp", ::getpid());
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    std::vector<uint64_t> piece(kMiB / 8);
    uint64_t next = 1;
    for (int64_t done = 0; fd_ >= 0 && done < kFileBytes; done += kMiB) {
      for (auto& word : piece) word = next = next * 6364136223846793005ull + 1;
      if (::write(fd_, piece.data(), kMiB) != kMiB) {
        ::close(fd_);
        fd_ = -1;
      }
    }
  }
  ~TemporaryFile() {
    if (fd_ >= 0) ::close(fd_);
    std::filesystem::remove(path_);
  }
  bool ok() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }
  void drop_from_cache() const {
    ::fsync(fd_);
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  }

 private:
  std::string path_;
  int fd_ = -1;
};

const TemporaryFile& file() {
  static const TemporaryFile file;
  return file;
}

template <typename Work>
double gigabytes_per_second(int64_t num_bytes, const Work& work) {
  const int64_t start_us = monotonic_us();
  work();
  return static_cast<double>(num_bytes) * 1e-3 / static_cast<double>(monotonic_us() - start_us);
}

TEST(UploaderBench, PlainPinnedCopies) {
  const testing::DeviceArray<uint8_t> device(kFileBytes);
  const Stream stream;
  for (const int64_t block : {4 * kMiB, 32 * kMiB}) {
    const Buffer pinned = allocate_pinned(block);
    const auto copy_all = [&] {
      for (int64_t begin = 0; begin < kFileBytes; begin += block) {
        CUDA_CHECK(cudaMemcpyAsync(device.data() + begin, pinned.data(), block,
                                   cudaMemcpyHostToDevice, stream.get()));
      }
      stream.synchronize();
    };
    copy_all();
    fmt::print("pinned copies of {:>3} MiB {:>38.1f} GB/s\n", block / kMiB,
               gigabytes_per_second(kFileBytes, copy_all));
  }
}

TEST(UploaderBench, FromPageCache) {
  ASSERT_TRUE(file().ok());
  const testing::DeviceArray<uint8_t> device(kFileBytes);
  for (const int threads : {1, 4, 8, 12, 16}) {
    for (const int64_t slice : {1 * kMiB, 4 * kMiB, 8 * kMiB}) {
      Uploader uploader(threads, slice);
      double rates[2];
      for (int pass = 0; pass < 3; ++pass) {  // the first warms up
        // Mapped anew: page tables are part of the work.
        const MappedFile mapped = MappedFile::open(file().path()).value();
        const auto* source = reinterpret_cast<const char*>(mapped.bytes().data());
        rates[pass % 2] = gigabytes_per_second(kFileBytes, [&] {
          if (pass % 2 == 1) {
            uploader.copy(device.data(), source, kFileBytes);
          } else {
            const int64_t step = kExpertBytes + kExpertScaleBytes;
            std::vector<Uploader::Piece> pieces;
            for (int64_t at = 0; at + step <= kFileBytes; at += step) {
              const int64_t scales = at + kExpertBytes;
              pieces.push_back({device.data() + at, source + at, kExpertBytes, {}});
              pieces.push_back({device.data() + scales, source + scales, kExpertScaleBytes, {}});
            }
            uploader.copy(pieces);
          }
          uploader.finish();
        });
      }
      fmt::print(
          "uploader {:>2} threads, slices of {} MiB: one piece {:>5.1f} GB/s, "
          "R1's experts {:>5.1f} GB/s\n",
          threads, slice / kMiB, rates[1], rates[0]);
    }
  }
}

TEST(UploaderBench, FromDisk) {
  ASSERT_TRUE(file().ok());
  const testing::DeviceArray<uint8_t> device(kFileBytes);
  Uploader uploader(8);
  uploader.copy(device.data(), kMiB, [](int64_t, int64_t count, char* to) {
    std::memset(to, 0, static_cast<size_t>(count));
  });
  uploader.finish();
  // Twice: a disk that is shared, or that remembers, shows by differing.
  for (const bool ahead : {false, true, false, true}) {
    file().drop_from_cache();
    const MappedFile mapped = MappedFile::open(file().path()).value();
    const auto* source = reinterpret_cast<const char*>(mapped.bytes().data());
    const double rate = gigabytes_per_second(kFileBytes, [&] {
      std::optional<Readahead> readahead;
      if (ahead) readahead.emplace(std::vector{mapped.bytes()}, int64_t{1} << 30);
      for (int64_t at = 0; at < kFileBytes; at += 16 * kMiB) {
        if (readahead) readahead->advance(16 * kMiB);
        uploader.copy(device.data() + at, source + at, 16 * kMiB);
      }
      uploader.finish();
    });
    fmt::print("uploader from disk, {:<17} {:>31.1f} GB/s\n",
               ahead ? "with readahead" : "page faults alone", rate);
  }
  file().drop_from_cache();
  const double rate = gigabytes_per_second(kFileBytes, [] {
    std::vector<std::thread> readers;
    for (int64_t i = 0; i < 8; ++i) {
      readers.emplace_back([i] {
        const int fd = ::open(file().path().c_str(), O_RDONLY);
        std::vector<char> piece(4 * kMiB);
        for (int64_t at = i * 4 * kMiB; at < kFileBytes; at += 32 * kMiB) {
          if (::pread(fd, piece.data(), piece.size(), at) < 0) break;
        }
        ::close(fd);
      });
    }
    for (auto& reader : readers) reader.join();
  });
  fmt::print("read() of the disk by 8 threads {:>33.1f} GB/s\n", rate);
}

}  // namespace
}  // namespace deepflight
