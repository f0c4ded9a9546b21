// Result<T>: a value, or what was wrong with somebody's input (a request, a file, a flag, a peer).
// The message is one line that names what and where; the code picks the HTTP status or exit code.
// Broken invariants of our own are CHECKs (base/check.h), not Results.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace deepflight {

enum class ErrorCode {
  kInvalidArgument,  // bad request, flag or file content       HTTP 400, exit 2
  kNotFound,         // no such model, file or route            HTTP 404, exit 2
  kUnsupported,      // well-formed, but not something we do    HTTP 400, exit 2
  kTooLarge,         // over a stated bound                     HTTP 413, exit 2
  kUnavailable,      // draining, queue full, peer gone         HTTP 503, exit 1
  kCancelled,        // the asker went away                     HTTP 499, exit 1
  kTimedOut,         // took longer than it may                 HTTP 504, exit 1
  kIo,               // the operating system said no            HTTP 500, exit 2
  kInternal,         // a step failed                           HTTP 500, exit 1
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

template <typename... Args>
Error make_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return {code, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
Error invalid_argument(fmt::format_string<Args...> format, Args&&... args) {
  return {ErrorCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
Error unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return {ErrorCode::kUnsupported, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : state_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  const T& value() const& {
    CHECK(ok(), error().message);
    return std::get<T>(state_);
  }
  T& value() & {
    CHECK(ok(), error().message);
    return std::get<T>(state_);
  }
  T&& value() && {
    CHECK(ok(), error().message);
    return std::get<T>(std::move(state_));
  }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

  const Error& error() const { return std::get<Error>(state_); }

 private:
  std::variant<T, Error> state_;
};

// Success, or an Error: what a function returns that has no value to give.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)), ok_(false) {}  // NOLINT: implicit on purpose

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const {
    CHECK(!ok_);
    return error_;
  }

 private:
  Error error_;
  bool ok_ = true;
};

inline Status ok_status() { return {}; }

}  // namespace deepflight

#define DF_CONCAT_INNER(a, b) a##b
#define DF_CONCAT(a, b) DF_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto x, f()): x is f()'s value, or its error leaves the enclosing function.
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_INNER(DF_CONCAT(df_result_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                   \
  if (!result.ok()) [[unlikely]] {                              \
    return result.error();                                      \
  }                                                             \
  declaration = std::move(result).value()

#define RETURN_IF_ERROR(expression)                                    \
  do {                                                                 \
    if (auto df_status = (expression); !df_status.ok()) [[unlikely]] { \
      return df_status.error();                                        \
    }                                                                  \
  } while (false)
