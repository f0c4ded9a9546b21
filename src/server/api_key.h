// The key that guards the API, as clients send it: "Authorization: Bearer KEY". Called by the
// server for every route but health and metrics.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace deepflight {

class ApiKey {
 public:
  ApiKey() = default;  // nobody is asked for one
  // Error: kInvalidArgument for a key that cannot stand in a header, one empty included.
  static Result<ApiKey> parse(std::string key);

  // `authorization`: the header's value. How long the answer takes depends on its length alone.
  bool accepts(std::string_view authorization) const;

 private:
  std::string key_;
};

}  // namespace deepflight
