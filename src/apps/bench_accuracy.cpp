// Accuracy over a file of problems: workers ask, one table counts.
#include "apps/bench_accuracy.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "apps/chat_prompt.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/progress.h"
#include "net/http_client.h"
#include "text/think_parser.h"

namespace deepflight {
namespace {

constexpr uint64_t kMaxTasksBytes = uint64_t{256} << 20;
constexpr size_t kMaxListedMistakes = 50;

struct Task {
  std::string prompt;
  std::string answer;
  std::string kind;
};

struct Answer {
  std::string content;  // after the reasoning
  int64_t num_output_tokens = 0;
  bool finished = false;  // ended of itself, not by max_tokens
  DraftStats drafts;
  DraftStats thinking_drafts;  // of these, up to the step that ends the thinking
  std::vector<int32_t> token_ids;
  std::vector<OutputLogprob> logprobs;  // of the two most likely tokens, if they are saved
};

// Answers one prompt; called from many threads, each with its own worker index.
using Ask = std::function<Result<Answer>(int worker, const std::string& prompt)>;

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

Result<std::vector<Task>> read_tasks(const std::string& path, int64_t limit) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kMaxTasksBytes));
  std::vector<Task> tasks;
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (trim(line).empty()) continue;
    const std::string where = fmt::format("{}:{}", path, line_number);
    ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(line, where));
    Task task;
    for (const auto& [field, target] :
         {std::pair<const char*, std::string*>{"prompt", &task.prompt},
          {"answer", &task.answer},
          {"kind", &task.kind}}) {
      if (!json.is_object() || !json.contains(field) || !json[field].is_string()) {
        return invalid_argument("{}: want a string field \"{}\"", where, field);
      }
      *target = json[field].get<std::string>();
    }
    tasks.push_back(std::move(task));
    if (limit > 0 && static_cast<int64_t>(tasks.size()) == limit) break;
  }
  if (tasks.empty()) return invalid_argument("{}: no problems", path);
  return tasks;
}

// Greedy chat requests to an engine in this process.
class LocalAsker {
 public:
  static Result<std::shared_ptr<LocalAsker>> make(const BenchAccuracyOptions& options) {
    EngineOptions engine_options = options.engine;
    engine_options.max_num_seqs = std::max(engine_options.max_num_seqs, options.concurrency);
    ASSIGN_OR_RETURN(auto local, LocalEngine::start(engine_options));
    if (local->tokenizer() == nullptr) {
      return make_error(ErrorCode::kNotFound, "{}/tokenizer.json: not there",
                        options.engine.model_dir);
    }
    ASSIGN_OR_RETURN(ChatPrompter prompter,
                     ChatPrompter::make(*local->tokenizer(), local->tokenizer_config()));
    return std::shared_ptr<LocalAsker>(
        new LocalAsker(std::move(local), std::move(prompter), options));
  }

  Result<Answer> ask(const std::string& prompt) {
    GenerationRequest request;
    request.request_id = fmt::format("accuracy-{}", next_id_.fetch_add(1));
    ASSIGN_OR_RETURN(request.prompt_token_ids, prompter_.prompt("", prompt));
    const int64_t room = local_->engine().model_info().max_model_len -
                         static_cast<int64_t>(request.prompt_token_ids.size());
    request.sampling.temperature = 0.0f;
    request.sampling.max_tokens = static_cast<int>(std::clamp<int64_t>(room, 1, max_tokens_));
    if (with_logprobs_) request.sampling.num_logprobs = 2;
    auto state = std::make_shared<State>();
    auto done = state->done.get_future();
    RETURN_IF_ERROR(local_->engine().submit(std::move(request), [state](GenerationEvent event) {
      state->text += event.text;
      Answer& answer = state->answer;
      answer.num_output_tokens += static_cast<int64_t>(event.token_ids.size());
      answer.drafts.add(event.num_drafts, event.num_accepted_drafts);
      if (state->text.find("</think>") == std::string::npos) {
        answer.thinking_drafts.add(event.num_drafts, event.num_accepted_drafts);
      }
      answer.token_ids.insert(answer.token_ids.end(), event.token_ids.begin(),
                              event.token_ids.end());
      std::move(event.logprobs.begin(), event.logprobs.end(), std::back_inserter(answer.logprobs));
      if (!event.finish_reason) return;
      state->answer.finished = event.finish_reason == FinishReason::kStop;
      state->error = event.error;
      state->done.set_value();
    }));
    done.wait();
    if (state->error) return *state->error;
    state->answer.content = split_reasoning(state->text, /*starts_inside_think=*/true).content;
    return state->answer;
  }

