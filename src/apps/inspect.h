// `deepflight inspect`: what a model directory holds (architecture, parameters, formats, every
// tensor, the memory plan), checked as a server would check it, without loading any weights.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "base/result.h"

namespace CLI {
class App;
}

namespace deepflight {

struct InspectOptions {
  std::string model_dir;
  std::string load_format = "auto";  // auto: the directory's safetensors; dummy: config.json alone
  int64_t num_layers = 0;            // look at the first ones only; 0: all
  int64_t kv_pages = 0;              // pool to plan for; 0: one sequence of full length
  bool all = false;                  // one line per expert
  bool json = false;                 // one JSON object
};

void add_inspect_options(CLI::App* app, InspectOptions* options);

// Prints to `out`. An error names the field, file or tensor that is wrong.
Status run_inspect(const InspectOptions& options, std::ostream& out);

}  // namespace deepflight
