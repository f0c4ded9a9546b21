// One request through the engine, its events printed as they come.
#include "apps/generate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/chat_prompt.h"
#include "base/clock.h"
#include "text/think_parser.h"

namespace deepflight {
namespace {

Result<std::vector<int32_t>> parse_token_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || (next != end && *next != ',')) {
      return invalid_argument("--token-ids '{}': want non-negative integers with commas between",
                              text);
    }
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

Result<std::vector<int32_t>> make_prompt(const GenerateOptions& options, const LocalEngine& local) {
  if (!options.token_ids.empty()) return parse_token_ids(options.token_ids);
  if (local.tokenizer() == nullptr) {
    return make_error(ErrorCode::kNotFound,
                      "{}/tokenizer.json: not there, so only --token-ids can be used",
                      options.engine.model_dir);
  }
  if (!options.prompt.empty()) {
    return encode_prompt(*local.tokenizer(), local.tokenizer_config(), options.prompt,
                         /*parse_special=*/true);
  }
  ASSIGN_OR_RETURN(const ChatPrompter prompter,
                   ChatPrompter::make(*local.tokenizer(), local.tokenizer_config()));
  return prompter.prompt(options.system, options.chat);
}

// Everything that came of the request; events arrive on the engine's thread.
struct Output {
  std::mutex mutex;
  std::condition_variable changed;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<OutputLogprob> logprobs;
  std::optional<FinishReason> finish_reason;
  std::optional<Error> error;
  int num_cached_tokens = 0;
  DraftStats drafts;
  int64_t first_token_us = 0;
  int64_t end_us = 0;
};

void take_event(GenerationEvent event, bool print, Output* output) {
  std::lock_guard lock(output->mutex);
  if (output->token_ids.empty() && !event.token_ids.empty()) {
    output->first_token_us = monotonic_us();
  }
  if (print) {
    std::fwrite(event.text.data(), 1, event.text.size(), stdout);
    std::fflush(stdout);
  }
  output->text += event.text;
  output->token_ids.insert(output->token_ids.end(), event.token_ids.begin(), event.token_ids.end());
  std::move(event.logprobs.begin(), event.logprobs.end(), std::back_inserter(output->logprobs));
  output->drafts.add(event.num_drafts, event.num_accepted_drafts);
  output->num_cached_tokens = std::max(output->num_cached_tokens, event.num_cached_tokens);
  if (event.finish_reason) {
    output->finish_reason = event.finish_reason;
    output->error = std::move(event.error);
    output->end_us = monotonic_us();
    output->changed.notify_all();
  }
}

nlohmann::json logprobs_json(const std::vector<OutputLogprob>& logprobs) {
  auto list = nlohmann::json::array();
  for (const auto& entry : logprobs) {
    auto top = nlohmann::json::array();
    for (const auto& [token_id, logprob] : entry.top) {
      top.push_back({{"token_id", token_id}, {"logprob", logprob}});
    }
    list.push_back({{"token_id", entry.token_id}, {"logprob", entry.logprob}, {"top", top}});
  }
  return list;
}

nlohmann::json output_json(const GenerateOptions& options, const std::vector<int32_t>& prompt,
                           const Output& output, int64_t start_us) {
  const double seconds = static_cast<double>(output.end_us - output.first_token_us) * 1e-6;
  const auto num_decoded = static_cast<double>(output.token_ids.size()) - 1;
  nlohmann::json json = {
      {"prompt_ids", prompt},
      {"output_ids", output.token_ids},
      {"text", output.text},
      {"logprobs", logprobs_json(output.logprobs)},
      {"finish_reason", output.finish_reason == FinishReason::kStop ? "stop" : "length"},
      {"cached_tokens", output.num_cached_tokens},
      {"timings",
       {{"time_to_first_token_s", static_cast<double>(output.first_token_us - start_us) * 1e-6},
        {"total_s", static_cast<double>(output.end_us - start_us) * 1e-6},
        {"decode_tokens_per_s", seconds > 0 ? num_decoded / seconds : 0.0}}},
  };
  if (options.engine.mtp.draft_len > 0) {
    json["drafts"] = drafts_json(output.drafts, options.engine.mtp);
  }
  if (!options.chat.empty()) {
    const auto parts = split_reasoning(output.text, /*starts_inside_think=*/true);
    json["reasoning"] = parts.reasoning;
    json["content"] = parts.content;
  }
  return json;
}

}  // namespace

