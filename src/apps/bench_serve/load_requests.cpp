// Bodies are JSON objects until the last moment, so that --extra-body can change anything.
#include "apps/bench_serve/load_requests.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/files.h"

namespace deepflight {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxPromptsBytes = uint64_t{1} << 30;
constexpr uint64_t kLengthStream = 0x1e46;
constexpr uint64_t kPromptStream = uint64_t{1} << 32;  // + the caller's stream
// Low ids are often special tokens.
constexpr int64_t kFirstTokenId = 100;

// Common words, which most tokenizers know as one token each.
constexpr std::array<std::string_view, 64> kWords = {
    "time",     "water", "house",  "world",    "school", "state", "family",  "group",
    "country",  "hand",  "part",   "place",    "case",   "week",  "company", "system",
    "question", "work",  "number", "night",    "point",  "home",  "room",    "mother",
    "area",     "money", "story",  "fact",     "month",  "right", "study",   "book",
    "eye",      "job",   "word",   "business", "issue",  "side",  "kind",    "head",
    "table",    "river", "music",  "paper",    "space",  "light", "ground",  "form",
    "year",     "voice", "field",  "plant",    "stone",  "road",  "summer",  "winter",
    "garden",   "city",  "bird",   "horse",    "glass",  "wind",  "bread",   "door"};

bool is_text(const json& object, const char* field) {
  return object.contains(field) && object[field].is_string();
}

}  // namespace

Result<LoadRequests::Line> LoadRequests::parse_line(std::string_view text,
                                                    const std::string& where) {
  ASSIGN_OR_RETURN(json object, parse_json(text, where));
  Line line;
  if (object.is_object() && is_text(object, "prompt")) {
    line.prompt = std::move(object["prompt"]);
  } else if (object.is_object() && object.contains("messages") && object["messages"].is_array()) {
    line.messages = std::move(object["messages"]);
  } else {
    return invalid_argument("{}: want a string \"prompt\" or a list \"messages\"", where);
  }
  if (object.contains("max_tokens")) {
    const json& value = object["max_tokens"];
    if (!value.is_number_integer() || value.get<int64_t>() < 1) {
      return invalid_argument("{}: max_tokens must be a positive integer", where);
    }
    line.max_tokens = value.get<int64_t>();
  }
  return line;
}

Status LoadRequests::read_lines() {
  ASSIGN_OR_RETURN(const std::string text, read_file(config_.prompts_path, kMaxPromptsBytes));
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const auto line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    ASSIGN_OR_RETURN(Line parsed,
                     parse_line(line, fmt::format("{}:{}", config_.prompts_path, line_number)));
    lines_.push_back(std::move(parsed));
  }
  if (lines_.empty()) return invalid_argument("{}: no prompts", config_.prompts_path);
  return ok_status();
}

Status LoadRequests::choose_endpoint() {
  const bool has_messages =
      std::ranges::any_of(lines_, [](const Line& line) { return !line.messages.is_null(); });
  if (has_messages && config_.endpoint == "completions") {
    return invalid_argument("--endpoint completions: {} has lines with messages",
                            config_.prompts_path);
  }
  const bool chat = has_messages || config_.endpoint == "chat";
  endpoint_ = chat ? LoadEndpoint::kChat : LoadEndpoint::kCompletions;
  return ok_status();
}

Result<LoadRequests> LoadRequests::make(LoadRequestsConfig config) {
  if (!config.extra_body.is_object()) {
    return invalid_argument("--extra-body: must be a JSON object");
  }
  if (config.vocab_size < 2) return invalid_argument("--vocab-size: must be at least 2");
  LoadRequests requests(std::move(config));
  if (!requests.config_.prompts_path.empty()) RETURN_IF_ERROR(requests.read_lines());
  RETURN_IF_ERROR(requests.choose_endpoint());
  return requests;
}

json LoadRequests::random_prompt(uint64_t stream, int64_t index, int64_t length) const {
  SeededRandom random(config_.seed, kPromptStream + stream, static_cast<uint64_t>(index));
  if (config_.text_prompts || endpoint_ == LoadEndpoint::kChat) {
    std::string text;
    for (int64_t i = 0; i < length; ++i) {
      if (i > 0) text += ' ';
      text += kWords[random.next() % kWords.size()];
    }
    return text;
  }
  const int64_t first = std::min(kFirstTokenId, config_.vocab_size / 2);
  json::array_t ids;
  ids.reserve(length);
  for (int64_t i = 0; i < length; ++i) ids.push_back(random.between(first, config_.vocab_size - 1));
  return ids;
}

LoadRequest LoadRequests::request(uint64_t stream, int64_t index) const {
  SeededRandom lengths(config_.seed, kLengthStream, static_cast<uint64_t>(index));
  const int64_t prompt_len = lines_.empty() ? config_.prompt_len.sample(lengths) : 0;
  int64_t output_len = config_.output_len.sample(lengths);
  json prompt;
  json messages;
  if (lines_.empty()) {
    prompt = random_prompt(stream, index, prompt_len);
  } else {
    const Line& line = lines_[static_cast<size_t>(index) % lines_.size()];
    prompt = line.prompt;
    messages = line.messages;
    if (line.max_tokens > 0) output_len = line.max_tokens;
  }
  LoadRequest request;
  request.endpoint = endpoint_;
  if (prompt.is_array()) request.asked_prompt_tokens = prompt_len;
  json body = {{"model", config_.model},
               {"temperature", 0},
               {"max_tokens", output_len},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (config_.ignore_eos) {
    body["ignore_eos"] = true;
    body["min_tokens"] = output_len;
    request.asked_output_tokens = output_len;
  }
  if (endpoint_ == LoadEndpoint::kCompletions) {
    body["prompt"] = std::move(prompt);
  } else if (messages.is_null()) {
    body["messages"] = {{{"role", "user"}, {"content", std::move(prompt)}}};
  } else {
    body["messages"] = std::move(messages);
  }
  body.merge_patch(config_.extra_body);
  request.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
  return request;
}

}  // namespace deepflight
