// Compares every byte of what is presented, whatever the first ones were.
#include "server/api_key.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "net/http_message.h"

namespace deepflight {
namespace {

constexpr std::string_view kScheme = "Bearer ";

}  // namespace

Result<ApiKey> ApiKey::parse(std::string key) {
  const bool printable = std::ranges::all_of(key, [](char c) { return c > ' ' && c < 0x7f; });
  if (key.empty() || !printable) {
    return invalid_argument("the API key must be of printable ASCII without spaces");
  }
  ApiKey result;
  result.key_ = std::move(key);
  return result;
}

bool ApiKey::accepts(std::string_view authorization) const {
  if (key_.empty()) return true;
  if (authorization.size() < kScheme.size() ||
      !equals_ignoring_case(authorization.substr(0, kScheme.size()), kScheme)) {
    return false;
  }
  const std::string_view presented = authorization.substr(kScheme.size());
  volatile size_t difference = presented.size() ^ key_.size();
  for (size_t i = 0; i < presented.size(); ++i) {
    difference = difference | static_cast<size_t>(presented[i] ^ key_[i % key_.size()]);
  }
  return difference == 0;
}

}  // namespace deepflight