void add_generate_options(CLI::App* app, GenerateOptions* options) {
  add_engine_options(app, &options->engine);
  auto* input = app->add_option_group("input", "what to answer");
  input->add_option("--prompt", options->prompt, "text to continue");
  input->add_option("--chat", options->chat, "a user's message for the chat template");
  input->add_option("--token-ids", options->token_ids, "token ids: 1,2,3");
  input->require_option(1);
  app->add_option("--system", options->system, "system message, with --chat");
  app->add_option("--max-tokens", options->max_tokens,
                  "output tokens; 0: what the model's context leaves")
      ->check(CLI::NonNegativeNumber);
  SamplingParams& sampling = options->sampling;
  sampling.temperature = 0.0f;
  app->add_option("--temperature", sampling.temperature, "0: greedy");
  app->add_option("--top-p", sampling.top_p);
  app->add_option("--top-k", sampling.top_k, "0: off");
  app->add_option("--min-p", sampling.min_p);
  app->add_option("--repetition-penalty", sampling.repetition_penalty);
  app->add_option("--presence-penalty", sampling.presence_penalty);
  app->add_option("--frequency-penalty", sampling.frequency_penalty);
  app->add_option("--min-tokens", sampling.min_tokens);
  app->add_option("--seed", sampling.seed);
  app->add_option("--stop", sampling.stop, "stop string; may be given several times");
  app->add_option("--stop-token-ids", sampling.stop_token_ids)->delimiter(',');
  app->add_flag("--ignore-eos", sampling.ignore_eos);
  app->add_flag("!--no-drafts", sampling.use_drafts, "make no drafts for this request");
  app->add_option("--logprobs", options->num_logprobs, "most likely tokens listed with --json")
      ->check(CLI::Range(0, kMaxTopLogprobs));
  app->add_flag("--json", options->json, "one JSON object instead of streamed text");
}

Status run_generate(const GenerateOptions& options) {
  EngineOptions engine_options = options.engine;
  engine_options.max_num_seqs = 1;
  const int64_t start_us = monotonic_us();
  ASSIGN_OR_RETURN(const auto local, LocalEngine::start(engine_options));
  GenerationRequest request;
  request.request_id = "generate";
  ASSIGN_OR_RETURN(request.prompt_token_ids, make_prompt(options, *local));
  const std::vector<int32_t> prompt = request.prompt_token_ids;
  const int64_t room =
      local->engine().model_info().max_model_len - static_cast<int64_t>(prompt.size());
  if (room < 1) {
    return invalid_argument("the prompt has {} tokens, the model's context {}", prompt.size(),
                            local->engine().model_info().max_model_len);
  }
  if (options.max_tokens > room) {
    return invalid_argument("--max-tokens {}: the prompt's {} tokens leave {} of the model's {}",
                            options.max_tokens, prompt.size(), room,
                            local->engine().model_info().max_model_len);
  }
  request.sampling = options.sampling;
  request.sampling.max_tokens =
      static_cast<int>(options.max_tokens > 0 ? options.max_tokens : room);
  if (options.json) request.sampling.num_logprobs = std::max(options.num_logprobs, 0);

  Output output;
  const bool print = !options.json && local->tokenizer() != nullptr;
  RETURN_IF_ERROR(local->engine().submit(std::move(request), [&](GenerationEvent event) {
    take_event(std::move(event), print, &output);
  }));
  std::unique_lock lock(output.mutex);
  output.changed.wait(lock, [&] { return output.finish_reason.has_value(); });
  if (output.error) return *output.error;
  if (options.json) {
    fmt::print("{}\n", output_json(options, prompt, output, start_us)
                           .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else if (print) {
    fmt::print("\n");
  } else {
    fmt::print("{}\n", fmt::join(output.token_ids, ","));
  }
  return ok_status();
}

}  // namespace deepflight
