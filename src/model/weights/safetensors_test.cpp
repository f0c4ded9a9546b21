// Well-formed files are read, and every way to be malformed is refused with a line that says how.
#include "model/weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "model/weights/safetensors_testing.h"

namespace deepflight {
namespace {

using testing::ElementsAre;
using testing::Pair;

Result<SafetensorsHeader> parse(const std::string& file) {
  return parse_safetensors_header(std::as_bytes(std::span(file)), "f");
}

std::string error_of(const std::string& file) {
  const auto result = parse(file);
  return result.ok() ? "(accepted)" : result.error().message;
}

std::filesystem::path temporary_file() {
  return std::filesystem::path(testing::TempDir()) /
         ("safetensors_test_" + std::to_string(::getpid()));
}

constexpr std::string_view kTwoTensors =
    R"({"__metadata__":{"format":"pt"},)"
    R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   )";

TEST(Safetensors, ReadsEntriesInFileOrder) {
  const auto header = parse(safetensors_file(kTwoTensors, 20));
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_THAT(header->metadata, ElementsAre(Pair("format", "pt")));
  ASSERT_EQ(header->entries.size(), 2u);
  EXPECT_EQ(header->entries[0].name, "a");
  EXPECT_EQ(header->entries[1].name, "b");
  EXPECT_EQ(header->entries[1].dtype, DType::kBF16);
  EXPECT_THAT(header->entries[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(header->data_begin, 8 + kTwoTensors.size());
}

TEST(Safetensors, AcceptsEmptyFilesEmptyTensorsAndScalars) {
  EXPECT_TRUE(parse(safetensors_file("{}", 0)).ok());
  const auto header =
      parse(safetensors_file(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},)"
                             R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
                             4));
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->entries[0].name, "s");
}

TEST(Safetensors, RefusesBadFraming) {
  EXPECT_EQ(error_of("abc"), "f: 3 bytes, too short for a safetensors header");
  EXPECT_EQ(error_of(std::string(8, '\0')), "f: header does not begin with '{'");
  std::string file = safetensors_file("{}", 0);
  file[0] = 3;
  EXPECT_EQ(error_of(file), "f: header of 3 bytes, the file has 2 after its length");
  file[4] = 1;
  EXPECT_EQ(error_of(file), "f: header of 4294967299 bytes, at most 100000000 are allowed");
  file.replace(0, 8, 8, '\xff');
  EXPECT_EQ(error_of(file),
            "f: header of 18446744073709551615 bytes, at most 100000000 are allowed");
  EXPECT_EQ(error_of(safetensors_file(" {}", 0)), "f: header does not begin with '{'");
  EXPECT_EQ(error_of(safetensors_file("[]", 0)), "f: header does not begin with '{'");
}

struct BadHeader {
  std::string_view header;
  std::string_view error;
  size_t num_data_bytes = 8;
};

