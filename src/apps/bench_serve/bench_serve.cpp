// One load, or the trials of a search; then the report.
#include "apps/bench_serve/bench_serve.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "apps/bench_serve/bench_serve_options.h"
#include "apps/bench_serve/html_report.h"
#include "apps/bench_serve/load_report.h"
#include "apps/bench_serve/load_run.h"
#include "base/clock.h"
#include "base/files.h"

namespace deepflight {
namespace {

constexpr int kMaxTimelineSlices = 120;
constexpr double kMinTimelineSliceS = 0.5;
constexpr int kMaxWarmupConcurrency = 64;
constexpr uint64_t kWarmupStream = uint64_t{1} << 31;
constexpr auto kPauseAfterCancel = std::chrono::seconds(1);

// What a run needs beside its plan.
struct Bench {
  const BenchServeOptions& options;
  const LoadRequests& requests;
  LoadClient& client;
  const Interrupt& interrupt;
  LoadReport report;
  std::vector<RequestRecord> records;  // of the load, or of a search's best trial
};

// As many connections as the system lets us have.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

Result<std::string> find_model(const HttpUrl& url, const HttpClientConfig& config,
                               const std::string& name) {
  HttpClient http(url, config);
  ASSIGN_OR_RETURN(const HttpResponse response, http.get("/v1/models"));
  const std::string where = name + "/v1/models";
  if (response.status != 200) {
    return make_error(ErrorCode::kUnavailable, "{} answered {}: {}", where, response.status,
                      response.body.substr(0, 300));
  }
  ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(response.body, where));
  try {
    return json.at("data").at(0).at("id").get<std::string>();
  } catch (const nlohmann::json::exception&) {
    return invalid_argument("--url {}: /v1/models lists no model", name);
  }
}

void warm_up(Bench& bench) {
  const BenchServeOptions& options = bench.options;
  if (options.warmup == 0) return;
  const int cap = std::max(options.concurrency, kMaxWarmupConcurrency);
  const LoadRun run{
      .plan = {.max_concurrency = static_cast<int>(std::min<int64_t>(options.warmup, cap)),
               .num_requests = options.warmup},
      .stream = kWarmupStream,
      .title = "warm-up"};
  run_load(bench.client, bench.requests, run, bench.interrupt);
}

void measure(Bench& bench) {
  const LoadRun run{.plan = load_plan(bench.options, bench.options.rate), .title = "bench serve"};
  bench.records = run_load(bench.client, bench.requests, run, bench.interrupt);
  bench.report.summary = summarize(bench.records, bench.options.slo);
}

// One trial of a search; nothing if it was interrupted.
std::optional<bool> try_rate(Bench& bench, double rate) {
  const BenchServeOptions& options = bench.options;
  const LoadPlan plan = load_plan(options, rate);
  TrialJudge judge(options.slo, options.slo_percentile, plan.num_planned());
  RateTrial trial{.rate = rate};
  const LoadRun run{.plan = plan,
                    .stream = bench.report.trials.size(),
                    .title = fmt::format("QPM {:.1f}", 60 * rate),
                    .on_record = [&](const RequestRecord& record) {
                      if (!judge.add(record)) trial.ended_early = true;
                      return !trial.ended_early;
                    }};
  std::vector<RequestRecord> records = run_load(bench.client, bench.requests, run, bench.interrupt);
  if (bench.interrupt.came()) return {};
  trial.summary = summarize(records, options.slo);
  trial.passed = !trial.ended_early && judge.passed(trial.summary);
  fmt::print("{}\n", trial_line(trial, options.slo_percentile));
  std::fflush(stdout);
  const bool is_best = trial.passed || bench.report.search.passing_rate == 0;
  if (is_best) {
    bench.records = std::move(records);
    bench.report.summary = trial.summary;
  }
  if (trial.passed) bench.report.search.passing_rate = rate;
  // What was cancelled leaves the server in its own time.
  if (trial.ended_early) std::this_thread::sleep_for(kPauseAfterCancel);
  const bool passed = trial.passed;
  bench.report.trials.push_back(std::move(trial));
  return passed;
}

void search(Bench& bench) {
  RateSearch bounds;
  if (bench.options.rate > 0) bounds.start_rate = bench.options.rate;
  bench.report.search =
      find_max_rate(bounds, [&bench](double rate) { return try_rate(bench, rate); });
}

Status write_file(const char* flag, const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return make_error(ErrorCode::kIo, "{} {}: cannot write", flag, path);
  return ok_status();
}

Status write_reports(const Bench& bench) {
  const BenchServeOptions& options = bench.options;
  fmt::print("{}", report_table(bench.report));
  std::fflush(stdout);
  if (!options.json_path.empty()) {
    const auto replace = nlohmann::json::error_handler_t::replace;
    RETURN_IF_ERROR(write_file("--json", options.json_path,
                               report_json(bench.report).dump(2, ' ', false, replace) + "\n"));
  }
  if (!options.html_path.empty()) {
    RETURN_IF_ERROR(write_file("--html", options.html_path, html_report(bench.report)));
  }
  if (!options.save_path.empty()) {
    std::string lines;
    for (const RequestRecord& record : bench.records) {
      lines += record_json(record).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      lines += '\n';
    }
    RETURN_IF_ERROR(write_file("--save", options.save_path, lines));
  }
  return ok_status();
}

int num_client_threads(const BenchServeOptions& options) {
  if (options.client_threads > 0) return options.client_threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 4);
}

}  // namespace

Status run_bench_serve(const BenchServeOptions& given) {
  const Interrupt interrupt;
  raise_file_limit();
  BenchServeOptions options = given;
  RETURN_IF_ERROR(check_bench_serve_options(&options));
  ASSIGN_OR_RETURN(const HttpUrl url, parse_http_url(options.url));
  HttpClientConfig http;
  http.idle_timeout = std::chrono::seconds(options.timeout_s);
  if (!options.api_key.empty()) {
    http.headers.push_back({"Authorization", "Bearer " + options.api_key});
  }
  ASSIGN_OR_RETURN(LoadRequestsConfig config, requests_config(options));
  ASSIGN_OR_RETURN(LoadRequests requests, LoadRequests::make(std::move(config)));
  if (options.model.empty()) {
    ASSIGN_OR_RETURN(options.model, find_model(url, http, options.url));
  }
  requests.set_model(options.model);
  LoadClient client(url, http, num_client_threads(options));
  Bench bench{options, requests, client, interrupt, {}, {}};
  bench.report.config = config_json(options);
  bench.report.date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(unix_time_s()));
  bench.report.slo = options.slo;
  bench.report.slo_percentile = options.slo_percentile;
  bench.report.is_search = options.find_max_qpm;

  warm_up(bench);
  if (options.find_max_qpm) {
    search(bench);
  } else {
    measure(bench);
  }
  bench.report.interrupted = interrupt.came();
  const double num_slices = bench.report.summary.seconds / kMinTimelineSliceS;
  bench.report.course = timeline(
      bench.records, static_cast<int>(std::clamp<double>(num_slices, 10, kMaxTimelineSlices)));
  RETURN_IF_ERROR(write_reports(bench));
  const LoadSummary& summary = bench.report.summary;
  if (interrupt.came()) {
    return make_error(ErrorCode::kCancelled, "interrupted: the report is of what had finished");
  }
  if (summary.num_done == 0 && !summary.failures.empty()) {
    const auto& [kind, failure] = *summary.failures.begin();
    return make_error(ErrorCode::kUnavailable, "no request was answered: {}: {}", kind,
                      failure.example);
  }
  return ok_status();
}

}  // namespace deepflight
