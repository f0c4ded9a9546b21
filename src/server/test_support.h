// For tests of the server: a byte-level tokenizer of one token a byte (ids 0 to 255 are the bytes)
// with DeepSeek's special tokens, an R1-like chat template, and a scripted InferenceService.
// Header only, used by *_test.cpp and by tests/server.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/engine/inference_service.h"
#include "server/prompt_builder.h"
#include "text/unicode.h"

namespace deepflight {

inline constexpr int32_t kTestThinkId = 256;
inline constexpr int32_t kTestThinkEndId = 257;
inline constexpr int32_t kTestBosId = 258;
inline constexpr int32_t kTestEosId = 259;
inline constexpr int32_t kTestUserId = 260;
inline constexpr int32_t kTestAssistantId = 261;
inline constexpr int32_t kTestToolCallsBeginId = 262;  // and the four other marks of tool calls
inline constexpr int32_t kTestVocabSize = 267;

inline Tokenizer test_tokenizer() {
  using nlohmann::json;
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelled;
    append_code_point(spelled, byte_to_alphabet(static_cast<uint8_t>(byte)));
    vocab[spelled] = byte;
  }
  const std::pair<const char*, bool> added[] = {
      {"<think>", false},
      {"</think>", false},
      {"<｜begin▁of▁sentence｜>", true},
      {"<｜end▁of▁sentence｜>", true},
      {"<｜User｜>", true},
      {"<｜Assistant｜>", true},
      {"<｜tool▁calls▁begin｜>", false},
      {"<｜tool▁calls▁end｜>", false},
      {"<｜tool▁call▁begin｜>", false},
      {"<｜tool▁call▁end｜>", false},
      {"<｜tool▁sep｜>", false},
  };
  json added_tokens = json::array();
  for (const auto& [content, special] : added) {
    added_tokens.push_back({{"id", 256 + added_tokens.size()},
                            {"content", content},
                            {"special", special},
                            {"normalized", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"single_word", false}});
  }
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  const json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", added_tokens},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}},
  };
  return Tokenizer::from_json(tokenizer.dump()).value();
}

inline TokenizerConfig test_tokenizer_config() {
  TokenizerConfig config;
  config.bos_token = "<｜begin▁of▁sentence｜>";
  config.eos_token = "<｜end▁of▁sentence｜>";
  config.add_bos_token = true;
  return config;
}

// System text first, turns between User and Assistant marks, <think> opened for the answer unless
// thinking is false.
inline constexpr std::string_view kTestTemplate =
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'user' or m['role'] == 'tool' %}<｜User｜>{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}<｜Assistant｜>{{ m['content'] or '' }}"
    "{% if m['tool_calls'] %}[calls {{ m['tool_calls'] | tojson }}]{% endif %}<｜end▁of▁sentence｜>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>"
    "{% if thinking is defined and not thinking %}</think>{% else %}<think>\n{% endif %}"
    "{% endif %}";

inline ChatTemplate test_chat_template() { return ChatTemplate::parse(kTestTemplate).value(); }

// An event whose tokens are the bytes of `text`.
inline GenerationEvent text_event(std::string_view text, int choice_idx = 0) {
  GenerationEvent event;
  event.choice_idx = choice_idx;
  event.text = text;
  for (const char byte : text) event.token_ids.push_back(static_cast<uint8_t>(byte));
  return event;
}

inline GenerationEvent end_event(FinishReason reason, int choice_idx = 0,
                                 std::string_view text = {}) {
  GenerationEvent event = text_event(text, choice_idx);
  event.finish_reason = reason;
  if (reason == FinishReason::kStop) event.token_ids.push_back(kTestEosId);
  return event;
}

// Does what `script` says on submit (from the caller's thread), or waits for emit().
class FakeService : public InferenceService {
 public:
  using Script = std::function<void(const GenerationRequest&, const EventCallback&)>;

  const ModelInfo& model_info() const override { return info; }

  Status submit(GenerationRequest request, EventCallback on_event) override {
    Script run;
    {
      const std::lock_guard lock(mutex_);
      if (refusal.has_value()) return *refusal;
      requests_.push_back(request);
      callbacks_[request.request_id] = on_event;
      run = script;
    }
    if (run) run(request, on_event);
    changed_.notify_all();
    return ok_status();
  }

  // Ends every choice of a request that is still waiting with kAbort.
  void cancel(const std::string& request_id) override {
    EventCallback callback;
    int num_choices = 0;
    {
      const std::lock_guard lock(mutex_);
      cancelled_.push_back(request_id);
      const auto it = callbacks_.find(request_id);
      if (it != callbacks_.end()) {
        callback = std::move(it->second);
        callbacks_.erase(it);
      }
      for (const GenerationRequest& request : requests_) {
        if (request.request_id == request_id) num_choices = request.sampling.num_choices;
      }
    }
    changed_.notify_all();
    for (int i = 0; callback && i < num_choices; ++i) {
      callback(end_event(FinishReason::kAbort, i));
    }
  }

  ServiceStats stats() const override { return service_stats; }
  ServiceStats service_stats;

  // Waits for the request with that number.
  GenerationRequest request(size_t index = 0) {
    std::unique_lock lock(mutex_);
    const bool came =
        changed_.wait_for(lock, std::chrono::seconds(5), [&] { return requests_.size() > index; });
    return came ? requests_[index] : GenerationRequest{};
  }

  void emit(const std::string& request_id, GenerationEvent event) {
    EventCallback callback;
    {
      const std::lock_guard lock(mutex_);
      callback = callbacks_[request_id];
    }
    if (callback) callback(std::move(event));
  }

  size_t num_requests() const {
    const std::lock_guard lock(mutex_);
    return requests_.size();
  }
  std::vector<std::string> cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_;
  }

  ModelInfo info{.name = "tiny",
                 .vocab_size = kTestVocabSize,
                 .max_model_len = 256,
                 .eos_token_ids = {kTestEosId}};
  Script script;                 // set before the first request
  std::optional<Error> refusal;  // what submit says

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<GenerationRequest> requests_;
  std::map<std::string, EventCallback> callbacks_;
  std::vector<std::string> cancelled_;
};

}  // namespace deepflight
