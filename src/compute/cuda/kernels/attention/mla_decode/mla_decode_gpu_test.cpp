// Absorbed attention against float64, with NaN in everything that must not be read.
//
// The e4m3 kernel rounds queries, which the reference repeats, and weights, which it does not:
// relative errors d_j of at most 2^-4 / sqrt(3) in the square mean give sum(w_j (d_j - mean d) v_j)
// beside sum(w_j v_j), of as many vectors about at right angles. Where weights are equal they round
// alike, and BF16's bound holds. A model of the arithmetic in float64 stays below 3.1%.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "compute/cuda/kernels/attention/mla_decode/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_mla_decode {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

struct Sequence {
  int64_t kv_len;
  int64_t queries;
  bool padding = false;
};

struct Shape {
  int64_t heads, latent, rope;
  PageFormat format;
  std::vector<Sequence> sequences;
  float query_size = 1.0f;
  int64_t first_key = 0;
};

constexpr PageFormat kFormats[] = {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group};
constexpr int64_t kLayers = 3, kPad = 8;
constexpr float kKvScale = 0.75f, kScale = 0.05f;

std::vector<float> scaled_normal(int64_t count, float size) {
  std::vector<float> values = random_normal(count, 1.0f, 7);
  for (float& value : values) value *= size;
  return values;
}

// A pool with the sequences' tokens in the layers 1 and 2, their page tables and queries.
class World {
 public:
  explicit World(Shape shape)
      : w_(std::move(shape)),
        dim_(w_.latent + w_.rope),
        num_slots_(static_cast<int64_t>(w_.sequences.size())),
        layout_(lay_out()),
        offsets_(host_offsets_),
        lens_(host_lens_),
        slots_(host_slots_),
        table_(host_table_),
        q_(to_bf16(scaled_normal(tokens() * w_.heads * dim_ + kPad, w_.query_size))),
        out_(tokens() * out_stride()),
        pool_(host_pool_),
        metadata_(mla_decode_metadata_bytes(num_slots_, tokens(), w_.heads)),
        scratch_(mla_decode_scratch_bytes()),
        host_q_(from_bf16(q_.host())) {}

  int64_t tokens() const { return host_offsets_.back(); }
  int64_t out_stride() const { return w_.heads * w_.latent + kPad; }

  MlaDecodeProblem problem(int64_t layer, bool fast) const {
    MlaDecodeProblem p;
    p.num_heads = w_.heads, p.latent_dim = w_.latent, p.rope_dim = w_.rope;
    p.softmax_scale = kScale;
    p.first_key = w_.first_key;
    p.num_sequences = num_slots_, p.num_tokens = tokens(), p.query_offsets = offsets_.data();
    p.kv_lens = lens_.data(), p.slots = slots_.data();
    p.q = q_.data(), p.q_stride = w_.heads * dim_, p.q_head_stride = dim_;
    p.out = out_.data(), p.out_stride = out_stride(), p.out_head_stride = w_.latent;
    p.pool = pool_.data();
    p.num_pages = num_pages_;
    p.page_stride_bytes = kLayers * 64 * token_bytes();
    p.layer_offset_bytes = layer * 64 * token_bytes();
    p.format = w_.format, p.kv_scale = kKvScale;
    p.page_table = table_.data(), p.page_table_stride = table_stride_;
    if (fast) p.metadata = metadata_.data(), p.scratch = scratch_.data();
    return p;
  }
  void prepare(cudaStream_t stream) const {
    prepare_mla_decode(problem(1, true), metadata_.data(), stream);
  }
  void poison() const {
    CUDA_CHECK(cudaMemset(out_.data(), 0xff, out_.size_bytes()));
    CUDA_CHECK(cudaMemset(scratch_.data(), 0xff, scratch_.size_bytes()));
  }
  // Shorter sequences, on the device alone: what a graph that was captured before must see.
  void shorten(int64_t by) {
    for (int32_t& len : host_lens_) len = std::max<int32_t>(len - static_cast<int32_t>(by), 0);
    CUDA_CHECK(
        cudaMemcpy(lens_.data(), host_lens_.data(), lens_.size_bytes(), cudaMemcpyHostToDevice));
  }
  std::vector<uint16_t> result() const { return out_.host(); }
  void set_query(int64_t at, uint16_t bits) {
    CUDA_CHECK(cudaMemcpy(q_.data() + at, &bits, sizeof(bits), cudaMemcpyHostToDevice));
  }

