// The kernel cache on disk and, where NVRTC is found, a kernel compiled with nothing but memory.
#include "compute/cuda/jit/cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "compute/cuda/jit/compiler.h"
#include "compute/cuda/jit/kernel.h"
#include "compute/cuda/runtime/device.h"

namespace deepflight {
namespace {

class JitCacheTest : public ::testing::Test {
 protected:
  JitCacheTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("df_jit_cache_test." + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
  }
  ~JitCacheTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(JitCacheTest, GivesBackWhatWasStored) {
  const JitCache cache(folder_);
  EXPECT_FALSE(cache.load("k-1", "13.0").has_value());
  cache.store("k-1", "13.0", std::string("binary\0text", 11));
  EXPECT_EQ(cache.load("k-1", "13.0").value(), std::string("binary\0text", 11));
  EXPECT_FALSE(cache.load("k-2", "13.0").has_value());
  EXPECT_FALSE(cache.load("k-1", "13.1").has_value());
  cache.store("k-1", "13.0", "another");
  EXPECT_EQ(cache.load("k-1", "13.0").value(), "another");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    EXPECT_EQ(entry.path().extension(), ".cubin");
    ++files;
  }
  EXPECT_EQ(files, 1);
}

TEST_F(JitCacheTest, WithoutACompilerTakesTheNewest) {
  const JitCache cache(folder_);
  EXPECT_FALSE(cache.load("k-1", "").has_value());
  cache.store("k-1", "13.1", "new");
  cache.store("k-1", "13.0", "old");
  cache.store("k-10", "13.2", "of another kernel");
  EXPECT_EQ(cache.load("k-1", "").value(), "new");
}

TEST_F(JitCacheTest, DamagedFilesCountAsMissing) {
  const JitCache cache(folder_);
  cache.store("k-1", "13.0", "binary");
  const auto path = folder_ / "k-1-13.0.cubin";
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file << '?';
  }
  EXPECT_FALSE(cache.load("k-1", "13.0").has_value());
  std::filesystem::resize_file(path, 10);
  EXPECT_FALSE(cache.load("k-1", "13.0").has_value());
  std::filesystem::resize_file(path, 0);
  EXPECT_FALSE(cache.load("k-1", "").has_value());
}

TEST_F(JitCacheTest, AFolderThatCannotBeWrittenIsNoError) {
  const JitCache cache("/proc/no such folder");
  EXPECT_FALSE(cache.store("k-1", "13.0", "binary"));
  EXPECT_FALSE(cache.load("k-1", "13.0").has_value());
  EXPECT_FALSE(JitCache("").load("k-1", "13.0").has_value());
  EXPECT_FALSE(JitCache("").store("k-1", "13.0", "binary"));
}

TEST_F(JitCacheTest, KeysTellSourcesApart) {
  const JitHeader one[] = {{"a.h", "1"}}, two[] = {{"a.h", "2"}};
  const std::string key = JitCache::key({"name", "text", one});
  EXPECT_EQ(key, JitCache::key({"name", "text", one}));
  EXPECT_NE(key, JitCache::key({"name", "text", two}));
  EXPECT_NE(key, JitCache::key({"name", "text", {}}));
  EXPECT_NE(key, JitCache::key({"name", "texts", one}));
  EXPECT_NE(key, JitCache::key({"names", "text", one}));
}

TEST_F(JitCacheTest, CompilesOnceAndRecompilesWhatIsDamaged) {
  if (jit_compiler_version().empty()) GTEST_SKIP() << "no NVRTC";
  setenv("DEEPFLIGHT_CACHE_DIR", folder_.c_str(), 1);
  const JitHeader headers[] = {{"width.h", "#include <cstdint>\nconstexpr int32_t kWidth = 4;\n"}};
  const JitSource source = {
      "fill",
      "#include \"width.h\"\nextern \"C\" __global__ void fill(float* x) { x[kWidth] = 1; }",
      headers};
  const std::string cubin = jit_cubin(source);
  EXPECT_TRUE(
      cubin.starts_with("\x7f"
                        "ELF"));
  const auto path = folder_ / (JitCache::key(source) + "-" + jit_compiler_version() + ".cubin");
  ASSERT_TRUE(std::filesystem::exists(path));
  std::filesystem::resize_file(path, 100);
  EXPECT_EQ(jit_cubin(source), cubin);
  EXPECT_GT(std::filesystem::file_size(path), cubin.size());
  unsetenv("DEEPFLIGHT_CACHE_DIR");
}

// Every byte counts, those past the last whole word too.
TEST_F(JitCacheTest, KeysHoldEveryByte) {
  std::string text = "extern \"C\" __global__ void f() {}";
  for (size_t size = 1; size <= text.size(); ++size) {
    const std::string part = text.substr(0, size);
    const std::string key = JitCache::key({"name", part, {}});
    for (size_t i = 0; i < size; ++i) {
      std::string other = part;
      other[i] ^= 0x40;
      EXPECT_NE(JitCache::key({"name", other, {}}), key) << i << " of " << size;
    }
    EXPECT_NE(JitCache::key({"name", part + '\0', {}}), key);
  }
}

TEST_F(JitCacheTest, WithoutADiskCompilesOnce) {
  if (jit_compiler_version().empty()) GTEST_SKIP() << "no NVRTC";
  setenv("DEEPFLIGHT_CACHE_DIR", "/proc/no such folder", 1);
  const JitSource source = {"kept", "extern \"C\" __global__ void kept(float* x) { *x = 1; }", {}};
  EXPECT_FALSE(is_jit_stored(source));
  const std::string cubin = jit_cubin(source);
  EXPECT_TRUE(is_jit_stored(source));
  EXPECT_EQ(jit_cubin(source), cubin);
  unsetenv("DEEPFLIGHT_CACHE_DIR");
}

TEST_F(JitCacheTest, ComplaintsNameTheKernel) {
  if (jit_compiler_version().empty()) GTEST_SKIP() << "no NVRTC";
  try {
    jit_compile({"broken", "extern \"C\" __global__ void broken() { nonsense; }", {}});
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("broken"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("nonsense"), std::string::npos);
  }
}

}  // namespace
}  // namespace deepflight
