// Deviations per row of the tensor table, and the router biases that skew the choice of experts.
#include "model/deepseek/dummy_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace deepflight {
namespace {

constexpr double kMaxZipf = 4.0;
constexpr double kMaxShare = 0.95;

// The z that a standard normal number exceeds with probability `share`.
double normal_quantile(double share) {
  double low = -12.0, high = 12.0;
  for (int i = 0; i < 80; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(middle / std::sqrt(2.0)) > share ? low : high) = middle;
  }
  return low;
}

// Score that an expert's own score exceeds with probability `share`: router logits of normalised
// rows are standard normal.
double score_quantile(double share) { return 1.0 / (1.0 + std::exp(-normal_quantile(share))); }

// An expert is taken if score + bias is over the token's threshold. With the threshold that gives
// unbiased experts their even share, bias = threshold - score_quantile(share) gives this one its.
std::vector<float> zipf_bias(const DeepseekConfig& config, int64_t layer,
                             const std::vector<double>& shares) {
  const double threshold = score_quantile(static_cast<double>(config.num_experts_per_token) /
                                          static_cast<double>(config.num_routed_experts));
  std::vector<float> bias(shares.size());
  for (size_t rank = 0; rank < shares.size(); ++rank) {
    bias[static_cast<size_t>(zipf_expert(config, layer, static_cast<int64_t>(rank)))] =
        static_cast<float>(threshold - score_quantile(shares[rank]));
  }
  return bias;
}

}  // namespace

Status check_dummy_zipf(const DeepseekConfig& config, double zipf_exponent) {
  if (!(zipf_exponent >= 0.0 && zipf_exponent <= kMaxZipf)) {
    return invalid_argument("--dummy-zipf {}: must be from 0 to {}", zipf_exponent, kMaxZipf);
  }
  const bool has_bias = config.num_routed_experts > 0 && config.topk_method == TopkMethod::kNoauxTc;
  if (zipf_exponent > 0.0 && !has_bias) {
    return invalid_argument(
        "--dummy-zipf {}: this model's router has no correction bias (topk_method noaux_tc), by "
        "which the choice of experts is skewed",
        zipf_exponent);
  }
  return ok_status();
}

std::vector<double> zipf_shares(const DeepseekConfig& config, double zipf_exponent) {
  const auto num_experts = static_cast<size_t>(config.num_routed_experts);
  const auto topk = static_cast<double>(config.num_experts_per_token);
  std::vector<double> shares(num_experts);
  const auto fill = [&](double factor) {
    double sum = 0.0;
    for (size_t rank = 0; rank < num_experts; ++rank) {
      const double weight = std::pow(static_cast<double>(rank + 1), -zipf_exponent);
      shares[rank] = std::clamp(factor * weight, 1e-9, kMaxShare);
      sum += shares[rank];
    }
    return sum;
  };
  // The cap makes the sum a function of the factor that has no closed form.
  double low = 0.0, high = std::pow(static_cast<double>(num_experts), zipf_exponent);
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (fill(middle) < topk ? low : high) = middle;
  }
  fill(high);
  return shares;
}

int64_t zipf_expert(const DeepseekConfig& config, int64_t layer, int64_t rank) {
  const int64_t num_groups = config.num_expert_groups;
  const int64_t group_size = config.num_routed_experts / num_groups;
  const int64_t group = (rank + layer) % num_groups;
  return group * group_size + (rank / num_groups + 7 * layer) % group_size;
}

Checkpoint dummy_checkpoint(const DeepseekConfig& config, const std::vector<TensorRow>& rows,
                            uint64_t seed, double zipf_exponent) {
  std::vector<DummyTensor> tensors;
  tensors.reserve(rows.size());
  const DType float_dtype = config.dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
  std::vector<double> shares;
  if (zipf_exponent > 0.0) shares = zipf_shares(config, zipf_exponent);
  for (const auto& row : rows) {
    DummyTensor tensor{.name = row.name, .shape = row.shape, .dtype = float_dtype};
    if (row.kind == TensorKind::kRouterBias) {
      tensor.dtype = DType::kF32;
      tensor.standard_deviation = 0.01f;
      if (!shares.empty()) tensor.values = zipf_bias(config, row.layer, shares);
    } else if (row.shape.size() == 1) {
      tensor.mean = 1.0f;
    } else {
      const bool is_fp8 = row.format == StorageFormat::kFp8 &&
                          config.quantization == WeightQuantization::kFp8Block128;
      if (is_fp8) tensor.dtype = DType::kF8E4M3;
      tensor.standard_deviation = 1.0f / std::sqrt(static_cast<float>(row.shape[1]));
    }
    tensors.push_back(std::move(tensor));
  }
  return Checkpoint::dummy(std::move(tensors), seed);
}

}  // namespace deepflight