  // The first `queries` of a sequence.
  struct Pick {
    int64_t sequence, queries;
  };
  // Outputs [queries of all picks, heads, latent] of a step of the picks alone.
  std::vector<uint16_t> run(const std::vector<Pick>& picks, bool batch_invariant) const {
    std::vector<int32_t> offsets{0}, lens, slots;
    std::vector<float> q;
    for (const auto& [s, queries] : picks) {
      const int32_t all = host_offsets_[s + 1] - host_offsets_[s];
      offsets.push_back(offsets.back() + static_cast<int32_t>(queries));
      lens.push_back(host_lens_[s] - all + static_cast<int32_t>(queries));
      slots.push_back(host_slots_[s]);
      const auto first = host_q_.begin() + host_offsets_[s] * w_.heads * dim_;
      q.insert(q.end(), first, first + queries * w_.heads * dim_);
    }
    const DeviceArray<int32_t> d_offsets(offsets), d_lens(lens), d_slots(slots);
    const DeviceArray<uint16_t> d_q(to_bf16(q)), out(offsets.back() * w_.heads * w_.latent);
    const DeviceArray<uint8_t> metadata(
        mla_decode_metadata_bytes(static_cast<int64_t>(picks.size()), offsets.back(), w_.heads));
    MlaDecodeProblem p = problem(1, true);
    p.num_sequences = static_cast<int64_t>(picks.size()), p.num_tokens = offsets.back();
    p.query_offsets = d_offsets.data(), p.kv_lens = d_lens.data(), p.slots = d_slots.data();
    p.q = d_q.data(), p.out = out.data(), p.out_stride = w_.heads * w_.latent;
    p.batch_invariant = batch_invariant;
    prepare_mla_decode(p, metadata.data(), nullptr);
    p.metadata = metadata.data();
    launch_mla_decode(p, nullptr);
    return out.host();
  }

