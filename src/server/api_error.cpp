// Making errors and writing them as JSON.
#include "server/api_error.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.h"

namespace deepflight {
namespace {

std::string_view type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 429) return "rate_limit_error";
  if (status == 503) return "service_unavailable_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kTooLarge:
      return 413;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kCancelled:
      return 499;
    case ErrorCode::kTimedOut:
      return 504;
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return 500;
}

}  // namespace

ApiError bad_field(std::string_view param, std::string message) {
  return {.message = std::move(message), .param = std::string(param), .code = {}};
}

ApiError unsupported_field(std::string_view param, std::string_view what) {
  return {.message = fmt::format("{} {} not supported yet", param, what.empty() ? "is" : what),
          .param = std::string(param),
          .code = "unsupported_parameter"};
}

ApiError http_error(int status, std::string_view message) {
  return {.status = status,
          .message = std::string(message),
          .type = std::string(type_of(status)),
          .param = {},
          .code = {}};
}

ApiError api_error(const Error& error) {
  const int status = status_of(error.code);
  if (status != 500) return http_error(status, error.message);
  spdlog::error("server: a request failed: {}", error.message);
  return http_error(500, "the request failed inside the server");
}

std::string to_json(const ApiError& error) {
  using Json = nlohmann::ordered_json;
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? Json(nullptr) : Json(text);
  };
  const Json body = {{"error",
                      {{"message", error.message},
                       {"type", error.type},
                       {"param", text_or_null(error.param)},
                       {"code", text_or_null(error.code)}}}};
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace deepflight
