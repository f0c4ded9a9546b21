// Timings of the MoE kernels at DeepSeek-R1's shapes: 256 experts in 8 groups, top 8, hidden 7168.
#include <fmt/format.h>

#include <numeric>

#include "compute/cuda/kernels/moe/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_moe {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

constexpr int kExperts = 256;
constexpr int kTopk = 8;
constexpr int64_t kHidden = 7168;

TEST(MoeBench, Route) {
  for (const int64_t tokens : {1, 64, 256, 8192}) {
    const DeviceArray<float> logits(random_normal(tokens * kExperts, 2.0f, 1));
    const DeviceArray<float> bias(random_normal(kExperts, 0.1f, 2));
    const DeviceArray<int32_t> ids(tokens * kTopk);
    const DeviceArray<float> weights(tokens * kTopk);
    RouteProblem p;
    p.logits = logits.data();
    p.logits_stride = p.num_experts = kExperts;
    p.bias = bias.data();
    p.topk_ids = ids.data();
    p.topk_weights = weights.data();
    p.ids_stride = p.weights_stride = p.topk = kTopk;
    p.num_tokens = tokens;
    p.group_rank = GroupRank::kTop2Sum;
    p.num_groups = 8;
    p.topk_groups = 4;
    p.normalize = true;
    p.scaling_factor = 2.5f;
    const double us =
        median_us(20, 20, [&](int, cudaStream_t stream) { route_experts(p, stream); });
    fmt::print("route    tokens {:5}  {:8.2f} us\n", tokens, us);
  }
}

TEST(MoeBench, Rows) {
  for (const int64_t tokens : {1, 64, 256, 8192}) {
    const int64_t rows = tokens * kTopk;
    std::vector<int32_t> ids(rows);
    std::mt19937_64 engine(3);
    for (int32_t& id : ids) id = static_cast<int32_t>(engine() % kExperts);
    const DeviceArray<int32_t> device_ids(ids), offsets(kExperts + 1), order(rows), positions(rows);
    const DeviceArray<uint8_t> scratch(sort_scratch_bytes(rows, kExperts));
    const double sort_us = median_us(10, 20, [&](int, cudaStream_t stream) {
      sort_by_expert({device_ids.data(), rows, kExperts, offsets.data(), order.data(),
                      positions.data(), scratch.data()},
                     stream);
    });
    const DeviceArray<uint16_t> x(to_bf16(random_normal(tokens * kHidden, 1.0f, 4)));
    const DeviceArray<uint16_t> expanded(rows * kHidden), out(tokens * kHidden);
    const double expand_us = median_us(10, 10, [&](int, cudaStream_t stream) {
      expand_rows(ExpandProblem{x.data(), kHidden, order.data(), positions.data(), rows, kTopk,
                                kHidden, expanded.data(), kHidden},
                  stream);
    });
    const int64_t blocks = Fp8Rows::num_scale_blocks(kHidden);
    const int64_t x_scale_stride = Fp8Rows::scale_stride_of(tokens);
    const DeviceArray<float> x_scales(random_normal(blocks * x_scale_stride, 1.0f, 5));
    const DeviceArray<float> scales(blocks * rows);
    auto* bytes = reinterpret_cast<uint8_t*>(expanded.data());
    const double expand_fp8_us = median_us(10, 10, [&](int, cudaStream_t stream) {
      expand_rows(ExpandFp8Problem{{reinterpret_cast<uint8_t*>(x.data()), kHidden, x_scales.data(),
                                    x_scale_stride},
                                   order.data(),
                                   positions.data(),
                                   rows,
                                   kTopk,
                                   kHidden,
                                   {bytes, kHidden, scales.data(), rows}},
                  stream);
    });
    const DeviceArray<float> weights(random_normal(rows, 0.3f, 6));
    const double combine_us = median_us(10, 10, [&](int, cudaStream_t stream) {
      combine_experts({expanded.data(), kHidden, positions.data(), weights.data(), kTopk,
                       out.data(), kHidden, out.data(), kHidden, tokens, kHidden, kTopk},
                      stream);
    });
    const double row_bytes = kHidden * 2e-3;  // KB: GB/s of us
    fmt::print(
        "tokens {:5}  sort {:7.2f} us  expand bf16 {:7.2f} us {:5.0f} GB/s  fp8 {:7.2f} us {:5.0f} "
        "GB/s  combine {:7.2f} us {:5.0f} GB/s\n",
        tokens, sort_us, expand_us, static_cast<double>(rows + tokens) * row_bytes / expand_us,
        expand_fp8_us, static_cast<double>(rows + tokens) * row_bytes * 0.516 / expand_fp8_us,
        combine_us, static_cast<double>(rows + 2 * tokens) * row_bytes / combine_us);
  }
}

}  // namespace
}  // namespace deepflight::cuda_moe
