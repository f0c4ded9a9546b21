// The flags of multi-token prediction, the same in every subcommand that runs an engine.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "runtime/speculative/draft_policy.h"
#include "runtime/speculative/draft_stats.h"
#include "runtime/speculative/speculative_config.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace deepflight {

struct MtpOptions {
  int draft_len = 0;  // --mtp
  std::string mode = "eagle";
  std::string relaxed;               // "topn=10,delta=0.6"; empty: strict
  double simulated_acceptance = -1;  // negative: off
  std::string adaptive;              // "rows=64,tokens=1.6"; empty: drafts are always made
};

void add_mtp_options(CLI::App* app, MtpOptions* options);

// Errors name the flag. `tokenizer` (null: none) knows the tokens around the thinking phase.
Result<SpeculativeConfig> make_speculative_config(const MtpOptions& options,
                                                  const Tokenizer* tokenizer);

Result<DraftPolicyConfig> make_draft_policy(const MtpOptions& options);

// What became of the drafts, for reports: counts, tokens a step, shares accepted by place. Says so
// where acceptance was simulated.
nlohmann::json drafts_json(const DraftStats& drafts, const MtpOptions& options);

}  // namespace deepflight
