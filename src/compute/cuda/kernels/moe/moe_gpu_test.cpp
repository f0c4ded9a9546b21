// Routing, sorting, expanding and combining against host references with the CPU backend's
// semantics, on random data of many shapes.
#include <numeric>

#include "compute/cuda/kernels/moe/launch.h"
#include "compute/cuda/runtime/gpu_testing.h"

namespace deepflight::cuda_moe {
namespace {

using namespace deepflight::testing;  // NOLINT: the helpers of gpu_testing.h

// --- routing

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

std::vector<int32_t> best_indices(const std::vector<float>& values, int count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

void score(const RouteProblem& p, const float* logits, std::vector<float>& raw) {
  if (!p.softmax) {
    for (int i = 0; i < p.num_experts; ++i) raw[i] = 1.0f / (1.0f + std::exp(-logits[i]));
    return;
  }
  const float maximum = *std::max_element(logits, logits + p.num_experts);
  float sum = 0.0f;
  for (int i = 0; i < p.num_experts; ++i) sum += raw[i] = std::exp(logits[i] - maximum);
  for (float& value : raw) value /= sum;
}

// Sets the choice of experts outside the kept groups to minus infinity.
void limit_groups(const RouteProblem& p, std::vector<float>& choice) {
  const int size = p.num_experts / p.num_groups;
  std::vector<float> scores(p.num_groups);
  for (int group = 0; group < p.num_groups; ++group) {
    std::vector<float> members(choice.begin() + group * size, choice.begin() + (group + 1) * size);
    std::sort(members.rbegin(), members.rend());
    scores[group] = members[0];
    if (p.group_rank == GroupRank::kTop2Sum) scores[group] += size > 1 ? members[1] : -INFINITY;
  }
  const auto kept = best_indices(scores, p.topk_groups);
  for (int group = 0; group < p.num_groups; ++group) {
    if (std::find(kept.begin(), kept.end(), group) != kept.end()) continue;
    std::fill_n(choice.begin() + group * size, size, -INFINITY);
  }
}

Routed route_on_host(const RouteProblem& p, const std::vector<float>& logits,
                     const std::vector<float>& bias) {
  Routed routed;
  for (int64_t token = 0; token < p.num_tokens; ++token) {
    std::vector<float> raw(p.num_experts);
    score(p, logits.data() + token * p.logits_stride, raw);
    std::vector<float> choice = raw;
    for (size_t i = 0; i < bias.size(); ++i) choice[i] += bias[i];
    if (p.group_rank != GroupRank::kNone && p.topk_groups < p.num_groups) limit_groups(p, choice);
    const auto ids = best_indices(choice, p.topk);
    float sum = 0.0f;
    for (const int32_t id : ids) sum += raw[id];
    const float factor = p.scaling_factor / (p.normalize ? sum + 1e-20f : 1.0f);
    for (const int32_t id : ids) {
      routed.ids.push_back(id);
      routed.weights.push_back(raw[id] * factor);
    }
  }
  return routed;
}

// Draws logits on a coarse grid where `ties`, so that equal scores are common.
void check_route(RouteProblem p, bool with_bias, bool ties, uint64_t seed) {
  SCOPED_TRACE(::testing::Message()
               << p.num_tokens << " tokens, " << p.num_experts << " experts, top " << p.topk
               << ", groups " << p.topk_groups << " of " << p.num_groups << ", rank "
               << static_cast<int>(p.group_rank) << (p.softmax ? ", softmax" : ", sigmoid")
               << (with_bias ? ", bias" : "") << (ties ? ", ties" : "") << ", stride "
               << p.logits_stride);
  auto logits = random_normal(p.num_tokens * p.logits_stride, 2.0f, seed);
  auto bias = random_normal(with_bias ? p.num_experts : 0, 0.1f, seed + 1);
  if (ties) {
    for (float& value : logits) value = std::round(value);
    for (float& value : bias) value = 0.0f;
  }
  for (int64_t token = 0; token < p.num_tokens; ++token) {  // row padding
    for (int64_t i = p.num_experts; i < p.logits_stride; ++i) {
      logits[token * p.logits_stride + i] = NAN;
    }
  }
  const DeviceArray<float> device_logits(logits), device_bias(bias);
  p.ids_stride = p.topk + 1;
  p.weights_stride = p.topk + 2;
  const DeviceArray<int32_t> ids(p.num_tokens * p.ids_stride);
  const DeviceArray<float> weights(p.num_tokens * p.weights_stride);
  p.logits = device_logits.data();
  p.bias = with_bias ? device_bias.data() : nullptr;
  p.topk_ids = ids.data();
  p.topk_weights = weights.data();
  route_experts(p, nullptr);
  const auto want = route_on_host(p, logits, bias);
  const auto got_ids = ids.host();
  const auto got_weights = weights.host();
  // The host adds up a softmax in float, one after the other; the device in double.
  const float tolerance = p.softmax ? 3e-5f : 2e-6f;
  int64_t num_wrong = 0;
  for (int64_t token = 0; token < p.num_tokens; ++token) {
    for (int k = 0; k < p.topk; ++k) {
      const int32_t id = got_ids[token * p.ids_stride + k];
      const float weight = got_weights[token * p.weights_stride + k];
      const float want_weight = want.weights[token * p.topk + k];
      if (id != want.ids[token * p.topk + k] ||
          !(std::fabs(weight - want_weight) <= tolerance * std::fabs(want_weight))) {
        if (++num_wrong <= 3) {
          ADD_FAILURE() << "token " << token << " k " << k << ": got " << id << " weight " << weight
                        << ", want " << want.ids[token * p.topk + k] << " weight " << want_weight;
        }
      }
    }
    EXPECT_EQ(got_ids[token * p.ids_stride + p.topk], -1) << "written past the row";
    EXPECT_TRUE(std::isnan(got_weights[token * p.weights_stride + p.topk]));
  }
  EXPECT_EQ(num_wrong, 0);
}

struct RouteShape {
  int experts, groups, topk_groups, topk;
};

TEST(Route, AllVariants) {
  const RouteShape shapes[] = {
      {256, 8, 4, 8}, {64, 1, 1, 6},    {160, 8, 3, 6},  {384, 1, 1, 8},    {384, 8, 4, 8},
      {4, 2, 1, 2},   {8, 4, 2, 3},     {8, 1, 1, 8},    {16, 4, 2, 4},     {32, 4, 2, 4},
      {100, 5, 2, 7}, {1024, 8, 4, 16}, {512, 16, 4, 8}, {1000, 10, 3, 32}, {12, 12, 5, 5},
      {1, 1, 1, 1},   {6, 3, 2, 4},     {256, 32, 8, 8}, {128, 128, 9, 8}};
  uint64_t seed = 1;
  for (const auto& shape : shapes) {
    for (const GroupRank rank : {GroupRank::kNone, GroupRank::kTop2Sum, GroupRank::kMax}) {
      for (int variant = 0; variant < 8; ++variant) {
        RouteProblem p;
        p.num_experts = shape.experts;
        p.num_groups = shape.groups;
        p.topk_groups = shape.topk_groups;
        p.topk = shape.topk;
        p.group_rank = rank;
        p.softmax = variant & 1;
        p.normalize = variant & 2;
        p.scaling_factor = p.normalize ? 2.5f : 1.0f;
        p.num_tokens = 1 + static_cast<int64_t>(seed % 41);
        p.logits_stride = shape.experts + (variant & 4 ? 3 : 0);
        // The ranks of softmax ties after a bias hang on the last bit of the sum: not compared.
        check_route(p, (variant & 4) != 0 && !p.softmax, seed % 3 == 0, seed);
        ++seed;
      }
    }
  }
}

TEST(Route, LargeBatch) {
  RouteProblem p;
  p.num_experts = 256;
  p.num_groups = 8;
  p.topk_groups = 4;
  p.topk = 8;
  p.group_rank = GroupRank::kTop2Sum;
  p.normalize = true;
  p.scaling_factor = 2.5f;
  p.num_tokens = 8192;
  p.logits_stride = 256;
  check_route(p, true, false, 77);
  p.num_tokens = 0;
  check_route(p, true, false, 78);
}

TEST(Route, FewerLiveExpertsThanTopk) {  // the rest come from the groups that were dropped
  RouteProblem p;
  p.num_experts = 16;
  p.num_groups = 8;
  p.topk_groups = 1;
  p.topk = 5;
  p.group_rank = GroupRank::kMax;
  p.num_tokens = 9;
  p.logits_stride = 16;
  check_route(p, true, false, 79);
}

TEST(Route, NanLogitsGiveValidIds) {
  RouteProblem p;
  p.num_experts = 64;
  p.topk = 6;
  p.num_tokens = 3;
  p.logits_stride = 64;
  const DeviceArray<float> logits(3 * 64);  // all NaN
  const DeviceArray<int32_t> ids(3 * 6);
  const DeviceArray<float> weights(3 * 6);
  p.logits = logits.data();
  p.topk_ids = ids.data();
  p.ids_stride = p.weights_stride = 6;
  p.topk_weights = weights.data();
  route_experts(p, nullptr);
  for (const int32_t id : ids.host()) EXPECT_TRUE(id >= 0 && id < 64) << id;
}

// --- sorting

void check_sort(int64_t num_rows, int num_experts, int used_experts, uint64_t seed) {
  SCOPED_TRACE(::testing::Message()
               << num_rows << " rows, " << num_experts << " experts, " << used_experts << " used");
  std::mt19937_64 engine(seed);
  std::vector<int32_t> ids(num_rows);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(engine() % used_experts * 7919 % num_experts);
  }
  std::vector<int32_t> rows(num_rows), positions(num_rows), offsets(num_experts + 1, 0);
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(), [&](int a, int b) { return ids[a] < ids[b]; });
  for (int64_t i = 0; i < num_rows; ++i) positions[rows[i]] = static_cast<int32_t>(i);
  for (const int32_t id : ids) ++offsets[id + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());

