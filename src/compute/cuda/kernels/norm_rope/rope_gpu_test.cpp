// Rotary embedding and the KV write against the host: the rotation to a BF16 ulp, what is written
// to the pages bit for bit as the rotated latent row holds it.
#include "compute/cuda/kernels/norm_rope/kernels.h"
#include "compute/cuda/kernels/norm_rope/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_norm_rope {
namespace {

using testing::DeviceArray;

struct Shape {
  int64_t heads, nope, rope, latent;
  bool interleaved = true;
  int64_t padding = 0;  // elements between rows
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << "heads " << shape.heads << " nope " << shape.nope << " rope " << shape.rope
             << " latent " << shape.latent << " interleaved " << shape.interleaved << " padding "
             << shape.padding;
}

constexpr int64_t kMaxPositions = 400, kNumLayers = 3, kLayer = 1, kNumSlots = 5, kMaxPages = 7;
constexpr int64_t kNumPages = kNumSlots * kMaxPages;

// Everything that one call works on.
struct Call {
  Call(const Shape& shape, int64_t num_tokens, PageFormat format, uint64_t seed);

  RopeProblem problem();
  void expect(const std::string& what);
  void expect_rotated(const uint16_t* got, const uint16_t* source, int64_t token,
                      const std::string& what) const;
  void expect_groups(const uint16_t* latents, uint8_t* target) const;
  void expect_pool(const std::vector<uint16_t>& latents, const std::string& what) const;

