// Routing and the experts. An expert's rows are gathered, run through both products and put back
// by (token, k), so that the sum over a token's experts has one order whatever the batch.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/math.h"
#include "compute/cpu/packed.h"
#include "compute/cpu/scratch.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

using cpu::at_least;

constexpr int64_t kExpertRowBlock = 128;  // rows of one expert that one task computes

// Scores of one token: `raw` weigh the outputs, `choice` (with the bias) rank the experts.
struct TokenScores {
  std::vector<float> raw, choice, group;
  std::vector<int32_t> order;
};

void score_token(const float* logits, const float* bias, int64_t num_experts, RouterScoring scoring,
                 TokenScores& scores) {
  scores.raw.resize(num_experts);
  scores.choice.resize(num_experts);
  if (scoring == RouterScoring::kSigmoid) {
    for (int64_t i = 0; i < num_experts; ++i) scores.raw[i] = 1.0f / (1.0f + std::exp(-logits[i]));
  } else {
    const float maximum = *std::max_element(logits, logits + num_experts);
    float sum = 0.0f;
    for (int64_t i = 0; i < num_experts; ++i) {
      scores.raw[i] = std::exp(logits[i] - maximum);
      sum += scores.raw[i];
    }
    for (int64_t i = 0; i < num_experts; ++i) scores.raw[i] /= sum;
  }
  for (int64_t i = 0; i < num_experts; ++i) {
    scores.choice[i] = scores.raw[i] + (bias != nullptr ? bias[i] : 0.0f);
  }
}

// Indices of the `count` largest values, best first; ties go to the lower index.
void top_indices(const std::vector<float>& values, int count, std::vector<int32_t>& order) {
  order.resize(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return values[a] > values[b] || (values[a] == values[b] && a < b);
  });
}

// Takes the experts of all but the best topk_groups groups out of the choice.
void limit_groups(const RoutingParams& params, TokenScores& scores) {
  const auto group_size = static_cast<int64_t>(scores.choice.size()) / params.num_groups;
  scores.group.resize(params.num_groups);
  for (int group = 0; group < params.num_groups; ++group) {
    float best = -INFINITY;
    float second = -INFINITY;
    for (int64_t i = group * group_size; i < (group + 1) * group_size; ++i) {
      const float value = scores.choice[i];
      if (value > best) {
        second = best;
        best = value;
      } else {
        second = std::max(second, value);
      }
    }
    scores.group[group] = params.group_score == GroupScore::kTop2Sum ? best + second : best;
  }
  top_indices(scores.group, params.topk_groups, scores.order);
  for (int rank = params.topk_groups; rank < params.num_groups; ++rank) {
    // partial_sort leaves the rest unordered, but it is the rest.
    const int64_t begin = scores.order[rank] * group_size;
    std::fill_n(scores.choice.begin() + begin, group_size, -INFINITY);
  }
}

}  // namespace

void CpuBackend::route_experts(const TensorView& logits, const TensorView& bias,
                               const RoutingParams& params, const TensorView& topk_ids,
                               const TensorView& topk_weights) {
  const int64_t num_experts = logits.dim(1);
  CHECK(params.topk <= num_experts && num_experts % params.num_groups == 0, params.topk,
        num_experts, params.num_groups);
  for_rows(logits.dim(0), num_experts * 16, [&](int64_t token) {
    thread_local TokenScores scores;
    score_token(logits.row<float>(token), bias ? bias.data<float>() : nullptr, num_experts,
                params.scoring, scores);
    if (params.group_score != GroupScore::kNone && params.topk_groups < params.num_groups) {
      limit_groups(params, scores);
    }
    top_indices(scores.choice, params.topk, scores.order);
    int32_t* ids = topk_ids.row<int32_t>(token);
    float* weights = topk_weights.row<float>(token);
    float sum = 0.0f;
    for (int k = 0; k < params.topk; ++k) {
      ids[k] = scores.order[k];
      weights[k] = scores.raw[ids[k]];
      sum += weights[k];
    }
    const float factor = params.scaling_factor / (params.normalize ? sum + 1e-20f : 1.0f);
    for (int k = 0; k < params.topk; ++k) weights[k] *= factor;
  });
}