  const DeviceArray<int32_t> device_ids(ids);
  const DeviceArray<int32_t> got_offsets(num_experts + 2), got_rows(num_rows + 1),
      got_positions(num_rows + 1);
  const DeviceArray<uint8_t> scratch(sort_scratch_bytes(num_rows, num_experts));
  sort_by_expert({device_ids.data(), num_rows, num_experts, got_offsets.data(), got_rows.data(),
                  got_positions.data(), scratch.data()},
                 nullptr);
  offsets.push_back(-1);
  rows.push_back(-1);
  positions.push_back(-1);
  EXPECT_TRUE(got_offsets.host() == offsets);
  EXPECT_TRUE(got_rows.host() == rows);
  EXPECT_TRUE(got_positions.host() == positions);
}

TEST(Sort, StableByExpert) {
  uint64_t seed = 1;
  for (const int experts : {1, 4, 8, 64, 160, 256, 384, 1000, 1024}) {
    for (const int64_t rows : {0, 1, 6, 31, 32, 33, 512, 1000, 2048, 8192, 8193, 20000, 65536}) {
      check_sort(rows, experts, experts, seed++);
      check_sort(rows, experts, std::max(1, experts / 5), seed++);  // many without rows
    }
  }
  check_sort(131072 + 17, 256, 256, seed++);
  check_sort(65536, 256, 1, seed++);
}

TEST(Sort, BadIdsStayInside) {
  const std::vector<int32_t> ids = {3, -1, 0, 99, 3, 1};
  const DeviceArray<int32_t> device_ids(ids), offsets(5), rows(6), positions(6);
  sort_by_expert({device_ids.data(), 6, 4, offsets.data(), rows.data(), positions.data(), nullptr},
                 nullptr);
  EXPECT_EQ(offsets.host(), (std::vector<int32_t>{0, 1, 2, 2, 6}));
  EXPECT_EQ(rows.host(), (std::vector<int32_t>{2, 5, 0, 1, 3, 4}));
}

// --- expanding

std::vector<int32_t> random_rows(int64_t num_rows, uint64_t seed) {
  std::vector<int32_t> rows(num_rows);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), std::mt19937_64(seed));
  return rows;
}