 private:
  struct State {
    std::string text;
    Answer answer;
    std::optional<Error> error;
    std::promise<void> done;
  };

  LocalAsker(std::unique_ptr<LocalEngine> local, ChatPrompter prompter,
             const BenchAccuracyOptions& options)
      : local_(std::move(local)),
        prompter_(std::move(prompter)),
        max_tokens_(options.max_tokens),
        with_logprobs_(!options.save_path.empty()) {}

  std::unique_ptr<LocalEngine> local_;
  ChatPrompter prompter_;
  int max_tokens_;
  bool with_logprobs_;
  std::atomic<int64_t> next_id_{0};
};

// The same requests to a server; one connection a worker.
class ServerAsker {
 public:
  static Result<std::shared_ptr<ServerAsker>> make(const BenchAccuracyOptions& options) {
    ASSIGN_OR_RETURN(const HttpUrl url, parse_http_url(options.url));
    HttpClientConfig config;
    if (!options.api_key.empty()) {
      config.headers.push_back({"Authorization", "Bearer " + options.api_key});
    }
    auto asker = std::shared_ptr<ServerAsker>(new ServerAsker(options));
    for (int i = 0; i < options.concurrency; ++i) asker->clients_.emplace_back(url, config);
    if (asker->model_.empty()) RETURN_IF_ERROR(asker->find_model());
    return asker;
  }

  Result<Answer> ask(int worker, const std::string& prompt) {
    const nlohmann::json body = {
        {"model", model_},
        {"messages", {{{"role", "user"}, {"content", prompt}}}},
        {"temperature", 0},
        {"max_completion_tokens", max_tokens_},
    };
    ASSIGN_OR_RETURN(const HttpResponse response,
                     clients_[worker].post_json("/v1/chat/completions", body.dump()));
    if (response.status != 200) {
      return make_error(ErrorCode::kInternal, "{} answered {}: {}", url_, response.status,
                        response.body.substr(0, 300));
    }
    ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(response.body, url_));
    try {
      const auto& choice = json.at("choices").at(0);
      const auto& content = choice.at("message").at("content");
      Answer answer;
      if (content.is_string()) {
        // Servers without a reasoning parser leave the thinking in the content.
        const auto text = content.get<std::string>();
        const size_t end = text.rfind("</think>");
        answer.content = end == std::string::npos ? text : text.substr(end + 8);
      }
      answer.num_output_tokens = json.at("usage").at("completion_tokens").get<int64_t>();
      answer.finished = choice.at("finish_reason") == "stop";
      return answer;
    } catch (const nlohmann::json::exception& error) {
      return make_error(ErrorCode::kInternal, "{}: unexpected answer: {}", url_, error.what());
    }
  }

 private:
  explicit ServerAsker(const BenchAccuracyOptions& options)
      : url_(options.url), model_(options.model), max_tokens_(options.max_tokens) {}

  Status find_model() {
    ASSIGN_OR_RETURN(const HttpResponse response, clients_[0].get("/v1/models"));
    ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(response.body, url_ + "/v1/models"));
    try {
      model_ = json.at("data").at(0).at("id").get<std::string>();
      return ok_status();
    } catch (const nlohmann::json::exception&) {
      return invalid_argument("--url {}: /v1/models lists no model", url_);
    }
  }

  std::string url_;
  std::string model_;
  int max_tokens_;
  std::vector<HttpClient> clients_;
};

Result<Ask> make_ask(const BenchAccuracyOptions& options) {
  if (!options.url.empty()) {
    ASSIGN_OR_RETURN(auto asker, ServerAsker::make(options));
    return Ask(
        [asker](int worker, const std::string& prompt) { return asker->ask(worker, prompt); });
  }
  ASSIGN_OR_RETURN(auto asker, LocalAsker::make(options));
  return Ask([asker](int, const std::string& prompt) { return asker->ask(prompt); });
}

