// Random weights for `--load-format dummy`: any config runs without a checkpoint, with values of
// realistic size and a chosen load of the experts. Used by apps/local_engine and by tests.
#pragma once

#include <cstdint>
#include <vector>

#include "model/deepseek/config.h"
#include "model/deepseek/tensor_table.h"
#include "model/weights/checkpoint.h"

namespace deepflight {

// MTP modules included: norms 1, matrices of deviation 1 / sqrt(fan_in), in the config's formats.
// The same seed gives the same weights on every backend.
//
// zipf_exponent 0: experts are chosen close to uniformly. S > 0: the router's correction bias is
// such that the r-th most popular expert of a layer takes a share close to r^-S of its tokens (no
// more than 95% of them); popular experts are spread over the groups and differ from layer to
// layer. Only for models with that bias: see check_dummy_zipf.
Checkpoint dummy_checkpoint(const DeepseekConfig& config, const std::vector<TensorRow>& rows,
                            uint64_t seed, double zipf_exponent = 0.0);

// An error that names the flag where the exponent is out of range or the model has no bias.
Status check_dummy_zipf(const DeepseekConfig& config, double zipf_exponent);

// Chance of a token to go to each expert, most popular first: sums up to num_experts_per_token.
std::vector<double> zipf_shares(const DeepseekConfig& config, double zipf_exponent);
// The expert of a layer that is the rank-th most popular, from 0.
int64_t zipf_expert(const DeepseekConfig& config, int64_t layer, int64_t rank);

}  // namespace deepflight
