// Flags, their checks and their defaults.
#include "apps/bench_serve/bench_serve_options.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>

#include "base/files.h"

namespace deepflight {
namespace {

constexpr int64_t kRequestsPerSlot = 10;
constexpr double kDefaultDurationS = 60;

void add_load_options(CLI::App* app, BenchServeOptions* options) {
  auto* closed =
      app->add_option("--concurrency", options->concurrency, "closed loop: requests in flight")
          ->check(CLI::Range(1, 1 << 16));
  app->add_option("--rate", options->rate,
                  "open loop: requests/s, Poisson arrivals; with --find-max-qpm the first one")
      ->check(CLI::Range(1e-3, 1e5))
      ->excludes(closed);
  app->add_option("--max-concurrency", options->max_concurrency,
                  "open loop: at most so many in flight; later arrivals wait in the client")
      ->check(CLI::Range(1, 1 << 16))
      ->excludes(closed);
  app->add_option("--num-requests", options->num_requests,
                  "requests to send; without it and --duration 10 a slot (closed loop) or those of "
                  "60 s (open loop)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app->add_option("--duration", options->duration_s, "seconds in which requests are sent")
      ->check(CLI::Range(0.1, 1e6));
  app->add_option("--warmup", options->warmup, "requests sent before, not counted")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  app->add_flag("--find-max-qpm", options->find_max_qpm,
                "search for the highest open-loop rate at which the limits hold, within 5 %")
      ->excludes(closed);
}

void add_prompt_options(CLI::App* app, BenchServeOptions* options) {
  app->add_option("--isl", options->isl, "tokens of random prompts: N or A:B");
  app->add_option("--osl", options->osl, "tokens to generate (max_tokens): N or A:B");
  app->add_option("--vocab-size", options->vocab_size,
                  "random token ids lie below this; the model's own exercises it best")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 31));
  app->add_flag("--text-prompts", options->text_prompts,
                "random words instead of token ids, for servers that refuse those");
  app->add_option("--prompts", options->prompts_path,
                  "JSON lines with prompt or messages, and max_tokens if wanted");
  app->add_option("--endpoint", options->endpoint, "chat or completions; else what fits")
      ->check(CLI::IsMember({"chat", "completions"}));
  app->add_option("--extra-body", options->extra_body,
                  "JSON object merged over each request; null removes a field");
  app->add_option("--seed", options->seed, "of arrivals, lengths and prompts");
}

Status check_writable(const char* flag, const std::string& path) {
  if (path.empty()) return ok_status();
  if (!std::ofstream(path, std::ios::app)) {
    return make_error(ErrorCode::kIo, "{} {}: cannot write", flag, path);
  }
  return ok_status();
}

}  // namespace

void add_bench_serve_options(CLI::App* app, BenchServeOptions* options) {
  app->add_option("--url", options->url,
                  "base URL of an OpenAI-compatible server: http://HOST:PORT")
      ->required();
  app->add_option("--model", options->model, "model name to send; empty: the first it lists");
  app->add_option("--api-key", options->api_key, "bearer token")->envname("DEEPFLIGHT_API_KEY");
  add_load_options(app, options);
  add_prompt_options(app, options);
  app->add_flag_callback(
      "--ignore-eos", [options] { options->ignore_eos = options->ignore_eos_given = true; },
      "generate exactly what was asked; the default for random prompts");
  app->add_flag_callback(
      "--no-ignore-eos",
      [options] {
        options->ignore_eos = false;
        options->ignore_eos_given = true;
      },
      "let the model stop by itself; the default for --prompts");
  app->add_option("--slo-ttft-ms", options->slo.ttft_ms, "limit on the time to the first token")
      ->check(CLI::PositiveNumber);
  app->add_option("--slo-tpot-ms", options->slo.tpot_ms, "limit on the time per output token")
      ->check(CLI::PositiveNumber);
  app->add_option("--slo-percentile", options->slo_percentile,
                  "share of requests (%) that must be within a limit for --find-max-qpm")
      ->check(CLI::Range(1.0, 100.0));
  app->add_option("--client-threads", options->client_threads, "0: half the cores, at most 4")
      ->check(CLI::Range(0, 64));
  app->add_option("--timeout-s", options->timeout_s, "a request fails after so long without a byte")
      ->check(CLI::Range(1, 86400));
  app->add_option("--json", options->json_path, "file for the report");
  app->add_option("--html", options->html_path, "file for the report with charts");
  app->add_option("--save", options->save_path, "file for a line of JSON a request");
}

