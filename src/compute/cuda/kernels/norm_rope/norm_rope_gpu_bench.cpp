// Norms and rope with the KV write at R1's shapes: bytes moved over time, buffers rotated past the
// L2.
#include <fmt/format.h>

#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/kernels/norm_rope/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_norm_rope {
namespace {

using testing::DeviceArray;

constexpr int kLaunches = 20;
constexpr int64_t kRows[] = {1, 64, 256, 8192};

std::vector<uint16_t> random_bits(int64_t count) {
  auto pattern = testing::to_bf16(testing::random_normal(1 << 16, 1.0f, 1));
  std::vector<uint16_t> bits(count);
  for (int64_t i = 0; i < count; ++i) bits[i] = pattern[i % (1 << 16)];
  return bits;
}

void report(const char* name, int64_t rows, const std::string& form, int64_t bytes, double us) {
  fmt::print("{:<20} rows {:>5} {:<12} {:>8.2f} us {:>7.0f} GB/s\n", name, rows, form, us,
             static_cast<double>(bytes) / us * 1e-3);
}

TEST(NormBench, AddRmsNormToFp8) {
  const int64_t width = 7168;
  const DeviceArray<float> weight(testing::random_normal(width, 1.0f, 2));
  for (const int64_t rows : kRows) {
    // Reads the sum and the delta, writes the sum, the norm and its FP8 form.
    const int64_t bytes = rows * width * (2 + 2 + 2 + 2 + 1) + rows * width / 128 * 4;
    const int64_t copies = testing::copies_past_l2(bytes, kLaunches);
    const DeviceArray<uint16_t> delta(random_bits(copies * rows * width));
    const DeviceArray<uint16_t> residual(random_bits(copies * rows * width));
    const DeviceArray<uint16_t> out(copies * rows * width);
    const DeviceArray<uint8_t> values(copies * rows * width);
    const int64_t scale_stride = Fp8Rows::scale_stride_of(rows);
    const DeviceArray<float> scales(copies * scale_stride * (width / 128));
    const auto problem = [&](int i) {
      const int64_t at = i % copies * rows * width;
      return NormProblem{rows,
                         width,
                         delta.data() + at,
                         width,
                         residual.data() + at,
                         width,
                         weight.data(),
                         1e-6f,
                         out.data() + at,
                         width,
                         {values.data() + at, width,
                          scales.data() + i % copies * scale_stride * (width / 128), scale_stride}};
    };
    report("add_rms_norm+fp8", rows, "chosen", bytes,
           testing::median_us(kLaunches, 9,
                              [&](int i, cudaStream_t stream) { rms_norm(problem(i), stream); }));
    for (const int vectors : {1, 2}) {
      report("add_rms_norm+fp8", rows, fmt::format("vectors {}", vectors), bytes,
             testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
               launch_norm_vector({1, {problem(i), {}}}, vectors, stream);
             }));
    }
  }
}

TEST(NormBench, RmsNormPair) {
  const int64_t a_width = 1536, b_width = 512, stride = 2112;
  const DeviceArray<float> weight(testing::random_normal(a_width, 1.0f, 2));
  for (const int64_t rows : kRows) {
    // The first to FP8 alone, the second in place.
    const int64_t bytes = rows * (a_width * 3 + b_width * 4) + rows * a_width / 128 * 4;
    const int64_t copies = testing::copies_past_l2(bytes, kLaunches);
    const DeviceArray<uint16_t> x(random_bits(copies * rows * stride));
    const DeviceArray<uint8_t> values(copies * rows * a_width);
    const int64_t scale_stride = Fp8Rows::scale_stride_of(rows);
    const DeviceArray<float> scales(copies * scale_stride * (a_width / 128));
    const auto parts = [&](int i) {
      const int64_t c = i % copies;
      uint16_t* row = x.data() + c * rows * stride;
      const Fp8Rows fp8{values.data() + c * rows * a_width, a_width,
                        scales.data() + c * scale_stride * (a_width / 128), scale_stride};
      return NormParts{
          2,
          {{rows, a_width, row, stride, nullptr, 0, weight.data(), 1e-6f, nullptr, 0, fp8},
           {rows,
            b_width,
            row + a_width,
            stride,
            nullptr,
            0,
            weight.data(),
            1e-6f,
            row + a_width,
            stride,
            {}}}};
    };
    report("rms_norm_pair", rows, "chosen", bytes,
           testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
             rms_norm_pair(parts(i).part[0], parts(i).part[1], stream);
           }));
    for (const int vectors : {1, 2}) {
      report("rms_norm_pair", rows, fmt::format("vectors {}", vectors), bytes,
             testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
               launch_norm_vector(parts(i), vectors, stream);
             }));
    }
  }
}