namespace {

// Rows [begin, end) of one expert in the sorted order.
struct ExpertTask {
  int64_t expert;
  int64_t begin;
  int64_t end;
};

void multiply_all_panels(const cpu::PackedMatrix& weight, const float* x, int64_t num_rows,
                         float* out) {
  for (int64_t panel = 0; panel < weight.num_panels(); ++panel) {
    weight.multiply_panel(panel, x, weight.in_features(), num_rows, out, weight.out_features());
  }
}

// down(swiglu(gate_up(x))) of `count` dense rows on the calling thread.
void run_expert(const cpu::PackedMatrix& gate_up, const cpu::PackedMatrix& down, bool fp8_down,
                const float* x, int64_t count, float* out) {
  const int64_t width = down.in_features();
  thread_local std::vector<float> gate_buffer, activated_buffer;
  float* gate = at_least(gate_buffer, count * 2 * width);
  float* activated = at_least(activated_buffer, count * width);
  multiply_all_panels(gate_up, x, count, gate);
  for (int64_t i = 0; i < count; ++i) {
    const float* row = gate + i * 2 * width;
    float* result = activated + i * width;
    for (int64_t j = 0; j < width; ++j) result[j] = cpu::silu(row[j]) * row[width + j];
    if (fp8_down) round_to_f8e4m3_row(result, width);
  }
  multiply_all_panels(down, activated, count, out);
}

}  // namespace

void CpuBackend::sort_by_expert(const TensorView& topk_ids, const ExpertRows& order) {
  const int64_t count = topk_ids.num_elements();
  const int64_t num_experts = order.offsets.dim(0) - 1;
  const int32_t* ids = topk_ids.data<int32_t>();
  int32_t* offsets = order.offsets.data<int32_t>();
  int32_t* rows = order.rows.data<int32_t>();
  int32_t* positions = order.positions.data<int32_t>();
  std::fill_n(offsets, num_experts + 1, 0);
  for (int64_t i = 0; i < count; ++i) {
    CHECK(ids[i] >= 0 && ids[i] < num_experts, ids[i], num_experts);
    ++offsets[ids[i] + 1];
  }
  for (int64_t expert = 0; expert < num_experts; ++expert) offsets[expert + 1] += offsets[expert];
  for (int64_t i = 0; i < count; ++i) {
    positions[i] = offsets[ids[i]]++;
    rows[positions[i]] = static_cast<int32_t>(i);
  }
  // Each offset has moved to its expert's end, which is the next one's begin.
  for (int64_t expert = num_experts; expert > 0; --expert) offsets[expert] = offsets[expert - 1];
  offsets[0] = 0;
}

void CpuBackend::expand_rows(const TensorView& x, const ExpertRows& order, int64_t topk,
                             const TensorView& out) {
  const int32_t* rows = order.rows.data<int32_t>();
  for_rows(out.dim(0), out.dim(1), [&](int64_t i) {
    std::memcpy(out.row<float>(i), x.row<float>(rows[i] / topk), out.dim(1) * sizeof(float));
  });
}

void CpuBackend::grouped_linear(const TensorView& x, const GroupedLinearWeight& weight,
                                const TensorView& offsets, const TensorView& out) {
  CHECK(x.dim(1) == weight.in_features && out.dim(1) == weight.out_features &&
            offsets.dim(0) == weight.num_groups + 1,
        x.to_string(), out.to_string(), offsets.to_string());
  const TensorView input = weight.fp8 ? quantize_rows(x) : x;
  const int32_t* first = offsets.data<int32_t>();
  for (int64_t group = 0; group < weight.num_groups; ++group) {
    cpu::multiply(pool_, cpu::packed_group(weight).matrices[group], input.row<float>(first[group]),
                  input.stride(0), first[group + 1] - first[group], out.row<float>(first[group]),
                  out.stride(0));
  }
}

