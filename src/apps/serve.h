// `deepflight serve`: the OpenAI-compatible server on a local engine.
#pragma once

#include <string>

#include "apps/local_engine.h"
#include "base/result.h"

namespace CLI {
class App;
}

namespace deepflight {

struct ServeOptions {
  EngineOptions engine;
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: the system picks one
  std::string served_model_name;
  std::string api_key;  // empty: nobody is asked for one
  std::string version;
  bool no_web_page = false;
  int http_threads = 1;
  int drain_timeout_s = 60;
  int max_requests = 0;  // 0: any number
  int max_connections = 4096;
  int max_body_mib = 32;
  bool ignore_unknown_fields = false;
  int request_timeout_s = 0;  // 0: none
  bool no_access_log = false;
};

void add_serve_options(CLI::App* app, ServeOptions* options);

// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
Status run_serve(const ServeOptions& options);

}  // namespace deepflight