TEST(RopeBench, RopeWriteKv) {
  const int64_t heads = 128, head_dim = 192, rope = 64, latent = 512, latent_stride = 2112;
  const DeviceArray<float> cos_sin(testing::random_normal(8192 * rope, 0.5f, 2));
  for (const int64_t rows : kRows) {
    const int64_t bytes = rows * (heads * rope * 4 + (latent + rope) * 4 + rope * 2);
    const int64_t copies = testing::copies_past_l2(rows * heads * rope * 2, kLaunches);
    const DeviceArray<uint16_t> q(random_bits(copies * rows * heads * head_dim));
    const DeviceArray<uint16_t> latents(random_bits(copies * rows * latent_stride));
    std::vector<int32_t> positions(rows), slots(rows), pages(rows * 128);
    for (int64_t i = 0; i < rows; ++i) {
      // A decode step's slots, or one slot's prompt.
      slots[i] = rows == 8192 ? 0 : static_cast<int32_t>(i);
      positions[i] = rows == 8192 ? static_cast<int32_t>(i) : 4000;
    }
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i % 256);
    const DeviceArray<int32_t> device_positions(positions), device_slots(slots),
        device_pages(pages);
    const DeviceArray<uint8_t> pool(256 * 2 * 64 * (latent + rope) * 2);
    const auto problem = [&](int i) {
      const int64_t c = i % copies;
      RopeProblem p;
      p.num_tokens = rows;
      p.positions = device_positions.data();
      p.cos_sin = cos_sin.data();
      p.rope_dim = rope;
      p.num_heads = heads;
      p.q_pe = q.data() + c * rows * heads * head_dim + 128;
      p.q_token_stride = heads * head_dim;
      p.q_head_stride = head_dim;
      p.latent = latents.data() + c * rows * latent_stride + 1536;
      p.latent_stride = latent_stride;
      p.pool = {pool.data(),
                PageFormat::kBF16,
                int64_t{2} * 64 * (latent + rope) * 2,
                1,
                latent + rope,
                1.0f,
                device_slots.data(),
                device_pages.data(),
                128};
      return p;
    };
    report("rope_write_kv", rows, "chosen", bytes,
           testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
             rope_write_kv(problem(i), stream);
           }));
    if (rows == 8192) {
      report("rope_write_kv", rows, "dense q", bytes,
             testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
               RopeProblem p = problem(i);
               p.q_token_stride = heads * rope;
               p.q_head_stride = rope;
               rope_write_kv(p, stream);
             }));
      report("rope", rows, "no latent", bytes,
             testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
               RopeProblem p = problem(i);
               p.latent = nullptr;
               rope_write_kv(p, stream);
             }));
    }
    for (const int heads_per_thread : {1, 2, 4}) {
      report("rope_write_kv", rows, fmt::format("heads {}", heads_per_thread), bytes,
             testing::median_us(kLaunches, 9, [&](int i, cudaStream_t stream) {
               launch_rope_vector(problem(i), heads_per_thread, stream);
             }));
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_norm_rope