  Shape shape;
  int64_t num_tokens;
  PageFormat format;
  int64_t q_stride, latent_stride, token_dim, num_copied, token_bytes;
  float scale = 0.37f;
  std::vector<uint16_t> q_host, latent_host;
  std::vector<float> cos_sin_host;
  std::vector<int32_t> positions_host, slots_host, pages_host;
  DeviceArray<uint16_t> q, latent, copy;
  DeviceArray<float> cos_sin;
  DeviceArray<int32_t> positions, slots, pages;
  DeviceArray<uint8_t> pool;
};

std::vector<uint16_t> random_bits(int64_t count, uint64_t seed) {
  return testing::to_bf16(testing::random_normal(count, 2.0f, seed));
}

std::vector<float> make_table(int64_t rope) {
  std::vector<float> table(kMaxPositions * rope);
  for (int64_t position = 0; position < kMaxPositions; ++position) {
    for (int64_t i = 0; i < rope / 2; ++i) {
      const double angle =
          static_cast<double>(position) * std::pow(10000.0, -2.0 * static_cast<double>(i) / rope);
      table[position * rope + i] = static_cast<float>(std::cos(angle));
      table[position * rope + rope / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

// Distinct (slot, position) per token: runs of one slot; every fifth token is padding.
std::vector<int32_t> make_positions(int64_t num_tokens) {
  std::vector<int32_t> positions(num_tokens);
  for (int64_t t = 0; t < num_tokens; ++t) {
    positions[t] = t % 5 == 4 ? 0 : static_cast<int32_t>((t / kNumSlots * 17 + t) % kMaxPositions);
  }
  return positions;
}
std::vector<int32_t> make_slots(int64_t num_tokens) {
  std::vector<int32_t> slots(num_tokens);
  for (int64_t t = 0; t < num_tokens; ++t) {
    slots[t] = t % 5 == 4 ? -1 : static_cast<int32_t>(t % kNumSlots);
  }
  return slots;
}
std::vector<int32_t> make_pages() {
  std::vector<int32_t> pages(kNumPages);
  for (int64_t i = 0; i < kNumPages; ++i) pages[i] = static_cast<int32_t>(i);
  std::mt19937_64 engine(3);
  std::shuffle(pages.begin(), pages.end(), engine);
  return pages;
}

Call::Call(const Shape& the_shape, int64_t tokens, PageFormat the_format, uint64_t seed)
    : shape(the_shape),
      num_tokens(tokens),
      format(the_format),
      q_stride(shape.heads * (shape.nope + shape.rope) + shape.padding),
      latent_stride(shape.latent + shape.rope + shape.padding),
      token_dim(shape.latent + shape.rope),
      num_copied(tokens * 2 / 3),
      token_bytes(page_token_bytes(format, shape.latent, shape.rope)),
      q_host(random_bits(tokens * q_stride, seed)),
      latent_host(random_bits(tokens * latent_stride, seed + 1)),
      cos_sin_host(make_table(shape.rope)),
      positions_host(make_positions(tokens)),
      slots_host(make_slots(tokens)),
      pages_host(make_pages()),
      q(q_host),
      latent(latent_host),
      copy(num_copied * shape.heads * token_dim),
      cos_sin(cos_sin_host),
      positions(positions_host),
      slots(slots_host),
      pages(pages_host),
      pool(kNumPages * kNumLayers * 64 * token_bytes) {}

RopeProblem Call::problem() {
  RopeProblem p;
  p.num_tokens = num_tokens;
  p.positions = positions.data();
  p.cos_sin = cos_sin.data();
  p.rope_dim = shape.rope;
  p.interleaved = shape.interleaved;
  p.num_heads = shape.heads;
  p.q_pe = q.data() + shape.nope;
  p.q_token_stride = q_stride;
  p.q_head_stride = shape.nope + shape.rope;
  p.num_copied = num_copied;
  p.q_copy = copy.data() + shape.latent;
  p.copy_token_stride = shape.heads * token_dim;
  p.copy_head_stride = token_dim;
  p.latent = latent.data();
  p.latent_stride = latent_stride;
  p.pool = {pool.data(),  format,       kNumLayers * 64 * token_bytes,
            kLayer,       token_dim,    scale,
            slots.data(), pages.data(), kMaxPages,
            shape.rope};
  return p;
}

// rope_dim values at `got` are those at `source` rotated; half a BF16 ulp of the larger of a pair,
// since a sum of two may cancel.
void Call::expect_rotated(const uint16_t* got, const uint16_t* source, int64_t token,
                          const std::string& what) const {
  const int64_t half = shape.rope / 2;
  const float* angles = cos_sin_host.data() + positions_host[token] * shape.rope;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t low = shape.interleaved ? 2 * i : i;
    const int64_t high = shape.interleaved ? 2 * i + 1 : i + half;
    const double x = bf16_to_f32(source[low]), y = bf16_to_f32(source[high]);
    const double want_low = x * angles[i] - y * angles[half + i];
    const double want_high = y * angles[i] + x * angles[half + i];
    const double slack = 1e-6 * (std::fabs(x) + std::fabs(y));
    ASSERT_LE(std::fabs(bf16_to_f32(got[low]) - want_low), std::fabs(want_low) * 0x1p-8 + slack)
        << what << " token " << token << " pair " << i;
    ASSERT_LE(std::fabs(bf16_to_f32(got[high]) - want_high), std::fabs(want_high) * 0x1p-8 + slack)
        << what << " token " << token << " pair " << i;
  }
}

// A token of kF8Group, written anew here: the layout and the choice of scales.
void Call::expect_groups(const uint16_t* latents, uint8_t* target) const {
  std::fill_n(target, token_bytes, uint8_t{0});
  const int64_t scales_at = (shape.latent + 3) / 4 * 4;
  const int64_t num_groups = (shape.latent + 127) / 128;
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t end = std::min(shape.latent, (group + 1) * 128);
    float largest = 0.0f;
    for (int64_t i = group * 128; i < end; ++i) {
      largest = std::max(largest, std::fabs(bf16_to_f32(latents[i])));
    }
    float scale = 0x1p-15f;
    while (scale * 448.0f < largest && scale < 128.0f) scale *= 2.0f;
    for (int64_t i = group * 128; i < end; ++i) {
      target[i] = f32_to_f8e4m3(bf16_to_f32(latents[i]) / scale);
    }
    std::memcpy(target + scales_at + 4 * group, &scale, 4);
  }
  std::memcpy(target + scales_at + 4 * num_groups, latents + shape.latent, 2 * shape.rope);
}

void Call::expect_pool(const std::vector<uint16_t>& latents, const std::string& what) const {
  std::vector<uint8_t> want(pool.size(), 0xff);
  for (int64_t token = 0; token < num_tokens; ++token) {
    if (slots_host[token] < 0) continue;
    const int64_t position = positions_host[token];
    const int64_t page = pages_host[slots_host[token] * kMaxPages + position / 64];
    const int64_t row = (page * kNumLayers + kLayer) * 64 + position % 64;
    uint8_t* target = want.data() + row * token_bytes;
    if (format == PageFormat::kF8Group) {
      expect_groups(&latents[token * latent_stride], target);
      continue;
    }
    for (int64_t i = 0; i < token_dim; ++i) {
      const uint16_t bits = latents[token * latent_stride + i];
      if (format == PageFormat::kBF16) {
        std::memcpy(target + 2 * i, &bits, 2);
      } else {
        target[i] = f32_to_f8e4m3(bf16_to_f32(bits) / scale);
      }
    }
  }
  const auto got = pool.host();
  for (size_t i = 0; i < want.size(); ++i) {
    const size_t row = i / token_bytes;
    ASSERT_EQ(got[i], want[i]) << what << " pool row " << row << " byte " << i % token_bytes;
  }
}

void Call::expect(const std::string& what) {
  const auto got_q = q.host();
  const auto got_latent = latent.host();
  const auto got_copy = copy.host();
  const int64_t head_dim = shape.nope + shape.rope;
  for (int64_t token = 0; token < num_tokens; ++token) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t begin = token * q_stride + head * head_dim;
      for (int64_t i = 0; i < shape.nope; ++i) {
        ASSERT_EQ(got_q[begin + i], q_host[begin + i]) << what << " q_nope of token " << token;
      }
      ASSERT_NO_FATAL_FAILURE(expect_rotated(&got_q[begin + shape.nope],
                                             &q_host[begin + shape.nope], token,
                                             what + " head " + std::to_string(head)));
      if (token >= num_copied) continue;
      const int64_t copied = (token * shape.heads + head) * token_dim;
      for (int64_t i = 0; i < token_dim; ++i) {
        const uint16_t want =
            i < shape.latent ? 0xffff : got_q[begin + shape.nope + i - shape.latent];
        ASSERT_EQ(got_copy[copied + i], want) << what << " copy of token " << token << " at " << i;
      }
    }
    for (int64_t i = token * q_stride + shape.heads * head_dim; i < (token + 1) * q_stride; ++i) {
      ASSERT_EQ(got_q[i], q_host[i]) << what << " padding of q, token " << token;
    }
    const int64_t begin = token * latent_stride;
    for (int64_t i = 0; i < latent_stride; ++i) {
      if (i >= shape.latent && i < token_dim) continue;
      ASSERT_EQ(got_latent[begin + i], latent_host[begin + i]) << what << " latent " << token;
    }
    ASSERT_NO_FATAL_FAILURE(expect_rotated(&got_latent[begin + shape.latent],
                                           &latent_host[begin + shape.latent], token,
                                           what + " latent"));
  }
  expect_pool(got_latent, what);
}

const Shape kShapes[] = {
    {128, 128, 64, 512},           // R1
    {16, 128, 64, 512, false},     // the same, half-split
    {128, 128, 64, 512, true, 8},  // views
    {5, 16, 16, 24, true, 8},     {3, 24, 48, 32, false, 16}, {4, 8, 8, 16},
    {4, 8, 8, 16, false, 3},      {3, 5, 6, 7, true, 1},      {1, 0, 2, 1, false, 0}};

TEST(RopeWriteKv, RotatesAndWritesPages) {
  for (const Shape& shape : kShapes) {
    for (const int64_t num_tokens : {0, 1, 4, 33}) {
      for (const PageFormat format :
           {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group}) {
        std::ostringstream what;
        what << shape << " tokens " << num_tokens << " format " << static_cast<int>(format);
        Call call(shape, num_tokens, format, 7 + num_tokens);
        rope_write_kv(call.problem(), nullptr);
        ASSERT_NO_FATAL_FAILURE(call.expect(what.str()));
      }
    }
  }
}

TEST(RopeWriteKv, EveryNumberOfHeadsAThreadIsRight) {
  for (const int heads_per_thread : {1, 2, 4}) {
    for (const int64_t heads : {1, 16, 33, 128, 160}) {
      std::ostringstream what;
      what << "heads " << heads << " per thread " << heads_per_thread;
      Call call({heads, 128, 64, 512}, 11, PageFormat::kBF16, 5);
      launch_rope_vector(call.problem(), heads_per_thread, nullptr);
      ASSERT_NO_FATAL_FAILURE(call.expect(what.str()));
    }
  }
}

TEST(Rope, AloneTouchesNoLatent) {
  for (const int64_t rope : {64, 6}) {
    Call call({4, 8, rope, 16}, 9, PageFormat::kBF16, 5);
    RopeProblem problem = call.problem();
    problem.latent = nullptr;
    rope_write_kv(problem, nullptr);
    EXPECT_EQ(call.latent.host(), call.latent_host);
    for (const uint8_t byte : call.pool.host()) ASSERT_EQ(byte, 0xff);
    const auto got = call.q.host();
    for (int64_t token = 0; token < 9; ++token) {
      const int64_t at = token * call.q_stride + 8;
      ASSERT_NO_FATAL_FAILURE(call.expect_rotated(&got[at], &call.q_host[at], token, "rope alone"));
    }
  }
}

TEST(WriteKv, AloneRotatesNothing) {
  for (const Shape& shape : kShapes) {
    for (const PageFormat format : {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group}) {
      Call call(shape, 21, format, 5);
      RopeProblem problem = call.problem();
      problem.cos_sin = nullptr;
      problem.num_heads = 0;
      problem.num_copied = 0;
      rope_write_kv(problem, nullptr);
      EXPECT_EQ(call.latent.host(), call.latent_host);
      EXPECT_EQ(call.q.host(), call.q_host);
      std::ostringstream what;
      what << shape;
      ASSERT_NO_FATAL_FAILURE(call.expect_pool(call.latent_host, what.str()));
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_norm_rope