void CpuBackend::combine_experts(const TensorView& expert_out, const ExpertRows& order,
                                 const TensorView& topk_weights, const TensorView& out) {
  const int64_t topk = topk_weights.dim(1);
  const int64_t width = out.dim(1);
  const int32_t* positions = order.positions.data<int32_t>();
  for_rows(out.dim(0), topk * width, [&](int64_t token) {
    float* total = out.row<float>(token);
    for (int64_t k = 0; k < topk; ++k) {
      const float weight = topk_weights.row<float>(token)[k];
      const float* addend = expert_out.row<float>(positions[token * topk + k]);
      for (int64_t i = 0; i < width; ++i) total[i] += weight * addend[i];
    }
  });
}

// Expert by expert on one thread each, so that a row stays in that core's cache from the first
// product to the second.
void CpuBackend::moe(const Rows& x_rows, const MoeWeights& weights, const TensorView& topk_ids,
                     const TensorView& topk_weights, const TensorView& out) {
  const TensorView& x = x_rows.values;
  const int64_t num_rows = topk_ids.num_elements();
  const int64_t topk = topk_ids.dim(1);
  const int64_t num_experts = weights.gate_up.num_groups;
  const int64_t hidden = weights.down.out_features;
  CHECK(weights.gate_up.out_features == 2 * weights.down.in_features &&
            x.dim(1) == weights.gate_up.in_features && out.dim(1) == hidden &&
            out.dim(0) == x.dim(0),
        x.to_string(), out.to_string(), weights.down.in_features);
  auto& scratch = *moe_;
  if (weights.shared) {
    const int64_t width = weights.shared->down.in_features;
    const auto gate_up =
        TensorView::of(at_least(scratch.gate_up, x.dim(0) * 2 * width), {x.dim(0), 2 * width});
    const auto activated =
        TensorView::of(at_least(scratch.activated, x.dim(0) * width), {x.dim(0), width});
    linear_swiglu(x, weights.shared->gate_up, gate_up, activated);
    linear(activated, weights.shared->down, out);
  } else {
    for (int64_t token = 0; token < out.dim(0); ++token) {
      std::fill_n(out.row<float>(token), hidden, 0.0f);
    }
  }
  const ExpertRows order = {
      TensorView::of(at_least(scratch.offsets, num_experts + 1), {num_experts + 1}),
      TensorView::of(at_least(scratch.rows, num_rows), {num_rows}),
      TensorView::of(at_least(scratch.positions, num_rows), {num_rows})};
  const auto outputs =
      TensorView::of(at_least(scratch.outputs, num_rows * hidden), {num_rows, hidden});
  sort_by_expert(topk_ids, order);

  const int32_t* offsets = order.offsets.data<int32_t>();
  const int32_t* rows = order.rows.data<int32_t>();
  thread_local std::vector<ExpertTask> task_buffer;
  task_buffer.clear();
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    for (int64_t begin = offsets[expert]; begin < offsets[expert + 1]; begin += kExpertRowBlock) {
      task_buffer.push_back(
          {expert, begin, std::min<int64_t>(begin + kExpertRowBlock, offsets[expert + 1])});
    }
  }
  const auto& tasks = task_buffer;  // the lambda runs on threads with buffers of their own
  const TensorView input = weights.gate_up.fp8 ? quantize_rows(x) : x;
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index) {
    const ExpertTask& task = tasks[index];
    const int64_t count = task.end - task.begin;
    thread_local std::vector<float> in_buffer;
    float* in = at_least(in_buffer, count * input.dim(1));
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(in + i * input.dim(1), input.row<float>(rows[task.begin + i] / topk),
                  input.dim(1) * sizeof(float));
    }
    run_expert(cpu::packed_group(weights.gate_up).matrices[task.expert],
               cpu::packed_group(weights.down).matrices[task.expert], weights.down.fp8, in, count,
               outputs.row<float>(task.begin));
  });
  combine_experts(outputs, order, topk_weights, out);
}

}  // namespace deepflight
