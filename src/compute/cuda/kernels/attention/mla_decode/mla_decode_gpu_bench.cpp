// Timings at DeepSeek-R1's widths, page tables shuffled, layers of the pool rotated past the L2
// (MLA_LAYERS: so many). At other shapes with MLA_CASES=file, lines "batch queries kv_len heads"
// (tools/compare/mla_decode.py); a negative kv_len: a batch of lengths from 20 to that many. Peer:
// FlashMLA's dense decode kernel on one H200 (BF16, metadata made outside).
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <numeric>

#include "compute/cuda/kernels/attention/mla_decode/launch.h"
#include "compute/cuda/kernels/attention/mla_decode/queries_testing.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_decode {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Shape {
  int64_t batch, queries, kv_len, heads;
  double peer_us;  // 0: unknown

  // Of each sequence. Where lengths differ, each is by the same factor longer than the one before.
  std::vector<int32_t> kv_lens() const {
    std::vector<int32_t> lens(batch, static_cast<int32_t>(kv_len));
    if (kv_len > 0) return lens;
    for (int64_t s = 0; s < batch; ++s) {
      const double share =
          static_cast<double>(s) / static_cast<double>(std::max<int64_t>(batch - 1, 1));
      lens[s] = static_cast<int32_t>(20 * std::pow(static_cast<double>(-kv_len) / 20, share));
    }
    return lens;
  }
};

constexpr int64_t kDim = 576;
constexpr const char* kNames[] = {"bf16", "e4m3", "group"};  // of PageFormat

// Bandwidth and rates of products that this card reaches: H200 by measurement, else the H100's.
double copy_tbs() { return DeviceInfo::current().memory_bytes > int64_t{100} << 30 ? 4.3 : 3.0; }
double product_tflops(PageFormat format) { return format == PageFormat::kF8E4M3 ? 1495 : 790; }

// Of a pool: as many as pass the L2, one if a layer does, or MLA_LAYERS. Layers lie page by page.
int64_t num_layers_of(int64_t layer_bytes) {
  if (const char* wanted = std::getenv("MLA_LAYERS")) return std::atoll(wanted);
  return testing::copies_past_l2(layer_bytes);
}

// Random tokens, some of them repeated.
void fill(const DeviceArray<uint8_t>& array, PageFormat format) {
  constexpr int64_t kTokens = 1000;
  const int64_t token_bytes = page_token_bytes(format, 512, 64);
  const auto values = random_normal(kTokens * kDim, 1.0f, 5);
  const auto bits16 = to_bf16(values);
  const auto bits8 = to_f8(values);
  std::vector<uint8_t> bytes(kTokens * token_bytes);
  const float ones[4] = {1, 1, 1, 1};
  for (int64_t t = 0; t < kTokens; ++t) {
    uint8_t* token = &bytes[t * token_bytes];
    if (format == PageFormat::kBF16) {
      std::memcpy(token, &bits16[t * kDim], 2 * kDim);
      continue;
    }
    std::memcpy(token, &bits8[t * kDim], format == PageFormat::kF8E4M3 ? kDim : 512);
    if (format == PageFormat::kF8E4M3) continue;
    std::memcpy(token + scales_offset_bytes(512), ones, sizeof(ones));
    std::memcpy(token + rope_offset_bytes(512), &bits16[t * kDim + 512], 128);
  }
  for (int64_t at = 0; at < array.size(); at += std::ssize(bytes)) {
    CUDA_CHECK(cudaMemcpy(array.data() + at, bytes.data(),
                          std::min<int64_t>(std::ssize(bytes), array.size() - at),
                          cudaMemcpyHostToDevice));
  }
}

int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