// In these, one tensor of 8 bytes: the smallest thing that can go wrong in each way.
const BadHeader kBadHeaders[] = {
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})",
     "header is not valid JSON near byte 54"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}x)",
     "header is not valid JSON near byte 55"},
    {"{\"\xff\":{}}", "header is not valid JSON near byte 3"},
    {R"({"a":7})", "'a' is a number, not an object"},
    {R"({"a":[]})", "'a' is an array, not an object"},
    {R"({"a":null})", "'a' is null, not an object"},
    {R"({"a\nb":{}})", "'a?b': control characters in a name"},
    {R"({"__metadata__":{"k":1}})", "__metadata__ holds a number, not only strings"},
    {R"({"__metadata__":{"k":{}}})", "__metadata__ holds an object, not only strings"},
    {R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})",
     "tensor 'a': unknown dtype 'F31'"},
    {R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})",
     "tensor 'a': a number where none belongs"},
    {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "tensor 'a': no dtype"},
    {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "tensor 'a': no shape"},
    {R"({"a":{"dtype":"F32","shape":[2]}})", "tensor 'a': no data_offsets"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})",
     "tensor 'a': unknown field 'x'"},
    {R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})",
     "tensor 'a': shape appears twice"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
     R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
     "'a' appears twice"},
    {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
     "tensor 'a': negative number -2 in shape"},
    {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
     "tensor 'a': a fractional or too large number where none belongs"},
    {R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}})",
     "tensor 'a': a fractional or too large number where none belongs"},
    {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
     "tensor 'a': dimension 18446744073709551615 is too large"},
    {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})",
     "tensor 'a': an array where none belongs"},
    {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})",
     "tensor 'a': more than 16 dimensions"},
    // 2^62 * 4 bytes * 2: the product wraps to 0.
    {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
     "tensor 'a': shape is too large"},
    {R"({"a":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}})",
     "tensor 'a': shape is too large"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})",
     "tensor 'a': data_offsets has 1 entries, not 2"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})",
     "tensor 'a': data_offsets has more than 2 entries"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-1,8]}})",
     "tensor 'a': negative number -1 in data_offsets"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
     "tensor 'a': data_offsets [8, 0] do not lie in the 8 data bytes of the file"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})",
     "tensor 'a': data_offsets [1, 9] do not lie in the 8 data bytes of the file"},
    {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
     "tensor 'a': data_offsets span 8 bytes, dtype and shape need 12"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     "tensor 'a': 4 bytes before it belong to no tensor"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     "4 bytes at the end belong to no tensor"},
    {R"({})", "8 bytes at the end belong to no tensor"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
     R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     "tensor 'b': overlaps the tensor before it"},
};

TEST(Safetensors, RefusesBadHeaders) {
  for (const auto& bad : kBadHeaders) {
    EXPECT_EQ(error_of(safetensors_file(bad.header, bad.num_data_bytes)),
              "f: " + std::string(bad.error))
        << bad.header;
  }
}

TEST(Safetensors, RefusesDeepNestingWithoutRecursion) {
  const std::string deep = R"({"a":{"shape":)" + std::string(1'000'000, '[');
  EXPECT_EQ(error_of(safetensors_file(deep, 0)), "f: tensor 'a': an array where none belongs");
}

TEST(Safetensors, ViewsTheMappedFile) {
  const auto path = temporary_file();
  std::string file = safetensors_file(kTwoTensors, 20);
  const float values[] = {1.5f, -2.0f};
  std::memcpy(file.data() + file.size() - 20, values, sizeof(values));
  std::ofstream(path, std::ios::binary) << file;
  auto opened = SafetensorsFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const SafetensorsFile moved = std::move(opened).value();
  EXPECT_EQ(moved.find("c"), nullptr);
  const auto view = moved.view(*moved.find("a"));
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->to_string(), "F32[2]");
  float read[2];
  std::memcpy(read, view->raw(), sizeof(read));
  EXPECT_THAT(read, ElementsAre(1.5f, -2.0f));
  EXPECT_EQ(moved.view(*moved.find("b"))->to_string(), "BF16[2, 3]");
  std::filesystem::remove(path);
}

// A scalar is a vector of one.
TEST(Safetensors, RefusesRanksThatViewsDoNotHave) {
  const auto path = temporary_file();
  std::ofstream(path, std::ios::binary)
      << safetensors_file(R"({"one":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                          R"("s":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[4,5]}})",
                          5);
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->view(*file->find("one"))->to_string(), "F32[1]");
  EXPECT_EQ(file->view(*file->find("s")).error().message,
            path.string() + ": tensor 's' has 5 dimensions, up to 4 are read");
  std::filesystem::remove(path);
}

TEST(Safetensors, NamesTheFileThatIsMissing) {
  EXPECT_EQ(SafetensorsFile::open("no/such.safetensors").error().message,
            "no/such.safetensors: No such file or directory");
}

}  // namespace
}  // namespace deepflight