Status check_bench_serve_options(BenchServeOptions* options) {
  if (options->find_max_qpm && !options->slo.is_set()) {
    return invalid_argument("--find-max-qpm: give --slo-ttft-ms, --slo-tpot-ms or both");
  }
  const bool open = options->rate > 0 || options->find_max_qpm;
  if (!open && options->concurrency == 0) {
    return invalid_argument("bench serve: give --concurrency, --rate or --find-max-qpm");
  }
  if (!open && options->max_concurrency > 0) {
    return invalid_argument("--max-concurrency: needs --rate or --find-max-qpm");
  }
  if (options->num_requests == 0 && options->duration_s == 0) {
    if (open) {
      options->duration_s = kDefaultDurationS;
    } else {
      options->num_requests = kRequestsPerSlot * options->concurrency;
    }
  }
  if (!options->ignore_eos_given) options->ignore_eos = options->prompts_path.empty();
  RETURN_IF_ERROR(check_writable("--json", options->json_path));
  RETURN_IF_ERROR(check_writable("--html", options->html_path));
  return check_writable("--save", options->save_path);
}

Result<LoadRequestsConfig> requests_config(const BenchServeOptions& options) {
  LoadRequestsConfig config;
  config.model = options.model;
  config.endpoint = options.endpoint;
  config.prompts_path = options.prompts_path;
  ASSIGN_OR_RETURN(config.prompt_len, parse_length_range("--isl", options.isl));
  ASSIGN_OR_RETURN(config.output_len, parse_length_range("--osl", options.osl));
  config.vocab_size = options.vocab_size;
  config.text_prompts = options.text_prompts;
  config.ignore_eos = options.ignore_eos;
  config.seed = options.seed;
  if (!options.extra_body.empty()) {
    ASSIGN_OR_RETURN(config.extra_body, parse_json(options.extra_body, "--extra-body"));
  }
  return config;
}

LoadPlan load_plan(const BenchServeOptions& options, double rate) {
  return {.rate = rate,
          .max_concurrency = rate > 0 ? options.max_concurrency : options.concurrency,
          .num_requests = options.num_requests,
          .duration_us = static_cast<int64_t>(options.duration_s * 1e6),
          .seed = options.seed};
}

nlohmann::json config_json(const BenchServeOptions& options) {
  nlohmann::json config = {{"url", options.url},
                           {"model", options.model},
                           {"num_requests", options.num_requests},
                           {"duration_s", options.duration_s},
                           {"warmup", options.warmup},
                           {"osl", options.osl},
                           {"ignore_eos", options.ignore_eos},
                           {"seed", options.seed}};
  config["mode"] = options.find_max_qpm ? "search" : options.rate > 0 ? "open loop" : "closed loop";
  if (options.concurrency > 0) config["concurrency"] = options.concurrency;
  if (options.rate > 0) config["rate"] = options.rate;
  if (options.max_concurrency > 0) config["max_concurrency"] = options.max_concurrency;
  if (!options.endpoint.empty()) config["endpoint"] = options.endpoint;
  if (!options.extra_body.empty()) config["extra_body"] = options.extra_body;
  if (options.prompts_path.empty()) {
    config["isl"] = options.isl;
    config["vocab_size"] = options.vocab_size;
    config["text_prompts"] = options.text_prompts;
  } else {
    config["prompts"] = options.prompts_path;
  }
  if (options.slo.ttft_ms > 0) config["slo_ttft_ms"] = options.slo.ttft_ms;
  if (options.slo.tpot_ms > 0) config["slo_tpot_ms"] = options.slo.tpot_ms;
  if (options.find_max_qpm) config["slo_percentile"] = options.slo_percentile;
  return config;
}

}  // namespace deepflight
