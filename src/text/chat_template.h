// Chat templates: a sandboxed subset of Jinja that renders messages to a prompt as HF transformers
// does (trim_blocks, lstrip_blocks, loop controls, its tojson). Nothing runs but the expression
// language, and every resource is bounded: source size, nesting, steps, output, memory.
//
// Supported: text, {{ }}, {# #}, set (blocks too), if, for (with if, else, break, continue), macro,
// with, filter, raw, generation; the filters and tests listed in jinja_filters.cpp and
// jinja_tests.cpp; methods of strings, dicts and lists that change nothing; namespace, range, dict,
// raise_exception, strftime_now. All else is refused when parsed, by name and line.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace deepflight {

class ChatTemplate {
 public:
  // Errors: kTooLarge (over 1 MiB), kUnsupported (with the line and what is wrong there).
  static Result<ChatTemplate> parse(std::string_view source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Renders with the members of `context` (an object) as variables: messages, tools,
  // add_generation_prompt, bos_token, eos_token and whatever chat_template_kwargs hold. A variable
  // that is absent is undefined; null is none. Thread-safe. kInvalidArgument carries the text of
  // raise_exception or what the template could not do with these messages.
  //
  // NOTE: tojson prints objects in the order of `context`. Only ordered_json keeps the order in
  // which a client wrote its tools, and the model's prompt depends on it; plain json sorts the
  // keys.
  Result<std::string> render(const nlohmann::ordered_json& context) const;
  Result<std::string> render(const nlohmann::json& context) const;

  // Whether its source has the text: which variables it reads, which marks it writes.
  bool mentions(std::string_view text) const;

  // The clock of strftime_now in seconds since 1970; the system's unless set (for tests).
  void set_now_for_testing(int64_t unix_s) { now_unix_s_ = unix_s; }

 private:
  struct Parsed;
  explicit ChatTemplate(std::unique_ptr<Parsed> parsed);

  std::unique_ptr<Parsed> parsed_;
  std::optional<int64_t> now_unix_s_;
};

// Parses JSON with its keys in order. Bounded in nesting (64) and, since ordered objects are
// searched key by key, in keys per object (4096). `where` begins the error message.
Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, std::string_view where);

}  // namespace deepflight