  // Of the last outputs; a head of `head_step`.
  void expect_right(int64_t layer, bool fast = true, int64_t head_step = 1) const {
    const bool rounds = fast && w_.format == PageFormat::kF8E4M3;
    // BF16 outputs 2^-9 a value at most, and BF16 weights; or e4m3 ones.
    const double tolerance = rounds && w_.query_size > 0 ? 0x1p-4 / std::sqrt(3.0) + 6e-3 : 6e-3;
    const auto queries = rounds ? rounded_queries() : host_q_;
    const auto bits = out_.host();
    const auto out = from_bf16(bits);
    std::vector<double> errors(tokens(), 0), norms(tokens(), 0);
    const auto check_token = [&](int64_t s, int64_t t) {
      const int64_t visible = host_lens_[s] - (host_offsets_[s + 1] - 1 - t);
      std::vector<double> mixed(w_.latent);
      for (int64_t h = 0; h < w_.heads; h += head_step) {
        const float* row = out.data() + t * out_stride() + h * w_.latent;
        std::fill(mixed.begin(), mixed.end(), 0);
        double total = 0;
        for (int64_t j = w_.first_key; host_slots_[s] >= 0 && j < visible; ++j) {
          const float* key = value_of(layer, s, j);
          const float* query = queries.data() + (t * w_.heads + h) * dim_;
          double score = 0;
          for (int64_t i = 0; i < dim_; ++i) score += double{query[i]} * key[i];
          const double weight = std::exp(score * kScale);
          total += weight;
          for (int64_t i = 0; i < w_.latent; ++i) mixed[i] += weight * key[i];
        }
        for (int64_t i = 0; i < w_.latent; ++i) {
          const double want = total > 0 ? mixed[i] / total : 0;
          errors[t] += (row[i] - want) * (row[i] - want);
          norms[t] += want * want;
        }
      }
    };
    std::vector<std::thread> threads;
    const int64_t num_threads = std::max(1u, std::thread::hardware_concurrency());
    for (int64_t i = 0; i < num_threads; ++i) {
      threads.emplace_back([&, i] {
        int64_t s = 0;
        for (int64_t t = 0; t < tokens(); ++t) {
          while (host_offsets_[s + 1] <= t) ++s;
          if (t % num_threads == i) check_token(s, t);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    for (int64_t t = 0; t < tokens(); ++t) {
      ASSERT_LE(std::sqrt(errors[t]), tolerance * std::sqrt(norms[t])) << "token " << t;
      for (int64_t i = w_.heads * w_.latent; i < out_stride(); ++i) {
        ASSERT_EQ(bits[t * out_stride() + i], 0xffff) << "written past row " << t;
      }
    }
  }

 private:
  // Each row's largest magnitude becomes 448.
  std::vector<float> rounded_queries() const {
    std::vector<float> rounded = host_q_;
    for (int64_t at = 0; at + dim_ <= std::ssize(rounded); at += dim_) {
      float largest = 1e-30f;
      for (int64_t i = 0; i < dim_; ++i) largest = std::max(largest, std::abs(rounded[at + i]));
      for (int64_t i = 0; i < dim_; ++i) {
        const uint8_t stored = f32_to_f8e4m3(rounded[at + i] * (448.0f / largest));
        rounded[at + i] = f8e4m3_to_f32(stored) * (largest / 448.0f);
      }
    }
    return rounded;
  }
  int64_t token_bytes() const { return page_token_bytes(w_.format, w_.latent, w_.rope); }
  // Number of a token in the pool.
  int64_t token_idx(int64_t layer, int64_t s, int64_t j) const {
    const int64_t page = host_table_[host_slots_[s] * table_stride_ + j / 64];
    return (page * kLayers + layer) * 64 + j % 64;
  }
  const float* value_of(int64_t layer, int64_t s, int64_t j) const {
    return values_.data() + token_idx(layer, s, j) * dim_;
  }

  bool lay_out() {
    host_offsets_ = {0};
    num_pages_ = 3, table_stride_ = 2;
    for (int64_t s = 0; s < num_slots_; ++s) {
      const Sequence& sequence = w_.sequences[s];
      host_offsets_.push_back(host_offsets_.back() + static_cast<int32_t>(sequence.queries));
      host_lens_.push_back(static_cast<int32_t>(sequence.padding ? 1 << 30 : sequence.kv_len));
      host_slots_.push_back(sequence.padding ? -1 : static_cast<int32_t>(num_slots_ - 1 - s));
      const int64_t pages = (sequence.kv_len + 63) / 64;
      num_pages_ += pages;
      table_stride_ = std::max(table_stride_, pages + 2);
    }
    host_table_.assign(num_slots_ * table_stride_, 0x7f000000);
    std::vector<int32_t> ids(num_pages_);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
    const int64_t pool_tokens = num_pages_ * kLayers * 64;
    values_.assign(pool_tokens * dim_, NAN);
    host_pool_.assign(pool_tokens * token_bytes(), 0xff);  // NaN in every format
    for (int64_t s = 0; s < num_slots_; ++s) {
      if (host_slots_[s] < 0) continue;
      for (int64_t j = 0; j < w_.sequences[s].kv_len; j += 64) {
        host_table_[host_slots_[s] * table_stride_ + j / 64] = ids.back();
        ids.pop_back();
      }
      for (int64_t layer = 1; layer < kLayers; ++layer) fill(layer, s);
    }
    return true;
  }
  void fill(int64_t layer, int64_t s) {
    const int64_t kv_len = w_.sequences[s].kv_len;
    static const auto random = random_normal(1000003, 1.0f, 11);  // drawn once: pools are large
    const int64_t first = (1000 * layer + s) * 7919;
    for (int64_t j = 0; j < kv_len; ++j) {
      const int64_t token = token_idx(layer, s, j);
      for (int64_t i = 0; i < dim_; ++i) {
        values_[token * dim_ + i] = store(&host_pool_[token * token_bytes()], i, j,
                                          random[(first + j * dim_ + i) % 1000003]);
      }
    }
  }
  // Value `i` of a token; gives what the kernel sees. Scales of groups are any powers of two.
  float store(uint8_t* token, int64_t i, int64_t j, float value) const {
    if (w_.format == PageFormat::kF8E4M3) {
      token[i] = f32_to_f8e4m3(value);
      return f8e4m3_to_f32(token[i]) * kKvScale;
    }
    if (w_.format == PageFormat::kF8Group && i < w_.latent) {
      const int64_t group = i / kPageGroup;
      const float scale = std::ldexp(1.0f, static_cast<int>((j + 2 * group) % 5) - 3);
      std::memcpy(token + scales_offset_bytes(w_.latent) + 4 * group, &scale, 4);
      token[i] = f32_to_f8e4m3(value / scale);
      return f8e4m3_to_f32(token[i]) * scale;
    }
    const uint16_t bits = f32_to_bf16(value);
    uint8_t* at = w_.format == PageFormat::kBF16
                      ? token + 2 * i
                      : token + rope_offset_bytes(w_.latent) + 2 * (i - w_.latent);
    std::memcpy(at, &bits, 2);
    return bf16_to_f32(bits);
  }

  const Shape w_;
  const int64_t dim_, num_slots_;
  int64_t num_pages_, table_stride_;
  std::vector<int32_t> host_offsets_, host_lens_, host_slots_, host_table_;
  std::vector<float> values_;  // of the pool, as the kernel sees them
  std::vector<uint8_t> host_pool_;
  const bool layout_;  // after which the host's vectors are made
  const DeviceArray<int32_t> offsets_, lens_, slots_, table_;
  const DeviceArray<uint16_t> q_, out_;
  const DeviceArray<uint8_t> pool_, metadata_, scratch_;
  const std::vector<float> host_q_;
};

void check(const Shape& shape, bool fast, int64_t head_step = 1) {
  SCOPED_TRACE(::testing::Message() << "heads " << shape.heads << " latent " << shape.latent
                                    << " format " << static_cast<int>(shape.format) << " sequences "
                                    << shape.sequences.size() << " fast " << fast);
  const World world(shape);
  if (fast) {
    ASSERT_TRUE(mla_decode_is_fast(world.problem(1, true)));
    world.prepare(nullptr);
  }
  for (int64_t layer = 1; layer < kLayers; ++layer) {
    world.poison();
    launch_mla_decode(world.problem(layer, fast), nullptr);
    const auto first = world.result();
    world.expect_right(layer, fast, head_step);
    for (int again = 0; again < 3; ++again) {
      world.poison();
      launch_mla_decode(world.problem(layer, fast), nullptr);
      ASSERT_EQ(first, world.result());
    }
  }
}

const std::vector<Sequence> kRagged = {{1, 1},   {64, 1},   {7, 2, true}, {65, 6},
                                       {700, 2}, {129, 65}, {0, 1},       {3, 5}};

TEST(MlaDecode, Generic) {
  for (const PageFormat format : kFormats) {
    check({1, 512, 64, format, kRagged}, false);
    check({4, 512, 64, format, kRagged}, false);
    check({2, 16, 8, format, kRagged}, false);
    check({3, 32, 8, format, {{3000, 1}, {5, 0}, {300, 300}}}, false);
    check({128, 512, 64, format, {{200, 1}, {1, 1, true}, {130, 2}}}, false);
  }
}

void check_fast(PageFormat format) {
  for (const int64_t heads : {1, 3, 4, 16, 32, 64, 96, 128}) {
    check({heads, 512, 64, format, kRagged}, true);
    check({heads, 512, 64, format, {{200, 1}, {1, 1, true}, {130, 2}}}, true);
    check({heads, 512, 64, format, {{3000, 1}}}, true);
    check({heads, 512, 64, format, {{64, 1}}}, true);
    check({heads, 512, 64, format, {{1, 1}}}, true);
    check({heads, 512, 64, format, {{5, 3, true}}}, true);
    check({heads, 512, 64, format, {{300, 300}, {77, 1}, {5, 0}}}, true, 16);
  }
}
// Batches as decode steps have them: the same number of queries each, any lengths.
void check_batches(PageFormat format) {
  for (const int64_t queries : {1, 2, 4, 6}) {
    for (const int64_t heads : {16, 128}) {
      std::vector<Sequence> sequences;
      std::mt19937 random(static_cast<unsigned>(queries));
      for (int i = 0; i < 64; ++i) {
        const int64_t kv_len = std::max<int64_t>(queries, random() % (i % 8 == 0 ? 3500 : 600));
        sequences.push_back({kv_len, queries, i % 13 == 5});
      }
      check({heads, 512, 64, format, sequences}, true, heads / 8);
    }
  }
}

// As MTP modules ask: the first positions are no keys, and a query may see none.
TEST(MlaDecode, KeysBeforeTheFirstAreNotSeen) {
  for (const PageFormat format : {PageFormat::kBF16, PageFormat::kF8E4M3, PageFormat::kF8Group}) {
    for (const int64_t first_key : {1, 2, 5, 64}) {
      const auto check_from = [&](Shape shape, bool fast, int64_t head_step = 1) {
        shape.first_key = first_key;
        check(shape, fast, head_step);
      };
      check_from({4, 512, 64, format, kRagged}, true);
      check_from({128, 512, 64, format, kRagged}, true, 16);
      check_from({4, 512, 64, format, {{3000, 1}, {300, 300}}}, true);
      check_from({4, 512, 64, format, kRagged}, false);
      check_from({2, 16, 8, format, kRagged}, false);
    }
  }
}

TEST(MlaDecode, Bf16) { check_fast(PageFormat::kBF16); }
TEST(MlaDecode, Bf16Batches) { check_batches(PageFormat::kBF16); }
TEST(MlaDecode, E4m3) { check_fast(PageFormat::kF8E4M3); }
TEST(MlaDecode, E4m3Batches) { check_batches(PageFormat::kF8E4M3); }
TEST(MlaDecode, Group) { check_fast(PageFormat::kF8Group); }
TEST(MlaDecode, GroupBatches) { check_batches(PageFormat::kF8Group); }

// Weights without rounding errors: equal ones, and (almost) a single one. Tail pages too.
TEST(MlaDecode, E4m3Equal) {
  for (const int64_t heads : {1, 16, 128}) {
    for (const float size : {0.0f, 40.0f}) {
      check({heads, 512, 64, PageFormat::kF8E4M3, kRagged, size}, true);
      check({heads,
             512,
             64,
             PageFormat::kF8E4M3,
             {{3000, 1}, {200, 1}, {1, 1, true}, {130, 2}},
             size},
            true);
    }
  }
}

// Queries that are not numbers, or infinite, must not leave their rows.
TEST(MlaDecode, E4m3OddQueries) {
  World world({16, 512, 64, PageFormat::kF8E4M3, {{700, 1}}});
  world.prepare(nullptr);
  world.poison();
  launch_mla_decode(world.problem(1, true), nullptr);
  const auto want = world.result();
  const uint16_t odd[2] = {0x7fc0, 0xff80};
  for (int64_t i = 0; i < 2; ++i) world.set_query((3 + 4 * i) * 576 + 100, odd[i]);
  world.poison();
  launch_mla_decode(world.problem(1, true), nullptr);
  const auto got = world.result();
  for (int64_t i = 0; i < std::ssize(want); ++i) {
    if (i / 512 != 3 && i / 512 != 7) {
      ASSERT_EQ(got[i], want[i]) << i;
    }
  }
}

// Means of values near 1 over one long row of pages a block, where rounding towards zero in the
// tensor cores would show: their sums are kept short.
TEST(MlaDecode, E4m3LongSums) {
  constexpr int64_t kPages = 64, kDim = 576, kHeads = 1;
  const int64_t num_sequences = DeviceInfo::current().num_sms;
  std::vector<uint8_t> host_pool(kPages * 64 * kDim);
  const auto noise = random_normal(std::ssize(host_pool), 0.25f, 3);
  std::vector<double> mean(512, 0);
  for (int64_t i = 0; i < std::ssize(host_pool); ++i) {
    host_pool[i] = f32_to_f8e4m3(1 + noise[i]);
    if (i % kDim < 512) mean[i % kDim] += f8e4m3_to_f32(host_pool[i]) / (kPages * 64.0);
  }
  const DeviceArray<uint8_t> pool(host_pool);
  const DeviceArray<uint16_t> q(std::vector<uint16_t>(num_sequences * kDim, 0));
  const DeviceArray<uint16_t> out(num_sequences * 512);
  std::vector<int32_t> slots(num_sequences), offsets(num_sequences + 1);
  std::iota(slots.begin(), slots.end(), 0);
  std::iota(offsets.begin(), offsets.end(), 0);
  const DeviceArray<int32_t> d_slots(slots), d_offsets(offsets);
  const DeviceArray<uint8_t> scratch(mla_decode_scratch_bytes());
  const DeviceArray<uint8_t> metadata(
      mla_decode_metadata_bytes(num_sequences, num_sequences, kHeads));
  for (const int64_t kv_len : {4096, 16384, 65536}) {
    std::vector<int32_t> table(num_sequences * (kv_len / 64));
    for (int64_t i = 0; i < std::ssize(table); ++i) table[i] = static_cast<int32_t>(i % kPages);
    const DeviceArray<int32_t> d_table(table);
    const DeviceArray<int32_t> lens(
        std::vector<int32_t>(num_sequences, static_cast<int32_t>(kv_len)));
    MlaDecodeProblem p;
    p.num_heads = kHeads, p.latent_dim = 512, p.rope_dim = 64, p.softmax_scale = kScale;
    p.num_sequences = p.num_tokens = num_sequences;
    p.query_offsets = d_offsets.data(), p.kv_lens = lens.data(), p.slots = d_slots.data();
    p.q = q.data(), p.q_stride = p.q_head_stride = kDim;
    p.out = out.data(), p.out_stride = p.out_head_stride = 512;
    p.pool = pool.data(), p.num_pages = kPages, p.page_stride_bytes = 64 * kDim;
    p.format = PageFormat::kF8E4M3;
    p.page_table = d_table.data(), p.page_table_stride = kv_len / 64;
    prepare_mla_decode(p, metadata.data(), nullptr);
    p.metadata = metadata.data(), p.scratch = scratch.data();
    launch_mla_decode(p, nullptr);
    const auto got = from_bf16(out.host());
    double sum = 0;
    for (int64_t i = 0; i < std::ssize(got); ++i) sum += got[i] / mean[i % 512] - 1;
    const double bias = sum / static_cast<double>(std::ssize(got));
    fmt::print("e4m3, {} keys a block: mean relative error {:.2e}\n", kv_len, bias);
    EXPECT_LE(std::abs(bias), 6e-3);
  }
}

void check_graph(PageFormat format) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < 20; ++i) sequences.push_back({100 + 137 * i % 2000, 2, i == 7});
  for (const int64_t heads : {16, 128}) {
    World world({heads, 512, 64, format, sequences});
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    world.prepare(stream);  // attributes are set before a capture
    launch_mla_decode(world.problem(1, true), stream);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    world.prepare(stream);
    launch_mla_decode(world.problem(1, true), stream);
    launch_mla_decode(world.problem(2, true), stream);
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (const int64_t by : {0, 64, 99, 1500}) {
      world.shorten(by);
      world.poison();
      CUDA_CHECK(cudaDeviceSynchronize());
      CUDA_CHECK(cudaGraphLaunch(exec, stream));
      CUDA_CHECK(cudaStreamSynchronize(stream));
      world.expect_right(2, true, heads / 8);
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaStreamDestroy(stream));
  }
}

TEST(MlaDecode, Bf16GraphSeesNewLengths) { check_graph(PageFormat::kBF16); }
TEST(MlaDecode, E4m3GraphSeesNewLengths) { check_graph(PageFormat::kF8E4M3); }

// Rows of a step that have other bits than the same rows of a step of their sequence alone.
int64_t count_other_rows(const World& world, const std::vector<World::Pick>& picks, int64_t queries,
                         int64_t heads, bool batch_invariant) {
  const auto together = world.run(picks, batch_invariant);
  const int64_t row = heads * 512;
  int64_t at = 0, num_other = 0;
  for (const auto& pick : picks) {
    const auto alone = world.run({{pick.sequence, queries}}, batch_invariant);
    for (int64_t i = 0; i < pick.queries; ++i, at += row) {
      num_other += std::memcmp(together.data() + at, alone.data() + i * row, row * 2) != 0;
    }
  }
  return num_other;
}

// Batch-invariant steps: rows have the same bits alone, in any company and order, and with fewer
// query tokens behind them (drafts).
void check_invariance(PageFormat format) {
  constexpr int64_t kQueries = 4, kSequences = 40;
  std::mt19937 random(9);
  std::vector<Sequence> sequences;
  for (int i = 0; i < kSequences; ++i) {
    sequences.push_back({kQueries + static_cast<int64_t>(random() % (i % 4 == 0 ? 3500 : 400)),
                         kQueries, i % 13 == 5});
  }
  sequences[3].kv_len = 66;  // a page that only the last two queries see
  for (const int64_t heads : {4, 16, 128}) {
    SCOPED_TRACE(::testing::Message()
                 << "heads " << heads << " format " << static_cast<int>(format));
    const World world({heads, 512, 64, format, sequences});
    std::vector<World::Pick> picks;
    for (int64_t s = 0; s < kSequences; ++s) picks.push_back({s, kQueries});
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
    // That is no matter of course: blocks share out the pages of a sequence that is alone.
    EXPECT_GT(count_other_rows(world, picks, kQueries, heads, false), 0);
    std::reverse(picks.begin(), picks.end());
    for (World::Pick& pick : picks) pick.queries = 1 + static_cast<int64_t>(random() % kQueries);
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
    picks.resize(7);
    for (World::Pick& pick : picks) pick.queries = 1;
    EXPECT_EQ(count_other_rows(world, picks, kQueries, heads, true), 0);
  }
}

TEST(MlaDecode, Bf16RowsDoNotDependOnTheBatch) { check_invariance(PageFormat::kBF16); }
TEST(MlaDecode, E4m3RowsDoNotDependOnTheBatch) { check_invariance(PageFormat::kF8E4M3); }

// Short: for compute-sanitizer.
TEST(MlaDecodeSanitize, Fast) {
  for (const PageFormat format : kFormats)
    check({16, 512, 64, format, {{400, 2}, {7, 1, true}}}, true);
}

}  // namespace
}  // namespace deepflight::cuda_mla_decode
