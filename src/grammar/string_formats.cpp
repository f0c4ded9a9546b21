#include "grammar/string_formats.h"

#include <utility>

namespace deepflight {
namespace {

#define DF_DATE                                                                   \
  "[1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]" \
  "\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"
#define DF_TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define DF_LABEL "[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?"
#define DF_HOST DF_LABEL "(\\." DF_LABEL "){0,8}"
#define DF_BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define DF_HEX "[0-9a-fA-F]"

constexpr std::pair<std::string_view, std::string_view> kPatterns[] = {
    {"date", "^" DF_DATE "$"},
    {"time", "^" DF_TIME "$"},
    {"date-time", "^" DF_DATE "T" DF_TIME "$"},
    {"duration",
     "^P(\\d{1,4}W|\\d{1,4}Y(\\d{1,4}M(\\d{1,4}D)?)?(T\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?)?|\\d{1,4}"
     "M("
     "\\d{1,4}D)?|\\d{1,4}D(T\\d{1,4}H(\\d{1,4}M)?)?|T(\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?|\\d{1,4}M("
     "\\d{1,4}S)?|\\d{1,4}S))$"},
    {"email",
     "^[a-zA-Z0-9_+-]{1,32}(\\.[a-zA-Z0-9_+-]{1,32}){0,3}@" DF_LABEL "(\\." DF_LABEL "){1,4}$"},
    {"hostname", "^" DF_HOST "$"},
    {"ipv4", "^(" DF_BYTE "\\.){3}" DF_BYTE "$"},
    {"ipv6", "^((" DF_HEX "{1,4}:){7}" DF_HEX "{1,4}|(" DF_HEX "{1,4}:){1,5}(:" DF_HEX
             "{1,4}){1,2}|::(" DF_HEX "{1,4}:){0,4}" DF_HEX "{1,4})$"},
    {"uuid", "^" DF_HEX "{8}-" DF_HEX "{4}-" DF_HEX "{4}-" DF_HEX "{4}-" DF_HEX "{12}$"},
    {"uri",
     "^https?://" DF_HOST "(:[1-9]\\d{0,3})?(/[a-zA-Z0-9._~-]{0,64}){0,16}(\\?[a-zA-Z0-9._~=&-"
     "]{0,128})?(#[a-zA-Z0-9._~-]{0,64})?$"},
};

#undef DF_DATE
#undef DF_TIME
#undef DF_LABEL
#undef DF_HOST
#undef DF_BYTE
#undef DF_HEX

}  // namespace

std::optional<std::string_view> format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : kPatterns) {
    if (name == format) return pattern;
  }
  return std::nullopt;
}

}  // namespace deepflight
