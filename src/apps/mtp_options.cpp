// Flags of multi-token prediction, and what they mean.
#include "apps/mtp_options.h"

#include <CLI/CLI.hpp>
#include <cmath>

#include "base/log.h"

namespace deepflight {

void add_mtp_options(CLI::App* app, MtpOptions* options) {
  app->add_option(
         "--mtp", options->draft_len,
         "tokens that the checkpoint's MTP modules draft for each sequence and step, to be "
         "verified in the next; 0: none")
      ->check(CLI::Range(0, kMaxDraftLen));
  app->add_option("--mtp-mode", options->mode,
                  "eagle: one module drafts all tokens in turn; vanilla: a module for each")
      ->check(CLI::IsMember({"eagle", "vanilla"}));
  app->add_option("--mtp-relaxed", options->relaxed,
                  "inside <think>, also accept a draft that is among the topn most likely tokens "
                  "with a probability of at least the best one's minus delta: topn=10,delta=0.6. "
                  "Changes the output");
  app->add_option("--mtp-simulate-acceptance", options->simulated_acceptance,
                  "accept drafts with this probability, whatever the model says: for speed with "
                  "dummy weights; the output means nothing")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--mtp-adaptive", options->adaptive,
                  "in steps of more than `rows` sequences, make drafts only while they give at "
                  "least `tokens` tokens a sequence and step: rows=64,tokens=1.6");
}

Result<DraftPolicyConfig> make_draft_policy(const MtpOptions& options) {
  DraftPolicyConfig config;
  if (options.adaptive.empty()) return config;
  double rows = 0.0, tokens = 0.0;
  RETURN_IF_ERROR(parse_numbers("--mtp-adaptive", options.adaptive,
                                {{"rows", &rows}, {"tokens", &tokens}}, "rows=64,tokens=1.6"));
  if (!(rows >= 1 && rows <= 65536 && rows == std::floor(rows))) {
    return invalid_argument("--mtp-adaptive rows={}: must be a whole number from 1 to 65536", rows);
  }
  if (!(tokens >= 1 && tokens <= 1 + kMaxDraftLen)) {
    return invalid_argument("--mtp-adaptive tokens={}: must be from 1 to {}", tokens,
                            1 + kMaxDraftLen);
  }
  if (options.draft_len == 0) return invalid_argument("--mtp-adaptive: needs --mtp");
  config.max_rows = static_cast<int32_t>(rows);
  config.min_tokens = tokens;
  return config;
}

Result<SpeculativeConfig> make_speculative_config(const MtpOptions& options,
                                                  const Tokenizer* tokenizer) {
  SpeculativeConfig config;
  config.draft_len = options.draft_len;
  config.mode = options.mode == "vanilla" ? MtpMode::kVanilla : MtpMode::kEagle;
  config.simulated_acceptance = static_cast<float>(options.simulated_acceptance);
  if (!options.relaxed.empty()) {
    RETURN_IF_ERROR(parse_relaxed(options.relaxed, &config));
    if (tokenizer != nullptr) {
      config.think_start = tokenizer->token_to_id("<think>");
      config.think_end = tokenizer->token_to_id("</think>");
    }
    if (config.think_start < 0 || config.think_end < 0) {
      return invalid_argument(
          "--mtp-relaxed: the model has no tokens <think> and </think>, and nowhere else is a "
          "draft accepted that is not what the model says");
    }
  }
  if (config.draft_len == 0 && (!options.relaxed.empty() || config.simulated_acceptance >= 0)) {
    return invalid_argument(
        "{}: needs --mtp", options.relaxed.empty() ? "--mtp-simulate-acceptance" : "--mtp-relaxed");
  }
  if (config.simulated_acceptance >= 0) {
    spdlog::warn(
        "drafts are accepted with probability {} whatever the model says: speed is "
        "simulated, output means nothing (--mtp-simulate-acceptance)",
        config.simulated_acceptance);
  }
  RETURN_IF_ERROR(config.validate());
  return config;
}

nlohmann::json drafts_json(const DraftStats& drafts, const MtpOptions& options) {
  auto by_place = nlohmann::json::array();
  for (int i = 0; i < options.draft_len; ++i) {
    by_place.push_back(drafts.num_rows > 0 ? static_cast<double>(drafts.num_accepted_at[i]) /
                                                 static_cast<double>(drafts.num_rows)
                                           : 0.0);
  }
  nlohmann::json json = {{"mtp", options.draft_len},
                         {"mode", options.mode},
                         {"rows", drafts.num_rows},
                         {"draft_tokens", drafts.num_draft_tokens},
                         {"accepted_tokens", drafts.num_accepted},
                         {"tokens_per_step", drafts.tokens_per_row()},
                         {"accepted_by_place", std::move(by_place)}};
  if (!options.relaxed.empty()) json["relaxed"] = options.relaxed;
  if (options.simulated_acceptance >= 0) {
    json["simulated_acceptance"] = options.simulated_acceptance;
  }
  return json;
}

}  // namespace deepflight
