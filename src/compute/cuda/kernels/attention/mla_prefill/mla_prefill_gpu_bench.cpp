// Timings at DeepSeek-R1's widths. The expansion product is another folder's: here the expanded
// rows are random values made once. Peers: cuDNN's attention through PyTorch on one H200, K and V
// given.
#include <fmt/format.h>

#include <algorithm>

#include "compute/cuda/kernels/attention/mla_prefill/kernels.h"
#include "compute/cuda/kernels/attention/mla_prefill/launch.h"
#include "compute/cuda/kernels/attention/mla_prefill/plan.h"
#include "compute/cuda/kernels/attention/mla_prefill/testing/test_product.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_prefill {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Shape {
  int64_t heads;
  int64_t batch;
  int64_t query_len;
  int64_t kv_len;
  double peer_us;  // 0: unknown
};

constexpr int64_t kTokenDim = 576;
constexpr int64_t kChunkTokens = 8192;
// In a row: as many launches as take some 30 ms, 16 at most. The card lowers its clock for power
// after some 10 ms, which one launch at a time may not come to; the peer (tools/compare/
// mla_prefill.py) is given the same number.
constexpr double kReplayFlops = 2e13;

void bench(const Shape& shape, bool in_a_row) {
  const int64_t num_tokens = shape.batch * shape.query_len;
  const int64_t pages_each = (shape.kv_len + kPageTokens - 1) / kPageTokens;
  std::vector<int32_t> offsets{0}, kv_lens, slots, table;
  for (int64_t s = 0; s < shape.batch; ++s) {
    offsets.push_back(static_cast<int32_t>((s + 1) * shape.query_len));
    kv_lens.push_back(static_cast<int32_t>(shape.kv_len));
    slots.push_back(static_cast<int32_t>(s));
    for (int64_t i = 0; i < pages_each; ++i) {
      table.push_back(static_cast<int32_t>(s * pages_each + i));
    }
  }
  const DeviceArray<int32_t> device_slots(slots), device_table(table);
  const DeviceArray<uint16_t> pool(shape.batch * pages_each * kPageTokens * kTokenDim);
  const DeviceArray<uint16_t> q(num_tokens * shape.heads * 192);
  const DeviceArray<uint16_t> out(num_tokens * shape.heads * 128);
  launch_test_random(pool.data(), pool.size(), 1.0f, 1, nullptr);
  launch_test_random(q.data(), q.size(), 1.0f, 2, nullptr);
  MlaPrefillProblem p;
  p.num_heads = shape.heads;
  p.latent_dim = 512;
  p.rope_dim = 64;
  p.nope_dim = p.v_dim = 128;
  p.softmax_scale = 0.13523f;
  p.num_sequences = shape.batch;
  p.host_query_offsets = offsets.data();
  p.host_kv_lens = kv_lens.data();
  p.slots = device_slots.data();
  p.q = q.data();
  p.q_stride = shape.heads * 192;
  p.q_head_stride = 192;
  p.out = out.data();
  p.out_stride = shape.heads * 128;
  p.pool = pool.data();
  p.page_stride_bytes = kPageTokens * kTokenDim * 2;
  p.page_table = device_table.data();
  p.page_table_stride = pages_each;
  p.kv_chunk_tokens = kChunkTokens;
  const DeviceArray<uint8_t> scratch(mla_prefill_scratch_bytes(p, num_tokens));
  p.scratch = scratch.data();
  CUDA_CHECK(cudaDeviceSynchronize());
  bool filled = false;
  const ExpandFn expand = [&](const void*, int64_t, void* target, int64_t stride, int64_t rows) {
    if (!filled) launch_test_random(target, rows * stride, 1.0f, 3, nullptr);
    if (!filled) CUDA_CHECK(cudaDeviceSynchronize());
    filled = true;
  };
  const double queries = static_cast<double>(shape.query_len);
  const double pairs = static_cast<double>(shape.batch) * queries *
                       (static_cast<double>(shape.kv_len) - (queries - 1) / 2);
  const double flops = pairs * static_cast<double>(shape.heads) * 640;
  const int launches = in_a_row ? static_cast<int>(std::clamp(kReplayFlops / flops, 1.0, 16.0)) : 1;
  const double us = median_us(
      launches, 7, [&](int, cudaStream_t stream) { launch_mla_prefill(p, expand, stream); });
  const double gather_us = median_us(launches, 7, [&](int, cudaStream_t stream) {
    ChunkPlanner planner(p, kQueryTile);
    Chunk chunk;
    while (planner.next(chunk)) {
      launch_gather(p, chunk, scratch.data(), scratch.data() + kChunkTokens * 1024,
                    reinterpret_cast<int32_t*>(scratch.data() + kChunkTokens * 1152), stream);
    }
  });
  const double attend_us = us - gather_us;
  std::string peer = "no peer";
  if (shape.peer_us > 0) peer = fmt::format("{:.2f} of the peer's time", attend_us / shape.peer_us);
  fmt::print(
      "mla_prefill heads {:3} batch {} queries {:5} kv {:5}: {:9.1f} us, gather {:6.1f}, attention "
      "{:9.1f} us {:4.0f} TFLOPS, {} a replay, {}\n",
      shape.heads, shape.batch, shape.query_len, shape.kv_len, us, gather_us, attend_us,
      flops / attend_us * 1e-6, launches, peer);
}

constexpr Shape kShapes[] = {{128, 8, 1024, 1024, 789.1},     {128, 1, 2048, 2048, 0},
                             {128, 4, 2048, 2048, 1324.0},    {128, 1, 8192, 8192, 4455.0},
                             {128, 1, 16384, 16384, 18659.5}, {128, 1, 32768, 32768, 0},
                             {128, 1, 8192, 32768, 0},        {128, 1, 512, 32768, 0},
                             {16, 1, 8192, 8192, 0},          {16, 1, 2048, 2048, 0}};

TEST(MlaPrefillBench, R1) {
  for (const Shape& shape : kShapes) bench(shape, false);
}
TEST(MlaPrefillBench, R1InARow) {
  for (const Shape& shape : kShapes) bench(shape, true);
}

}  // namespace
}  // namespace deepflight::cuda_mla_prefill
