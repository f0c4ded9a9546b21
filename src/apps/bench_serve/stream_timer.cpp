// Which events count as tokens, and every way in which an answer can be broken.
#include "apps/bench_serve/stream_timer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/files.h"

namespace deepflight {
namespace {

using nlohmann::json;

constexpr size_t kMaxDetailBytes = 300;

bool has_text(const json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_string() &&
         !found->get_ref<const std::string&>().empty();
}

bool has_entries(const json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_array() && !found->empty();
}

int64_t integer(const json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

// One line of bounded length.
std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kMaxDetailBytes));
  std::ranges::replace_if(
      line, [](unsigned char c) { return c < 0x20; }, ' ');
  return line;
}

}  // namespace

bool StreamTimer::fail(std::string kind, std::string_view detail) {
  if (record_.failure.empty()) {
    record_.failure = std::move(kind);
    record_.failure_detail = one_line(detail);
  }
  return false;
}

// A completion's chunk stands for tokens even if they have no text of their own yet; a chat may
// begin with a chunk that only names the role.
bool StreamTimer::carries_tokens(const json& choice) const {
  if (endpoint_ == LoadEndpoint::kCompletions) {
    const auto reason = choice.find("finish_reason");
    return has_text(choice, "text") || reason == choice.end() || reason->is_null();
  }
  const auto delta = choice.find("delta");
  if (delta == choice.end() || !delta->is_object()) return false;
  return has_text(*delta, "content") || has_text(*delta, "reasoning_content") ||
         has_text(*delta, "reasoning") || has_entries(*delta, "tool_calls");
}

void StreamTimer::note_tokens(int64_t now_us) {
  if (has_tokens_) {
    record_.gaps_us.push_back(static_cast<int32_t>(now_us - record_.last_us));
  } else {
    has_tokens_ = true;
    record_.first_us = now_us;
  }
  record_.last_us = now_us;
}

void StreamTimer::note_drafts(const json& usage) {
  const auto details = usage.find("completion_tokens_details");
  if (details != usage.end() && details->is_object()) {
    record_.num_accepted_drafts = integer(*details, "accepted_prediction_tokens");
    record_.num_rejected_drafts = integer(*details, "rejected_prediction_tokens");
  }
  const auto simulated = usage.find("simulated_acceptance");
  if (simulated != usage.end() && simulated->is_number()) {
    record_.simulated_acceptance = simulated->get<double>();
  }
}

bool StreamTimer::on_event(std::string_view data, int64_t now_us) {
  if (data == "[DONE]") {
    is_done_ = true;
    return true;
  }
  const auto parsed = parse_json(data, "an event");
  if (!parsed.ok() || !parsed->is_object()) return fail("bad chunk", data);
  const json& chunk = *parsed;
  if (const auto error = chunk.find("error"); error != chunk.end() && !error->is_null()) {
    return fail("error in the stream", data);
  }
  bool tokens = false;
  if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
    has_usage_ = true;
    record_.num_prompt_tokens = integer(*usage, "prompt_tokens");
    const int64_t num_tokens = integer(*usage, "completion_tokens");
    // Usage in every chunk says it best, if the server sends that.
    tokens = num_tokens > record_.num_output_tokens && has_entries(chunk, "choices");
    record_.num_output_tokens = num_tokens;
    note_drafts(*usage);
  }
  if (!tokens && has_entries(chunk, "choices")) {
    const json& choice = chunk["choices"][0];
    tokens = choice.is_object() && carries_tokens(choice);
  }
  if (tokens) note_tokens(now_us);
  return true;
}

RequestRecord StreamTimer::finish(const Result<HttpResponse>& response, int64_t now_us) {
  record_.done_us = now_us;
  if (!response.ok()) {
    if (response.error().code == ErrorCode::kCancelled) {
      record_.interrupted = true;
    } else {
      fail(has_tokens_ ? "broken stream" : "no answer", response.error().message);
    }
  } else if (response->status != 200) {
    fail(fmt::format("HTTP {}", response->status), response->body);
  } else if (!response->header("content-type").starts_with("text/event-stream")) {
    fail("not a stream", response->body);
  } else if (!is_done_) {
    fail("broken stream", "ended before [DONE]");
  } else if (!has_usage_) {
    fail("no usage", "the stream had no chunk with usage");
  } else if (!has_tokens_ || record_.num_output_tokens < 1) {
    fail("no tokens", "the stream had no chunk with tokens");
  }
  return std::move(record_);
}

}  // namespace deepflight