struct KindScore {
  int64_t num_problems = 0;
  int64_t num_correct = 0;
  int64_t num_output_tokens = 0;
  int64_t max_output_tokens = 0;

  double accuracy() const {
    return static_cast<double>(num_correct) /
           static_cast<double>(std::max<int64_t>(num_problems, 1));
  }
  void add(const Answer& answer, bool correct) {
    ++num_problems;
    num_correct += correct ? 1 : 0;
    num_output_tokens += answer.num_output_tokens;
    max_output_tokens = std::max(max_output_tokens, answer.num_output_tokens);
  }
  nlohmann::json json() const {
    return {{"problems", num_problems},
            {"correct", num_correct},
            {"accuracy", accuracy()},
            {"mean_output_tokens", static_cast<double>(num_output_tokens) /
                                       static_cast<double>(std::max<int64_t>(num_problems, 1))},
            {"max_output_tokens", max_output_tokens}};
  }
};

struct Report {
  std::map<std::string, KindScore> kinds;
  KindScore all;
  DraftStats drafts;
  DraftStats thinking_drafts;
  nlohmann::json mistakes = nlohmann::json::array();
  std::vector<std::string> saved;  // a line for each task, if wanted
  std::optional<Error> error;
  double seconds = 0;
};

std::string saved_line(const Task& task, const Answer& answer, bool correct) {
  auto second_ids = nlohmann::json::array();
  auto gaps = nlohmann::json::array();
  for (const OutputLogprob& entry : answer.logprobs) {
    const bool has_two = entry.top.size() >= 2;
    second_ids.push_back(has_two ? entry.top[1].first : -1);
    gaps.push_back(has_two ? entry.top[0].second - entry.top[1].second : 0.0f);
  }
  const nlohmann::json line = {{"prompt", task.prompt},
                               {"correct", correct},
                               {"token_ids", answer.token_ids},
                               {"second_ids", std::move(second_ids)},
                               {"gaps", std::move(gaps)}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Report run_tasks(const std::vector<Task>& tasks, const Ask& ask, int concurrency, bool save) {
  Report report;
  if (save) report.saved.resize(tasks.size());
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const int64_t start_us = monotonic_us();
  {
    ProgressBar progress("accuracy", static_cast<int64_t>(tasks.size()), "problems");
    std::vector<std::jthread> workers;
    for (int worker = 0; worker < concurrency; ++worker) {
      workers.emplace_back([&, worker] {
        for (size_t i = next.fetch_add(1); i < tasks.size(); i = next.fetch_add(1)) {
          const auto answer = ask(worker, tasks[i].prompt);
          std::lock_guard lock(mutex);
          if (!answer.ok()) {
            if (!report.error) report.error = answer.error();
            next = tasks.size();
            return;
          }
          const bool correct = trim(answer->content) == trim(tasks[i].answer);
          report.kinds[tasks[i].kind].add(*answer, correct);
          report.all.add(*answer, correct);
          report.drafts.add(answer->drafts);
          report.thinking_drafts.add(answer->thinking_drafts);
          if (save) report.saved[i] = saved_line(tasks[i], *answer, correct);
          if (!correct && report.mistakes.size() < kMaxListedMistakes) {
            report.mistakes.push_back({{"prompt", tasks[i].prompt},
                                       {"answer", tasks[i].answer},
                                       {"got", answer->content},
                                       {"finished", answer->finished}});
          }
          progress.advance(1, fmt::format("{:.1f}% right", report.all.accuracy() * 100));
        }
      });
    }
  }
  report.seconds = static_cast<double>(monotonic_us() - start_us) * 1e-6;
  return report;
}

void print_drafts(const Report& report, const MtpOptions& mtp) {
  const auto print = [&](const char* phase, const DraftStats& drafts) {
    const nlohmann::json json = drafts_json(drafts, mtp);
    fmt::print("drafts{}: {:.3f} tokens a step, accepted by place", phase,
               json["tokens_per_step"].get<double>());
    for (const auto& share : json["accepted_by_place"]) {
      fmt::print(" {:.2f}%", share.get<double>() * 100);
    }
    fmt::print("{}\n", mtp.simulated_acceptance >= 0 ? " (simulated acceptance)" : "");
  };
  print("", report.drafts);
  print(" while thinking", report.thinking_drafts);
}

void print_report(const Report& report) {
  fmt::print("{:<20} {:>9} {:>9} {:>9} {:>12} {:>11}\n", "kind", "problems", "right", "accuracy",
             "mean tokens", "max tokens");
  const auto print_row = [](const std::string& name, const KindScore& score) {
    const nlohmann::json json = score.json();
    fmt::print("{:<20} {:>9} {:>9} {:>8.2f}% {:>12.1f} {:>11}\n", name, score.num_problems,
               score.num_correct, score.accuracy() * 100, json["mean_output_tokens"].get<double>(),
               score.max_output_tokens);
  };
  for (const auto& [kind, score] : report.kinds) print_row(kind, score);
  print_row("all", report.all);
  fmt::print("{:.1f} s, {:.0f} output tokens/s\n", report.seconds,
             static_cast<double>(report.all.num_output_tokens) / report.seconds);
}

Status write_report(const BenchAccuracyOptions& options, const Report& report) {
  nlohmann::json json = {
      {"model", options.url.empty() ? options.engine.model_dir : options.url},
      {"tasks", options.tasks},
      {"concurrency", options.concurrency},
      {"all", report.all.json()},
      {"seconds", report.seconds},
      {"output_tokens_per_s", static_cast<double>(report.all.num_output_tokens) / report.seconds},
      {"mistakes", report.mistakes},
  };
  note_options(options.engine.device, &json);
  for (const auto& [kind, score] : report.kinds) json["kinds"][kind] = score.json();
  if (options.engine.mtp.draft_len > 0) {
    json["drafts"] = drafts_json(report.drafts, options.engine.mtp);
    json["drafts_while_thinking"] = drafts_json(report.thinking_drafts, options.engine.mtp);
  }
  std::ofstream file(options.json_path);
  file << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) return make_error(ErrorCode::kIo, "--json {}: cannot be written", options.json_path);
  return ok_status();
}

Status write_saved(const BenchAccuracyOptions& options, const Report& report) {
  std::ofstream file(options.save_path);
  for (const std::string& line : report.saved) file << line << "\n";
  file.close();
  if (!file) return make_error(ErrorCode::kIo, "--save {}: cannot be written", options.save_path);
  return ok_status();
}

}  // namespace

