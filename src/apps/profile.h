// `deepflight profile`: time, bytes and operations of a step of a given shape, op by op, against
// what the device could do at its best.
#pragma once

#include <string>
#include <vector>

#include "apps/local_engine.h"
#include "base/result.h"

namespace deepflight {

struct ProfileOptions {
  EngineOptions engine;
  std::vector<int> decode_rows;      // a decode step for each
  int decode_context = 4096;         // KV tokens of each row, the step's own included
  std::vector<std::string> prefill;  // "T" or "T+P": T tokens behind a prefix of P cached ones
  int num_steps = 20;
  std::string json_path;
  std::string trace_path;
};

void add_profile_options(CLI::App* app, ProfileOptions* options);
Status run_profile(const ProfileOptions& options);

// "8192+24576" -> a prefill shape. Error: kInvalidArgument naming the flag.
Result<StepShape> parse_prefill_shape(const std::string& text);

}  // namespace deepflight