std::vector<uint8_t> random_bytes(int64_t count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(engine());
  return bytes;
}

std::vector<int32_t> inverse(const std::vector<int32_t>& rows) {
  std::vector<int32_t> positions(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) positions[rows[i]] = static_cast<int32_t>(i);
  return positions;
}

void check_expand(int64_t tokens, int topk, int64_t width, int64_t pad, int64_t shift) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, top " << topk << ", width " << width
                                    << ", padding " << pad << ", shift " << shift);
  const int64_t num_rows = tokens * topk;
  const int64_t stride = width + pad;
  const auto bytes = random_bytes((shift + tokens * stride) * 2, tokens * width + topk);
  std::vector<uint16_t> x(bytes.size() / 2);
  std::memcpy(x.data(), bytes.data(), bytes.size());
  const auto rows = random_rows(num_rows, 5);
  const DeviceArray<uint16_t> device_x(x), out(shift + num_rows * stride);
  const DeviceArray<int32_t> device_rows(rows), positions(inverse(rows));
  expand_rows(ExpandProblem{device_x.data() + shift, stride, device_rows.data(), positions.data(),
                            num_rows, topk, width, out.data() + shift, stride},
              nullptr);
  std::vector<uint16_t> want(shift + num_rows * stride, 0xffff);
  for (int64_t i = 0; i < num_rows; ++i) {
    std::copy_n(x.begin() + shift + rows[i] / topk * stride, width,
                want.begin() + shift + i * stride);
  }
  const auto got = out.host();
  const auto bad = std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin();
  EXPECT_EQ(bad, static_cast<int64_t>(got.size())) << "first wrong element";
}