void add_bench_accuracy_options(CLI::App* app, BenchAccuracyOptions* options) {
  add_engine_options(app, &options->engine);
  auto* model = app->get_option("--model")->required(false);
  auto* url = app->add_option("--url", options->url, "base URL of an OpenAI-compatible server");
  url->excludes(model);
  app->add_option("--model-name", options->model, "model named to the server; empty: its first");
  app->add_option("--api-key", options->api_key, "bearer token for the server");
  app->add_option("--tasks", options->tasks, "JSON lines with prompt, answer and kind")->required();
  app->add_option("--json", options->json_path, "file for the report");
  app->add_option("--save", options->save_path,
                  "file for every answer's tokens and how close the second choices were")
      ->excludes(url);
  app->add_option("--concurrency", options->concurrency, "requests in flight")
      ->check(CLI::Range(1, 1024));
  app->add_option("--max-tokens", options->max_tokens, "output tokens per problem")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--limit", options->limit, "only the first problems; 0: all")
      ->check(CLI::NonNegativeNumber);
}

Status run_bench_accuracy(const BenchAccuracyOptions& options) {
  if (options.url.empty() && options.engine.model_dir.empty()) {
    return invalid_argument("bench accuracy: give --model or --url");
  }
  ASSIGN_OR_RETURN(const std::vector<Task> tasks, read_tasks(options.tasks, options.limit));
  ASSIGN_OR_RETURN(const Ask ask, make_ask(options));
  const bool save = !options.save_path.empty();
  const Report report = run_tasks(tasks, ask, options.concurrency, save);
  if (report.error) return *report.error;
  print_report(report);
  if (options.engine.mtp.draft_len > 0) print_drafts(report, options.engine.mtp);
  if (save) RETURN_IF_ERROR(write_saved(options, report));
  return options.json_path.empty() ? ok_status() : write_report(options, report);
}

}  // namespace deepflight
