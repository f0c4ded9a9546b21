// `deepflight bench serve`: loads an OpenAI-compatible server and reports latencies, throughput and
// goodput; or searches for the highest rate at which the limits hold. docs/benchmark.md explains.
#pragma once

#include <cstdint>
#include <string>

#include "apps/bench_serve/latency_stats.h"
#include "base/result.h"

namespace CLI {
class App;
}

namespace deepflight {

struct BenchServeOptions {
  std::string url;          // base URL, without /v1
  std::string model;        // empty: the first that the server lists
  std::string api_key;      // sent as a bearer token
  std::string endpoint;     // "completions", "chat" or empty: what fits the prompts
  std::string extra_body;   // JSON object merged over each request
  int concurrency = 0;      // of a closed loop
  double rate = 0;          // requests/s of an open loop; of a search, the first one
  int max_concurrency = 0;  // of an open loop; 0: no limit
  int64_t num_requests = 0;
  double duration_s = 0;
  int64_t warmup = 0;
  std::string isl = "1024";
  std::string osl = "128";
  int64_t vocab_size = 1000;
  bool text_prompts = false;
  std::string prompts_path;
  bool ignore_eos = true;
  bool ignore_eos_given = false;  // else it is for random prompts only
  uint64_t seed = 0;
  Slo slo;
  double slo_percentile = 99;
  bool find_max_qpm = false;
  int client_threads = 0;  // 0: half the cores, at most 4
  int timeout_s = 600;     // without a byte
  std::string json_path;
  std::string html_path;
  std::string save_path;  // a JSON line for each request
};

void add_bench_serve_options(CLI::App* app, BenchServeOptions* options);

// Prints the table on stdout and writes the files asked for, also if it is interrupted or requests
// fail; an error then says so (kCancelled), or that no request was answered (kUnavailable).
Status run_bench_serve(const BenchServeOptions& options);

}  // namespace deepflight
