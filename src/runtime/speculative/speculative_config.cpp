// Ranges of SpeculativeConfig, and the text of its one compound flag.
#include "runtime/speculative/speculative_config.h"

#include <charconv>

namespace deepflight {
namespace {

constexpr int32_t kMaxRelaxedTopn = 100;

template <typename T>
bool parse_number(std::string_view text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Status SpeculativeConfig::validate() const {
  if (draft_len < 0 || draft_len > kMaxDraftLen) {
    return invalid_argument("--mtp {}: must be from 0 to {}", draft_len, kMaxDraftLen);
  }
  if (relaxed_topn < 0 || relaxed_topn > kMaxRelaxedTopn) {
    return invalid_argument("--mtp-relaxed topn={}: must be from 1 to {}", relaxed_topn,
                            kMaxRelaxedTopn);
  }
  if (!(relaxed_delta >= 0.0f && relaxed_delta <= 1.0f)) {
    return invalid_argument("--mtp-relaxed delta={}: must be from 0 to 1", relaxed_delta);
  }
  if (!(simulated_acceptance <= 1.0f)) {
    return invalid_argument("--mtp-simulate-acceptance {}: must be from 0 to 1",
                            simulated_acceptance);
  }
  return ok_status();
}

Status parse_relaxed(std::string_view text, SpeculativeConfig* config) {
  config->relaxed_topn = 10;
  config->relaxed_delta = 0.6f;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
    const bool known = (name == "topn" && parse_number(value, &config->relaxed_topn) &&
                        config->relaxed_topn > 0) ||
                       (name == "delta" && parse_number(value, &config->relaxed_delta));
    if (!known) {
      return invalid_argument("--mtp-relaxed '{}': want topn=N,delta=D, for example {}", text,
                              "topn=10,delta=0.6");
    }
  }
  return config->validate();
}

}  // namespace deepflight
