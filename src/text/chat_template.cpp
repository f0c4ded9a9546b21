// The boundary of the template engine: its exceptions become Results here.
#include "text/chat_template.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "base/clock.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"
#include "text/unicode.h"

namespace deepflight {
namespace {

constexpr size_t kMaxSourceBytes = 1 << 20;
constexpr size_t kMaxKeysPerObject = 4096;
constexpr size_t kMaxJsonDepth = 64;

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Body body;
  std::string source;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Parsed> parsed) : parsed_(std::move(parsed)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Error{ErrorCode::kTooLarge, "chat template: over 1 MiB"};
  }
  if (!is_valid_utf8(source)) return invalid_argument("chat template: not UTF-8");
  try {
    auto parsed = std::make_unique<Parsed>();
    parsed->body = jinja::parse_template(source);
    parsed->source = source;
    return ChatTemplate(std::move(parsed));
  } catch (const jinja::Failure& failure) {
    return unsupported("chat template: {}", failure.what());
  }
}

bool ChatTemplate::mentions(std::string_view text) const {
  return parsed_->source.find(text) != std::string::npos;
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& context) const {
  if (!context.is_object()) return invalid_argument("chat template: the context is no object");
  try {
    std::vector<std::pair<std::string, jinja::Value>> variables;
    for (const auto& item : context.items()) {
      variables.emplace_back(item.key(), jinja::from_json(item.value()));
    }
    jinja::Interpreter interpreter(jinja::Limits(), now_unix_s_.value_or(unix_time_s()));
    return interpreter.render(parsed_->body, std::move(variables));
  } catch (const jinja::Failure& failure) {
    return invalid_argument("chat template: {}", failure.what());
  }
}

Result<std::string> ChatTemplate::render(const nlohmann::json& context) const {
  return render(nlohmann::ordered_json(context));
}

Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, std::string_view where) {
  std::vector<size_t> num_commas;  // of each open bracket
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      // A list counts from below any bound: only objects are searched.
      num_commas.push_back(c == '{' ? 0 : SIZE_MAX / 2);
      if (num_commas.size() > kMaxJsonDepth) {
        return invalid_argument("{}: nested more than {} deep", where, kMaxJsonDepth);
      }
    } else if ((c == '}' || c == ']') && !num_commas.empty()) {
      num_commas.pop_back();
    } else if (c == ',' && !num_commas.empty() && ++num_commas.back() == kMaxKeysPerObject) {
      return Error{ErrorCode::kTooLarge,
                   fmt::format("{}: an object has more than {} keys", where, kMaxKeysPerObject)};
    }
  }
  try {
    return nlohmann::ordered_json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    return invalid_argument("{}: {}", where, e.what());
  }
}

}  // namespace deepflight
