// Loads the model, sizes an executor for the largest of the shapes, then for each shape: steady
// steps by the clock, the same under a kernel timeline, and steps issued op by op, whose kernels
// carry the names of their ops.
#include "apps/profile.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fstream>
#include <numeric>

#include "apps/profile_steps.h"
#include "base/clock.h"
#include "base/log.h"

namespace deepflight {
namespace {

constexpr int64_t kWarmUpSteps = 5;
constexpr int64_t kRecordedSteps = 8;  // of each of the two recordings

int64_t total_steps(const ProfileOptions& options) {
  return 2 * kWarmUpSteps + options.num_steps + 2 * kRecordedSteps;
}

Result<std::vector<StepShape>> parse_shapes(const ProfileOptions& options) {
  std::vector<StepShape> shapes;
  for (const int rows : options.decode_rows) {
    shapes.push_back({.decode_rows = rows,
                      .decode_context = options.decode_context,
                      .draft_len = options.engine.mtp.draft_len});
  }
  for (const std::string& text : options.prefill) {
    ASSIGN_OR_RETURN(const StepShape shape, parse_prefill_shape(text));
    shapes.push_back(shape);
  }
  if (shapes.empty()) return invalid_argument("profile: give --decode or --prefill");
  return shapes;
}

// An executor must hold the largest of the shapes; the engine's options follow from them.
EngineOptions fit_options(const ProfileOptions& options, const std::vector<StepShape>& shapes) {
  EngineOptions engine = options.engine;
  int64_t max_rows = 1, max_tokens = 1, max_len = 1;
  for (const StepShape& shape : shapes) {
    max_rows = std::max(max_rows, shape.decode_rows);
    max_tokens = std::max(max_tokens, shape.num_tokens());
    max_len = std::max({max_len, shape.prefill_prefix + shape.prefill_tokens,
                        shape.decode_context + total_steps(options) * (1 + shape.draft_len)});
  }
  engine.max_num_seqs = static_cast<int>(max_rows);
  engine.max_batched_tokens = static_cast<int>(max_tokens);
  engine.chunk_tokens = static_cast<int>(max_tokens);
  engine.max_model_len = max_len;
  return engine;
}

std::string title_of(const StepShape& shape) {
  if (shape.decode_rows > 0) {
    return fmt::format("decode B={} context={}{}", shape.decode_rows, shape.decode_context,
                       shape.draft_len > 0 ? fmt::format(" drafts={}", shape.draft_len) : "");
  }
  return shape.prefill_prefix > 0
             ? fmt::format("prefill T={} prefix={}", shape.prefill_tokens, shape.prefill_prefix)
             : fmt::format("prefill T={}", shape.prefill_tokens);
}

double total_floor_us(const std::vector<OpCost>& costs, const MachineRates& rates) {
  return std::accumulate(costs.begin(), costs.end(), 0.0, [&](double sum, const OpCost& cost) {
    return sum + floor_us(cost, rates);
  });
}

// The device and what is measured on it, for all shapes of a run.
struct Bench {
  const ProfileOptions& options;
  const LocalEngine& local;
  Executor& executor;
  ProfileSteps& steps;
  MachineRates rates;
  int64_t kv_token_bytes;
};

Result<std::vector<ProfiledKernel>> record(const Bench& bench, int64_t padded_rows) {
  bench.local.device().backend->synchronize();
  RETURN_IF_ERROR(start_kernel_timeline(bench.local.device()));
  bench.steps.run(kRecordedSteps, padded_rows);
  bench.local.device().backend->synchronize();
  return stop_kernel_timeline(bench.local.device());
}

Result<StepProfile> profile_shape(const Bench& bench, const StepShape& shape,
                                  std::vector<ProfiledKernel>* trace) {
  StepProfile profile{.title = title_of(shape), .shape = shape};
  const int64_t padded_rows = bench.options.engine.no_graphs ? 0 : shape.decode_rows;
  bench.steps.prepare(shape, total_steps(bench.options));
  bench.steps.run(kWarmUpSteps, padded_rows);
  const ExecutorStats before = bench.executor.stats();
  const int64_t start_us = monotonic_us();
  bench.steps.run(bench.options.num_steps, padded_rows);
  const auto num_steps = static_cast<double>(bench.options.num_steps);
  profile.step_us = static_cast<double>(monotonic_us() - start_us) / num_steps;
  const ExecutorStats after = bench.executor.stats();
  profile.host_us = static_cast<double>(after.issue_us_total - before.issue_us_total) / num_steps;

  profile.graph_launches =
      static_cast<double>(after.num_graph_steps - before.num_graph_steps) / num_steps;

  const auto costs = step_costs(bench.local.model_config(), shape, bench.kv_token_bytes);
  if (!bench.local.device().is_cuda) return profile;
  profile.floor_us = total_floor_us(costs, bench.rates);
  ASSIGN_OR_RETURN(*trace, record(bench, padded_rows));
  const BusyTime time = busy_time(*trace);
  profile.busy = std::min(1.0, time.busy_us / kRecordedSteps / profile.step_us);
  profile.busy_traced = time.span_us > 0 ? time.busy_us / time.span_us : 0;
  ASSIGN_OR_RETURN(const auto labelled, record(bench, 0));
  profile.rows = profile_rows(labelled, kRecordedSteps, costs, bench.rates);
  return profile;
}

Status write_json(const std::string& path, const nlohmann::json& json, int indent) {
  std::ofstream file(path);
  file << json.dump(indent) << '\n';
  file.close();
  if (!file) return make_error(ErrorCode::kInternal, "{}: cannot be written", path);
  return ok_status();
}

}  // namespace

Result<StepShape> parse_prefill_shape(const std::string& text) {
  const auto error = [&] {
    return invalid_argument("--prefill '{}': want T or T+P, tokens to compute and cached tokens",
                            text);
  };
  StepShape shape;
  const char* const end = text.data() + text.size();
  const auto tokens = std::from_chars(text.data(), end, shape.prefill_tokens);
  if (tokens.ec != std::errc() || shape.prefill_tokens < 1) return error();
  if (tokens.ptr == end) return shape;
  if (*tokens.ptr != '+') return error();
  const auto prefix = std::from_chars(tokens.ptr + 1, end, shape.prefill_prefix);
  if (prefix.ec != std::errc() || prefix.ptr != end || shape.prefill_prefix < 0) return error();
  return shape;
}

void add_profile_options(CLI::App* app, ProfileOptions* options) {
  add_engine_options(app, &options->engine);
  app->add_option("--decode", options->decode_rows, "batch sizes of decode steps: 1,8,64")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app->add_option("--context", options->decode_context, "KV tokens of each decode row")
      ->check(CLI::Range(2, 1 << 20));
  app->add_option("--prefill", options->prefill,
                  "prefill steps: T tokens, or T+P behind P cached ones: 2048,8192+24576")
      ->delimiter(',');
  app->add_option("--steps", options->num_steps, "steps that are timed")
      ->check(CLI::Range(1, 1000));
  app->add_flag(
      "--autotune", options->engine.device.autotune,
      "GPU: measure which kernels are the fastest for the model's products first, and keep "
      "that for later runs on this GPU and driver");
  app->add_option("--json", options->json_path, "write the tables to this file");
  app->add_option("--trace", options->trace_path,
                  "write the last shape's kernels to this file, for Perfetto");
}

Status run_profile(const ProfileOptions& options) {
  ASSIGN_OR_RETURN(const auto shapes, parse_shapes(options));
  ASSIGN_OR_RETURN(const auto local, LocalEngine::load(fit_options(options, shapes)));
  ASSIGN_OR_RETURN(ExecutorConfig config, local->executor_config());
  const MachineRates rates = measure_rates(local->device());
  for (const StepShape& shape : shapes) {
    config.num_pages =
        std::max(config.num_pages, ProfileSteps::num_pages(shape, total_steps(options)));
  }
  config.decode_batch_sizes.clear();
  if (local->device().is_cuda && !options.engine.no_graphs) {
    for (const StepShape& shape : shapes) {
      if (shape.decode_rows > 0) {
        config.decode_batch_sizes.push_back(static_cast<int32_t>(shape.decode_rows));
      }
    }
    std::ranges::sort(config.decode_batch_sizes);
  }
  ASSIGN_OR_RETURN(
      const auto executor,
      Executor::create(config, local->model_config(), local->weights(), *local->device().backend));
  ProfileSteps steps(*executor, local->model_config(), config);
  const KvPool pool{.format = config.kv_format,
                    .token_dim = local->model_config().kv_token_dim(),
                    .rope_dim = local->model_config().qk_rope_head_dim};
  const Bench bench{options, *local, *executor, steps, rates, pool.token_bytes()};

  nlohmann::json profiles = nlohmann::json::array();
  std::vector<ProfiledKernel> trace;
  if (local->device().is_cuda) {
    fmt::print("{}: copy {:.2f} TB/s, BF16 {:.0f} TFLOPS, FP8 {:.0f} TFLOPS (measured)\n",
               local->device().name, rates.bytes_per_second * 1e-12,
               rates.bf16_flops_per_second * 1e-12, rates.fp8_flops_per_second * 1e-12);
  }
  for (const StepShape& shape : shapes) {
    ASSIGN_OR_RETURN(const StepProfile profile, profile_shape(bench, shape, &trace));
    fmt::print("\n{}", profile_table(profile));
    std::fflush(stdout);
    profiles.push_back(profile_json(profile));
  }
  if (!options.json_path.empty()) {
    nlohmann::json report = {{"device", local->device().name},
                             {"model", local->options().model_dir},
                             {"num_layers", local->model_config().num_layers},
                             {"kv_cache_dtype", options.engine.kv_cache_dtype},
                             {"bytes_per_second", rates.bytes_per_second},
                             {"bf16_flops_per_second", rates.bf16_flops_per_second},
                             {"fp8_flops_per_second", rates.fp8_flops_per_second},
                             {"steps", std::move(profiles)}};
    note_options(options.engine.device, &report);
    const MtpOptions& mtp = options.engine.mtp;
    if (mtp.draft_len > 0) report["mtp"] = mtp.draft_len;
    if (mtp.simulated_acceptance >= 0) report["simulated_acceptance"] = mtp.simulated_acceptance;
    RETURN_IF_ERROR(write_json(options.json_path, report, 1));
  }
  if (!options.trace_path.empty()) {
    RETURN_IF_ERROR(write_json(options.trace_path, perfetto_trace(trace), -1));
  }
  return ok_status();
}

}  // namespace deepflight
