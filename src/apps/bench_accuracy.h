// `deepflight bench accuracy`: answers a file of problems and counts the exact ones.
#pragma once

#include <string>

#include "apps/local_engine.h"
#include "base/result.h"

namespace CLI {
class App;
}

namespace deepflight {

struct BenchAccuracyOptions {
  EngineOptions engine;   // of a model directory ...
  std::string url;        // ... or the base URL of an OpenAI-compatible server
  std::string model;      // model name sent to a server; empty: the first it lists
  std::string api_key;    // sent to a server as a bearer token
  std::string tasks;      // lines {"prompt", "answer", "kind"}
  std::string json_path;  // where to write the report; empty: nowhere
  std::string save_path;  // where to write every answer's tokens; empty: nowhere
  int concurrency = 32;
  int max_tokens = 1024;
  int64_t limit = 0;  // 0: all problems
};

void add_bench_accuracy_options(CLI::App* app, BenchAccuracyOptions* options);

// Lines of save_path, in the order of the tasks, for tools/compare/greedy_agreement.py: {"prompt",
// "correct", "token_ids", "second_ids", "gaps"}; the last two are, for each token, the second most
// likely one and by how much its logprob is lower.
//
// Greedy chat requests; an answer is right if the text after </think> equals `answer` up to white
// space around it. Prints a table per kind.
Status run_bench_accuracy(const BenchAccuracyOptions& options);

}  // namespace deepflight
