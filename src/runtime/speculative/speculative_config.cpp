// Ranges of SpeculativeConfig, and the text of its one compound flag.
#include "runtime/speculative/speculative_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace deepflight {
namespace {

constexpr int32_t kMaxRelaxedTopn = 100;

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

Status parse_numbers(std::string_view flag, std::string_view text,
                     std::initializer_list<NamedNumber> known, std::string_view example) {
  for (std::string_view rest = text; !rest.empty();) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equals = std::min(part.find('='), part.size());
    const std::string_view number = part.substr(std::min(equals + 1, part.size()));
    const auto entry = std::find_if(known.begin(), known.end(), [&](const NamedNumber& named) {
      return named.name == part.substr(0, equals);
    });
    double value = 0.0;
    const char* end = number.data() + number.size();
    const auto parsed = std::from_chars(number.data(), end, value);
    if (entry == known.end() || parsed.ec != std::errc() || parsed.ptr != end) {
      return invalid_argument("{} '{}': want numbers by name, such as {}", flag, text, example);
    }
    *entry->value = value;
  }
  return ok_status();
}

Status parse_relaxed(std::string_view text, SpeculativeConfig* config) {
  double topn = 10, delta = 0.6;
  RETURN_IF_ERROR(parse_numbers("--mtp-relaxed", text, {{"topn", &topn}, {"delta", &delta}},
                                "topn=10,delta=0.6"));
  if (!(topn >= 1 && topn <= kMaxRelaxedTopn && topn == std::floor(topn))) {
    return invalid_argument("--mtp-relaxed topn={}: must be a whole number from 1 to {}", topn,
                            kMaxRelaxedTopn);
  }
  config->relaxed_topn = static_cast<int32_t>(topn);
  config->relaxed_delta = static_cast<float>(delta);
  return config->validate();
}

}  // namespace deepflight