TEST(Expand, Bf16Rows) {
  for (const int64_t tokens : {0, 1, 3, 64, 257}) {
    check_expand(tokens, 8, 7168, 0, 0);
    check_expand(tokens, 6, 2048, 64, 8);
    check_expand(tokens, 2, 33, 2, 0);
    check_expand(tokens, 3, 40, 3, 0);
    check_expand(tokens, 1, 64, 0, 1);
    check_expand(tokens, 4, 8, 8, 0);
  }
  check_expand(2050, 3, 7168, 8, 0);  // past the L2: token by token
  check_expand(2050, 3, 7167, 0, 0);
}

void check_expand_fp8(int64_t tokens, int topk, int64_t width) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, top " << topk << ", width " << width);
  const int64_t num_rows = tokens * topk;
  const int64_t stride = Fp8Rows::value_stride_of(width);
  const int64_t blocks = Fp8Rows::num_scale_blocks(width);
  const int64_t x_scale_stride = Fp8Rows::scale_stride_of(tokens) + 4;
  const int64_t out_scale_stride = Fp8Rows::scale_stride_of(num_rows);
  const auto values = random_bytes(tokens * stride, 7 + tokens);
  const auto scales = random_normal(blocks * x_scale_stride, 1.0f, 8 + tokens);
  const auto rows = random_rows(num_rows, 9);
  const DeviceArray<uint8_t> x(values), out(num_rows * stride);
  const DeviceArray<float> x_scales(scales), out_scales(blocks * out_scale_stride);
  const DeviceArray<int32_t> device_rows(rows), positions(inverse(rows));
  expand_rows(ExpandFp8Problem{{x.data(), stride, x_scales.data(), x_scale_stride},
                               device_rows.data(),
                               positions.data(),
                               num_rows,
                               topk,
                               width,
                               {out.data(), stride, out_scales.data(), out_scale_stride}},
              nullptr);
  const auto got = out.host();
  const auto got_scales = out_scales.host();
  int64_t num_wrong = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    for (int64_t k = 0; k < stride; ++k) {
      const uint8_t want = k < width ? values[rows[i] / topk * stride + k] : 0xff;
      num_wrong += got[i * stride + k] != want;
    }
    for (int64_t block = 0; block < blocks; ++block) {
      num_wrong += got_scales[block * out_scale_stride + i] !=
                   scales[block * x_scale_stride + rows[i] / topk];
    }
  }
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = num_rows; i < out_scale_stride; ++i) {
      num_wrong += !std::isnan(got_scales[block * out_scale_stride + i]);
    }
  }
  EXPECT_EQ(num_wrong, 0);
}

