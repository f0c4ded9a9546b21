// The `deepflight` binary: subcommands over the libraries. Exit codes: 0 done, 1 failed on the way,
// 2 bad input (one line on stderr says what and where).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "apps/bench_accuracy.h"
#include "apps/bench_serve/bench_serve.h"
#include "apps/generate.h"
#include "apps/inspect.h"
#include "apps/profile.h"
#include "apps/serve.h"
#include "base/log.h"

namespace deepflight {
namespace {

int exit_code(const Status& status) {
  if (status.ok()) return 0;
  fmt::print(stderr, "deepflight: {}\n", status.error().message);
  switch (status.error().code) {
    case ErrorCode::kUnavailable:
    case ErrorCode::kCancelled:
    case ErrorCode::kInternal:
      return 1;
    default:
      return 2;
  }
}

int run(int argc, char** argv) {
  CLI::App app("Serves DeepSeek-V3/R1-class models.", "deepflight");
  app.set_version_flag("--version", DF_VERSION);
  app.require_subcommand(1);
  std::string log_level = "warn";
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error or off");
  app.fallthrough();

  ServeOptions serve;
  serve.version = DF_VERSION;
  add_serve_options(app.add_subcommand("serve", "OpenAI-compatible server"), &serve);
  GenerateOptions generate;
  add_generate_options(app.add_subcommand("generate", "answer one prompt"), &generate);
  auto* bench = app.add_subcommand("bench", "measure a model or a server");
  bench->require_subcommand(1);
  BenchAccuracyOptions accuracy;
  add_bench_accuracy_options(bench->add_subcommand("accuracy", "share of problems answered right"),
                             &accuracy);
  BenchServeOptions bench_serve;
  add_bench_serve_options(
      bench->add_subcommand("serve", "latency and throughput of a server under load"),
      &bench_serve);
  ProfileOptions profile;
  add_profile_options(app.add_subcommand("profile", "time of a step, op by op"), &profile);
  InspectOptions inspect;
  add_inspect_options(app.add_subcommand("inspect", "what a model directory holds"), &inspect);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "deepflight: {} (see --help)\n", error.what());
    return 2;
  }
  const bool serves = app.got_subcommand("serve");
  if (serves && app.count("--log-level") == 0) log_level = "info";
  if (const Status status = init_logging(log_level); !status.ok()) return exit_code(status);
  if (serves) return exit_code(run_serve(serve));
  if (app.got_subcommand("generate")) return exit_code(run_generate(generate));
  if (app.got_subcommand("profile")) return exit_code(run_profile(profile));
  if (app.got_subcommand("inspect")) return exit_code(run_inspect(inspect, std::cout));
  if (bench->got_subcommand("serve")) return exit_code(run_bench_serve(bench_serve));
  return exit_code(run_bench_accuracy(accuracy));
}

}  // namespace
}  // namespace deepflight

int main(int argc, char** argv) {
  try {
    return deepflight::run(argc, argv);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "deepflight: {}\n", failure.what());
    return 1;
  }
}