void bench(const Shape& shape, PageFormat format) {
  const std::vector<int32_t> kv_lens = shape.kv_lens();
  const int64_t pages_each = pages_of(std::abs(shape.kv_len));
  int64_t num_pages = 0, num_keys = 0;
  for (const int32_t len : kv_lens) {
    num_pages += pages_of(len);
    num_keys += len;
  }
  const int64_t layer_bytes = kPageTokens * page_token_bytes(format, 512, 64);
  const int64_t num_layers = num_layers_of(num_pages * layer_bytes);
  const int64_t num_tokens = shape.batch * shape.queries;
  std::vector<int32_t> offsets{0}, slots, pages(num_pages), table(shape.batch * pages_each, -1);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(3));
  auto next_page = pages.begin();
  for (int64_t s = 0; s < shape.batch; ++s) {
    offsets.push_back(static_cast<int32_t>((s + 1) * shape.queries));
    slots.push_back(static_cast<int32_t>(s));
    const int64_t count = pages_of(kv_lens[s]);
    std::copy_n(next_page, count, table.begin() + s * pages_each);
    next_page += count;
  }
  const DeviceArray<int32_t> d_offsets(offsets), d_lens(kv_lens), d_slots(slots), d_table(table);
  const DeviceArray<uint8_t> pool(num_pages * num_layers * layer_bytes);
  const bool is_fp8 = format == PageFormat::kF8E4M3;
  const DeviceArray<uint8_t> q(num_tokens * shape.heads * kDim * 2);
  const DeviceArray<uint16_t> out(num_tokens * shape.heads * 512);
  fill(pool, format);
  fill(q, PageFormat::kBF16);
  MlaDecodeProblem p;
  p.num_heads = shape.heads, p.latent_dim = 512, p.rope_dim = 64, p.softmax_scale = 0.13523f;
  p.num_sequences = shape.batch, p.num_tokens = num_tokens, p.query_offsets = d_offsets.data();
  p.kv_lens = d_lens.data(), p.slots = d_slots.data();
  p.q = q.data(), p.q_stride = shape.heads * kDim, p.q_head_stride = kDim;
  p.out = out.data(), p.out_stride = shape.heads * 512, p.out_head_stride = 512;
  p.pool = pool.data(), p.num_pages = num_pages, p.page_stride_bytes = num_layers * layer_bytes;
  p.format = format;
  p.page_table = d_table.data(), p.page_table_stride = pages_each;
  const DeviceArray<uint8_t> metadata(
      mla_decode_metadata_bytes(shape.batch, num_tokens, shape.heads));
  const DeviceArray<uint8_t> scratch(mla_decode_scratch_bytes());
  std::vector<uint16_t> host_q(q.size() / 2);
  CUDA_CHECK(cudaMemcpy(host_q.data(), q.data(), q.size(), cudaMemcpyDeviceToHost));
  const E4m3Rows q_rows(is_fp8 ? from_bf16(host_q) : std::vector<float>(), kDim);
  const DeviceArray<uint8_t> q_bytes(q_rows.bytes);
  const DeviceArray<float> q_scales(q_rows.scales);
  const MlaDecodeProblem generic = p;
  if (is_fp8) p.q = q_bytes.data(), p.query_scales = q_scales.data();
  if (shape.batch <= 16) {  // right before fast; the generic kernel is slow
    launch_mla_decode(generic, nullptr);
    const auto slow = from_bf16(out.host());
    prepare_mla_decode(p, metadata.data(), nullptr);
    p.metadata = metadata.data(), p.scratch = scratch.data();
    launch_mla_decode(p, nullptr);
    const std::vector<double> want(slow.begin(), slow.end());
    // e4m3 weights err by 2^-4 / sqrt(3) at most in the square mean, and e4m3 queries move scores,
    // of deviation 0.135 sqrt(576), by as much of that.
    EXPECT_LE(relative_error(from_bf16(out.host()), want), is_fp8 ? 0.125 : 8e-3);
  }
  const double prepare_us = median_us(
      4, 5, [&](int, cudaStream_t stream) { prepare_mla_decode(p, metadata.data(), stream); });
  p.metadata = metadata.data(), p.scratch = scratch.data();
  const int launches = static_cast<int>(std::clamp<int64_t>(num_layers, 4, 32));
  const double us = median_us(launches, 9, [&](int i, cudaStream_t stream) {
    MlaDecodeProblem layer = p;
    layer.layer_offset_bytes = i % num_layers * layer_bytes;
    launch_mla_decode(layer, stream);
  });
  const double rows = static_cast<double>(num_tokens * shape.heads);
  const double flops =
      static_cast<double>(shape.queries * shape.heads * num_keys) * 2 * (576 + 512);
  const double bytes =
      static_cast<double>(num_pages * layer_bytes) + rows * (kDim * (is_fp8 ? 1 : 2) + 512 * 2);
  const double floor_us = std::max(flops / product_tflops(format), bytes / copy_tbs()) * 1e-6;
  fmt::print(
      "mla_decode {} batch {:3} queries {} kv {:5} heads {:3}: {:7.1f} us {:4.0f} TFLOPS "
      "{:4.0f} GB/s, {:3.0f}% of floor, {} ({} keys, prepare {:.1f} us)\n",
      kNames[static_cast<int>(format)], shape.batch, shape.queries, shape.kv_len, shape.heads, us,
      flops / us * 1e-6, bytes / us * 1e-3, 100 * floor_us / us,
      shape.peer_us > 0 ? fmt::format("{:.2f} of FlashMLA's time", us / shape.peer_us) : "no peer",
      num_keys, prepare_us);
}

const std::vector<Shape> kShapes = {
    {1, 1, 4096, 128, 19.1},   {1, 1, 4096, 16, 22.6},     {1, 1, 8192, 128, 24.4},
    {1, 2, 4096, 128, 20.2},   {16, 1, 4096, 128, 43.9},   {16, 1, 4096, 16, 28.8},
    {16, 2, 4096, 128, 65.7},  {16, 4, 4096, 128, 0},      {64, 1, 4096, 128, 114.2},
    {64, 1, 4096, 16, 82.0},   {64, 2, 4096, 128, 215.4},  {64, 2, 4096, 16, 83.5},
    {64, 1, 8192, 128, 221.3}, {128, 1, 4096, 128, 231.4}, {128, 1, 4096, 16, 149.7},
    {128, 2, 4096, 128, 472.0}};

std::vector<Shape> shapes() {
  const char* path = std::getenv("MLA_CASES");
  if (path == nullptr) return kShapes;
  std::ifstream file(path);
  std::vector<Shape> cases;
  for (Shape s{}; file >> s.batch >> s.queries >> s.kv_len >> s.heads;) cases.push_back(s);
  EXPECT_FALSE(cases.empty()) << path;
  return cases;
}

void bench_all(PageFormat format) {
  const DeviceInfo& device = DeviceInfo::current();
  fmt::print("{}, {} SMs\n", device.name, device.num_sms);
  for (const Shape& shape : shapes()) bench(shape, format);
}

TEST(MlaDecodeBench, Bf16) { bench_all(PageFormat::kBF16); }
TEST(MlaDecodeBench, E4m3) { bench_all(PageFormat::kF8E4M3); }
TEST(MlaDecodeBench, Group) { bench_all(PageFormat::kF8Group); }

}  // namespace
}  // namespace deepflight::cuda_mla_decode
