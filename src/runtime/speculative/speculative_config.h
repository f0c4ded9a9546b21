// How drafts are made and accepted: fixed when the engine starts, but for what a request switches
// off (SamplingParams::use_drafts). Flags: --mtp and its companions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/result.h"

namespace deepflight {

inline constexpr int32_t kMaxDraftLen = 5;

enum class MtpMode : uint8_t {
  kEagle,    // one module drafts all tokens, one after the other
  kVanilla,  // a module of its own for each draft
};

struct SpeculativeConfig {
  int32_t draft_len = 0;  // drafts per sequence and step; 0: none
  MtpMode mode = MtpMode::kEagle;

  // Relaxed acceptance, inside <think> only: a draft also passes if it is among the relaxed_topn
  // most likely tokens with p >= p(best) - relaxed_delta. 0: strict everywhere.
  int32_t relaxed_topn = 0;
  float relaxed_delta = 0.0f;
  int32_t think_start = -1;  // token ids; -1: the model has none
  int32_t think_end = -1;

  // Not negative: drafts pass with this probability whatever the model says. Output means nothing;
  // speed does.
  float simulated_acceptance = -1.0f;

  int32_t num_modules() const { return mode == MtpMode::kVanilla ? draft_len : draft_len > 0; }
  // Rows beside the verified ones that modules run over for each sequence, for drafts that other
  // modules have made (DraftInputs::num_extra).
  int32_t num_extra_rows() const {
    return mode == MtpMode::kVanilla && draft_len > 1 ? draft_len - 1 : 0;
  }
  // Positions past a row's last fed token that a step's drafts write to, at most: it feeds
  // draft_len drafts, and the modules go on as far behind them.
  int32_t reach() const { return 2 * draft_len; }

  // Error: kInvalidArgument naming the flag.
  Status validate() const;
};

// Sets what a flag's value, "name=number,...", names; the others stay. Error: kInvalidArgument
// naming the flag and showing the example.
struct NamedNumber {
  std::string_view name;
  double* value;
};
Status parse_numbers(std::string_view flag, std::string_view text,
                     std::initializer_list<NamedNumber> known, std::string_view example);

// The value of --mtp-relaxed, "topn=10,delta=0.6"; both have these defaults. Error names the flag.
Status parse_relaxed(std::string_view text, SpeculativeConfig* config);

}  // namespace deepflight
