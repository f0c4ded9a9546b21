// What a step must do, op by op: multiplications and bytes, from the model's config and the step's
// shape alone. Divided by what the machine can do, this is the floor that measured times are held
// against. Labels are the ones that backends give their ranges: "section/op".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/deepseek/config.h"

namespace deepflight {

// decode_rows sequences of decode_context tokens (this step's included) sample one token each, or
// verify draft_len drafts and make as many by one MTP module; prefill_tokens tokens of one prompt
// follow prefill_prefix cached ones.
struct StepShape {
  int64_t decode_rows = 0;
  int64_t decode_context = 0;
  int64_t prefill_tokens = 0;
  int64_t prefill_prefix = 0;
  int64_t draft_len = 0;

  int64_t num_decode_tokens() const { return decode_rows * (1 + draft_len); }
  int64_t num_tokens() const { return num_decode_tokens() + prefill_tokens; }
};

// Which rate bounds the arithmetic.
enum class CostUnit : uint8_t { kBf16, kFp8, kMemory };

struct OpCost {
  std::string label;
  int64_t calls = 0;  // in one step
  double flops = 0;   // of all calls: multiplications and additions
  double bytes = 0;   // of all calls: each input read and each output written once
  CostUnit unit = CostUnit::kMemory;
};

struct MachineRates {
  double bytes_per_second = 0;  // read and written bytes, device memory
  double bf16_flops_per_second = 0;
  double fp8_flops_per_second = 0;
};

// In the order in which a layer runs them; equal labels of all layers are summed.
// kv_token_bytes: of a token and layer, 1152 for BF16 pages of R1. Experts are taken to be chosen
// uniformly: of E experts, E (1 - (1 - k / E)^tokens) are read.
std::vector<OpCost> step_costs(const DeepseekConfig& config, const StepShape& shape,
                               int64_t kv_token_bytes);

// The larger of the two times.
double floor_us(const OpCost& cost, const MachineRates& rates);

}  // namespace deepflight