TEST(Expand, Fp8Rows) {
  for (const int64_t tokens : {0, 1, 3, 64, 257}) {
    check_expand_fp8(tokens, 8, 7168);
    check_expand_fp8(tokens, 6, 2048);
    check_expand_fp8(tokens, 3, 1408);
    check_expand_fp8(tokens, 3, 33);
    check_expand_fp8(tokens, 1, 160);
  }
  check_expand_fp8(4099, 3, 7168);  // past the L2: token by token
}

// --- combining

enum class Base { kNone, kOut, kOther };

void check_combine(int64_t tokens, int topk, int64_t width, int64_t pad, Base base) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, top " << topk << ", width " << width
                                    << ", padding " << pad << ", base " << static_cast<int>(base));
  const int64_t stride = width + pad;
  const auto expert_out = to_bf16(random_normal(tokens * topk * stride, 1.0f, tokens + width));
  const auto start = to_bf16(random_normal(tokens * stride, 1.0f, tokens + width + 1));
  const auto weights = random_normal(tokens * (topk + 1), 0.5f, 3);
  const auto positions = random_rows(tokens * topk, 4);
  const DeviceArray<uint16_t> device_rows(expert_out), device_start(start);
  const DeviceArray<uint16_t> out =
      base == Base::kOut ? DeviceArray<uint16_t>(start) : DeviceArray<uint16_t>(tokens * stride);
  const DeviceArray<int32_t> device_positions(positions);
  const DeviceArray<float> device_weights(weights);
  const void* base_rows = base == Base::kNone  ? nullptr
                          : base == Base::kOut ? out.data()
                                               : device_start.data();
  combine_experts({device_rows.data(), stride, device_positions.data(), device_weights.data(),
                   topk + 1, base_rows, stride, out.data(), stride, tokens, width, topk},
                  nullptr);
  const auto got = out.host();
  int64_t num_wrong = 0;
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t at = token * stride + i;
      uint16_t want = base == Base::kOut ? start[at] : 0xffff;
      if (i < width) {
        float sum = base == Base::kNone ? 0.0f : bf16_to_f32(start[at]);
        for (int k = 0; k < topk; ++k) {
          const int64_t row = positions[token * topk + k];
          sum = std::fma(weights[token * (topk + 1) + k], bf16_to_f32(expert_out[row * stride + i]),
                         sum);
        }
        want = f32_to_bf16(sum);
      }
      if (got[at] != want && ++num_wrong <= 3) {
        ADD_FAILURE() << "token " << token << " column " << i << ": got " << bf16_to_f32(got[at])
                      << ", want " << bf16_to_f32(want);
      }
    }
  }
  EXPECT_EQ(num_wrong, 0);
}

TEST(Combine, SumsInOrder) {
  for (const int64_t tokens : {0, 1, 5, 64}) {
    for (const Base base : {Base::kNone, Base::kOut, Base::kOther}) {
      check_combine(tokens, 8, 7168, 0, base);
      check_combine(tokens, 6, 2048, 8, base);
      check_combine(tokens, 9, 72, 0, base);
      check_combine(tokens, 2, 33, 1, base);
      check_combine(tokens, 3, 64, 3, base);
      check_combine(tokens, 32, 8, 0, base);
      check_combine(tokens, 1, 1, 0, base);
    }
  }
}

}  // namespace
}  // namespace deepflight::cuda_moe
