// Start-up of an engine on this machine.
#include "apps/local_engine.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "model/deepseek/dummy_weights.h"
#include "model/deepseek/kv_scales.h"
#include "model/deepseek/memory_plan.h"
#include "model/deepseek/tensor_table.h"
#include "text/byte_tokenizer.h"

namespace deepflight {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kMaxHostBlocks = int64_t{1} << 24;

Result<KvFormat> parse_kv_format(const std::string& name, bool is_cuda) {
  if (name == "auto") return is_cuda ? KvFormat::kBF16 : KvFormat::kF32;
  if (name == "bf16") return KvFormat::kBF16;
  if (name == "f32" && !is_cuda) return KvFormat::kF32;
  if (name == "fp8") return KvFormat::kF8E4M3;
  if (name == "fp8_group") return KvFormat::kF8Group;
  return invalid_argument("--kv-cache-dtype {}: on a GPU use auto, bf16, fp8 or fp8_group", name);
}

// Decode steps of these sizes are captured: dense where a row more costs most.
std::vector<int32_t> graph_sizes(int32_t max_num_seqs) {
  std::vector<int32_t> sizes;
  for (int32_t size = 1; size < max_num_seqs; size += size < 8     ? size
                                                      : size < 64  ? 8
                                                      : size < 256 ? 16
                                                                   : 32) {
    sizes.push_back(size);
  }
  sizes.push_back(max_num_seqs);
  return sizes;
}

// Pages of --kv-cache-mib.
Result<int64_t> count_asked_pages(int64_t kv_cache_mib, int64_t max_model_len,
                                  int64_t pages_per_sequence, int64_t page_bytes) {
  const int64_t num_pages = kv_cache_mib * kMiB / page_bytes;
  if (num_pages < pages_per_sequence) {
    return invalid_argument(
        "--kv-cache-mib {}: holds {} tokens, less than one sequence of --max-model-len {}; "
        "give at least {} or lower --max-model-len",
        kv_cache_mib, num_pages * kPageTokens, max_model_len,
        (pages_per_sequence * page_bytes + kMiB - 1) / kMiB);
  }
  return num_pages;
}

// On the CPU: a quarter of the memory but no more than all slots can use.
Result<int64_t> count_cpu_pages(const EngineOptions& options, int64_t memory_bytes,
                                int64_t pages_per_sequence, int64_t page_bytes) {
  const int64_t affordable = memory_bytes / 4 / page_bytes;
  if (affordable < pages_per_sequence) {
    return invalid_argument(
        "a quarter of this machine's memory holds {} tokens of KV cache, less than one sequence of "
        "--max-model-len {}; lower it or give --kv-cache-mib",
        affordable * kPageTokens, options.max_model_len);
  }
  return std::min(affordable, 2 * options.max_num_seqs * pages_per_sequence);
}

void log_memory(const ExecutorMemory& memory, const Device& device) {
  const auto mib = [](int64_t bytes) { return bytes / kMiB; };
  spdlog::info(
      "memory of {}: weights {} MiB, state {}, workspace {}, scratch {}, graphs {}, KV cache {} "
      "({} tokens in {} pages); {} of {} MiB",
      device.name, mib(memory.weights_bytes), mib(memory.state_bytes), mib(memory.workspace_bytes),
      mib(memory.scratch_bytes), mib(memory.graph_bytes), mib(memory.kv_pool_bytes()),
      memory.num_pages * kPageTokens, memory.num_pages, mib(memory.total_bytes()),
      mib(device.memory_bytes));
}

}  // namespace

void add_engine_options(CLI::App* app, EngineOptions* options) {
  app->add_option("--model", options->model_dir, "model directory (Hugging Face layout)")
      ->required();
  app->add_option("--load-format", options->load_format,
                  "auto: the directory's safetensors; dummy: random weights")
      ->check(CLI::IsMember({"auto", "dummy"}));
  app->add_option("--device", options->device.device,
                  "auto (a GPU where there is one), cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app->add_option("--cuda-device", options->device.cuda_device, "which GPU")
      ->check(CLI::Range(0, 63));
  app->add_option("--gpu-memory-fraction", options->gpu_memory_fraction,
                  "share of the GPU's memory that weights, workspaces, graphs and KV cache take")
      ->check(CLI::Range(0.05, 1.0));
  app->add_flag("--no-graphs", options->no_graphs, "GPU: run decode steps op by op");
  app->add_option("--fp8-gemm-backend", options->device.fp8_gemm_backend,
                  "GPU: auto, or cublaslt for dense FP8 products where it has a kernel, to compare "
                  "with")
      ->check(CLI::IsMember({"auto", "cublaslt"}));
  app->add_flag("--deterministic", options->device.deterministic,
                "GPU: only kernels whose result for a token does not depend on the rest of the "
                "batch, so that a request gets the same bits in any company; slower. The CPU's "
                "never do");
  app->add_option("--kv-cache-dtype", options->kv_cache_dtype,
                  "auto, bf16, fp8, fp8_group (a scale for 128 latents); f32 on the CPU")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "fp8", "fp8_group"}));
  app->add_option("--threads", options->device.num_threads,
                  "compute threads of the CPU; 0: one per core")
      ->check(CLI::Range(0, 1024));
  app->add_option("--max-num-seqs", options->max_num_seqs,
                  "sequences that run at once; 0: 64 on the CPU, 256 on a GPU")
      ->check(CLI::Range(0, 4096));
  app->add_option("--max-num-batched-tokens", options->max_batched_tokens,
                  "token budget of a step; 0: 1024 on the CPU, 8192 on a GPU")
      ->check(CLI::Range(0, 1 << 20));
  app->add_option("--chunk-tokens", options->chunk_tokens,
                  "longest prefill chunk of one prompt in a step; 0: 512 on the CPU, the token "
                  "budget on a GPU")
      ->check(CLI::Range(0, 1 << 20));
  app->add_option("--max-model-len", options->max_model_len,
                  "prompt and output tokens together; 0: what the model was made for")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--kv-cache-mib", options->kv_cache_mib,
                  "KV cache; 0: a quarter of the CPU's memory, or what the GPU's plan leaves")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--host-kv-cache-mib", options->host_kv_cache_mib,
                  "host memory that keeps prefix pages which the KV cache has lost; 0: none")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--steps-in-flight", options->steps_in_flight,
                  "2: plan a step while the one before it runs; 1: do not")
      ->check(CLI::Range(1, 2));
  app->add_flag("--no-prefix-cache", options->no_prefix_cache, "compute every prompt anew");
  app->add_flag("--reuse-output-pages", options->reuse_output_pages,
                "let prompts reuse pages that were computed as output (a conversation's former "
                "answers); faster, but bits then depend on history");
  add_mtp_options(app, &options->mtp);
  app->add_option("--num-layers", options->num_layers,
                  "run the model's first layers only; 0: all of them")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--dummy-seed", options->dummy_seed, "seed of --load-format dummy");
  app->add_option(
      "--dummy-zipf", options->dummy_zipf,
      "with --load-format dummy, skew of the experts' load: the r-th most popular gets a "
      "share of r^-S; 0: even");
}

Result<std::unique_ptr<LocalEngine>> LocalEngine::load(const EngineOptions& options) {
  std::unique_ptr<LocalEngine> local(new LocalEngine);
  local->options_ = options;
  const std::filesystem::path model_dir = options.model_dir;
  if (!std::filesystem::is_directory(model_dir)) {
    return make_error(ErrorCode::kNotFound, "--model {}: no such directory", options.model_dir);
  }
  ASSIGN_OR_RETURN(local->model_config_, DeepseekConfig::load(model_dir));
  if (!local->model_config_.unread_fields.empty()) {
    spdlog::warn("{}/config.json: fields that are not known and not used: {}", options.model_dir,
                 fmt::join(local->model_config_.unread_fields, ", "));
  }
  if (options.device.deterministic && options.device.fp8_gemm_backend == "cublaslt") {
    return invalid_argument(
        "--deterministic: cuBLASLt's results depend on the batch, so not with "
        "--fp8-gemm-backend cublaslt");
  }
  if (options.device.deterministic && options.reuse_output_pages) {
    return invalid_argument(
        "--deterministic: with --reuse-output-pages what a prompt's pages hold depends on whether "
        "they were computed as output before; give one or the other");
  }
  const int64_t longest = local->model_config_.max_position_embeddings;
  if (options.max_model_len > longest) {
    return invalid_argument("--max-model-len {}: the model's max_position_embeddings is {}",
                            options.max_model_len, longest);
  }
  RETURN_IF_ERROR(local->model_config_.truncate_layers(options.num_layers));
  RETURN_IF_ERROR(check_dummy_zipf(local->model_config_, options.dummy_zipf));
  ASSIGN_OR_RETURN(local->device_, open_device(options.device));
  ASSIGN_OR_RETURN(local->kv_format_,
                   parse_kv_format(options.kv_cache_dtype, local->device_.is_cuda));
  local->set_defaults();
  RETURN_IF_ERROR(local->load_text());
  ASSIGN_OR_RETURN(local->speculative_, make_speculative_config(options.mtp, local->tokenizer()));
  ASSIGN_OR_RETURN(local->draft_policy_, make_draft_policy(options.mtp));
  RETURN_IF_ERROR(local->load_weights());
  return local;
}

Result<std::unique_ptr<LocalEngine>> LocalEngine::start(const EngineOptions& options) {
  ASSIGN_OR_RETURN(auto local, load(options));
  RETURN_IF_ERROR(local->start_engine());
  return local;
}

// What was not asked for, by the device.
void LocalEngine::set_defaults() {
  const auto set = [](int* option, int value) {
    if (*option == 0) *option = value;
  };
  const bool is_cuda = device_.is_cuda;
  set(&options_.max_num_seqs, is_cuda ? 256 : 64);
  set(&options_.max_batched_tokens, is_cuda ? 8192 : 1024);
  options_.max_batched_tokens =
      std::max(options_.max_batched_tokens, options_.max_num_seqs * (1 + options_.mtp.draft_len));
  set(&options_.chunk_tokens, is_cuda ? options_.max_batched_tokens : 512);
  options_.chunk_tokens = std::min(options_.chunk_tokens, options_.max_batched_tokens);
  if (options_.max_model_len == 0) options_.max_model_len = model_config_.max_position_embeddings;
}

Status LocalEngine::load_text() {
  const std::filesystem::path model_dir = options_.model_dir;
  if (!std::filesystem::exists(model_dir / "tokenizer.json")) {
    return options_.load_format == "dummy" ? use_byte_tokenizer() : ok_status();
  }
  ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(model_dir / "tokenizer.json"));
  if (tokenizer.vocab_size() > model_config_.vocab_size) {
    return invalid_argument("{}: {} tokens, but config.json's vocab_size is {}",
                            (model_dir / "tokenizer.json").string(), tokenizer.vocab_size(),
                            model_config_.vocab_size);
  }
  tokenizer_ = std::move(tokenizer);
  ASSIGN_OR_RETURN(tokenizer_config_, TokenizerConfig::load(model_dir));
  return ok_status();
}

// A vocabulary too small for bytes leaves the engine without text.
Status LocalEngine::use_byte_tokenizer() {
  std::vector<int32_t> special = model_config_.eos_token_ids;
  special.push_back(model_config_.bos_token_id);
  auto tokenizer = make_byte_tokenizer(static_cast<int32_t>(model_config_.vocab_size), special);
  if (!tokenizer.ok()) {
    return tokenizer.error().code == ErrorCode::kUnsupported ? ok_status()
                                                             : Status(tokenizer.error());
  }
  tokenizer_ = std::move(tokenizer).value();
  tokenizer_config_ = byte_tokenizer_config(model_config_.bos_token_id);
  return ok_status();
}

Status LocalEngine::load_weights() {
  const int64_t start_us = monotonic_us();
  const auto rows = tensor_table(model_config_);
  std::optional<Checkpoint> checkpoint;
  int num_mtp_modules = static_cast<int>(model_config_.num_nextn_predict_layers);
  if (options_.load_format == "dummy") {
    checkpoint = dummy_checkpoint(model_config_, rows, options_.dummy_seed, options_.dummy_zipf);
  } else {
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::open(options_.model_dir));
    ASSIGN_OR_RETURN(const TableMatch match, match_table(*checkpoint, model_config_, rows));
    num_mtp_modules = match.num_mtp_modules;
    if (match.num_unexpected > 0 && options_.num_layers == 0) {
      spdlog::warn("{}: {} tensors that this architecture does not have, the first is {}",
                   options_.model_dir, match.num_unexpected, match.first_unexpected);
    }
  }
  ASSIGN_OR_RETURN(num_mtp_modules, count_mtp_modules(num_mtp_modules));
  if (kv_format_ == KvFormat::kF8E4M3) {
    ASSIGN_OR_RETURN(kv_scales_,
                     load_kv_scales(*checkpoint, model_config_.num_layers + num_mtp_modules));
  }
  if (!kv_scales_.empty()) {
    const auto [least, most] = std::ranges::minmax(kv_scales_);
    spdlog::info("KV scales of the checkpoint: {} to {}", least, most);
  }
  {
    int64_t total_bytes = 0;
    for (const auto& row : rows) {
      const bool is_loaded = row.layer < model_config_.num_layers + num_mtp_modules &&
                             row.kind != TensorKind::kMtpEmbedding &&
                             row.kind != TensorKind::kMtpHead;
      if (is_loaded) total_bytes += stored_bytes(model_config_, row);
    }
    ProgressBar progress("loading weights", total_bytes / kMiB, "MiB",
                         options_.show_progress && total_bytes > 256 * kMiB);
    int64_t bytes = 0;
    const auto on_progress = [&](int64_t num_bytes) {
      const int64_t before = bytes / kMiB;
      bytes += num_bytes;
      progress.advance(bytes / kMiB - before);
    };
    ASSIGN_OR_RETURN(weights_, load_model_weights(model_config_, *checkpoint,
                                                  options_.max_model_len + draft_overshoot(),
                                                  *device_.backend, on_progress, num_mtp_modules));
  }
  spdlog::info("weights loaded in {:.2f} s to {}: {} parameters, {} active a token",
               static_cast<double>(monotonic_us() - start_us) * 1e-6, device_.name,
               model_config_.num_total_parameters(), model_config_.num_active_parameters());
  return ok_status();
}

Result<int> LocalEngine::count_mtp_modules(int num_there) const {
  const int num_needed = speculative_.num_modules();
  if (num_needed <= num_there) return num_needed;
  return invalid_argument("--mtp {} --mtp-mode {}: needs {} MTP module{}, {} has {}{}",
                          options_.mtp.draft_len, options_.mtp.mode, num_needed,
                          num_needed == 1 ? "" : "s", options_.model_dir, num_there,
                          options_.num_layers > 0 ? " behind the first --num-layers" : "");
}

int64_t LocalEngine::draft_overshoot() const {
  SchedulerConfig scheduler;
  scheduler.draft_len = speculative_.draft_len;
  scheduler.max_steps_in_flight = options_.steps_in_flight;
  return scheduler.max_overshoot();
}

Result<ExecutorConfig> LocalEngine::executor_config() const {
  ExecutorConfig executor;
  executor.speculative = speculative_;
  executor.captures_without_drafts = draft_policy_.max_rows > 0;
  executor.kv_format = kv_format_;
  executor.kv_scales = kv_scales_;
  executor.max_num_slots = options_.max_num_seqs;
  executor.max_batched_tokens = options_.max_batched_tokens;
  executor.max_pages_per_slot = pages_for(options_.max_model_len + draft_overshoot());
  // A step's deltas go in one round even if every sequence gets a new token mask.
  executor.delta_block_bytes += options_.max_num_seqs * (model_config_.vocab_size / 8 + 64);
  executor.num_pages = 1;
  const int64_t page_bytes =
      Executor::kv_pool_bytes(executor, model_config_, device_.backend->activation_dtype());
  executor.num_pages = 0;
  if (options_.kv_cache_mib > 0) {
    ASSIGN_OR_RETURN(executor.num_pages,
                     count_asked_pages(options_.kv_cache_mib, options_.max_model_len,
                                       executor.max_pages_per_slot, page_bytes));
  } else if (!device_.is_cuda) {
    ASSIGN_OR_RETURN(executor.num_pages, count_cpu_pages(options_, device_.memory_bytes,
                                                         executor.max_pages_per_slot, page_bytes));
  }
  if (!device_.is_cuda) return executor;
  executor.memory_limit_bytes = static_cast<int64_t>(static_cast<double>(device_.memory_bytes) *
                                                     options_.gpu_memory_fraction);
  executor.weights_bytes = device_.memory_bytes - device_.backend->free_memory_bytes();
  executor.warm_up = true;
  if (!options_.no_graphs) executor.decode_batch_sizes = graph_sizes(options_.max_num_seqs);
  return executor;
}

// Blocks of a page each. A copy that fails is told to the log; the page is computed instead.
Status LocalEngine::make_host_tier() {
  if (options_.host_kv_cache_mib == 0) return ok_status();
  const int64_t page_bytes = executor_->memory().page_bytes;
  const int64_t num_blocks = options_.host_kv_cache_mib * kMiB / page_bytes;
  if (options_.no_prefix_cache || num_blocks < 1 || num_blocks > kMaxHostBlocks) {
    return invalid_argument("--host-kv-cache-mib {}: {}", options_.host_kv_cache_mib,
                            options_.no_prefix_cache
                                ? std::string("needs the prefix cache")
                                : fmt::format("{} pages of {} bytes, must be 1 to {}", num_blocks,
                                              page_bytes, kMaxHostBlocks));
  }
  try {
    host_kv_memory_ = device_.backend->allocate_staging(num_blocks * page_bytes);
  } catch (const std::exception& failure) {
    return invalid_argument("--host-kv-cache-mib {}: the host has not that much memory ({})",
                            options_.host_kv_cache_mib, failure.what());
  }
  char* memory = static_cast<char*>(host_kv_memory_.data());
  host_tier_ = std::make_unique<HostTier>(
      HostTier::Config{.num_blocks = static_cast<int32_t>(num_blocks)},
      [executor = executor_.get(), memory, page_bytes](const HostTier::Job& job) {
        try {
          char* block = memory + job.block * page_bytes;
          job.to_device ? executor->load_page(job.page, block)
                        : executor->save_page(job.page, block);
          return true;
        } catch (const std::exception& failure) {
          spdlog::error("a page was not copied: {}", failure.what());
          return false;
        }
      });
  spdlog::info("host KV tier: {} pages of 64 tokens, {} MiB", num_blocks,
               options_.host_kv_cache_mib);
  return ok_status();
}

Status LocalEngine::start_engine() {
  ASSIGN_OR_RETURN(const ExecutorConfig executor, executor_config());
  EngineConfig config;
  config.model.name = std::filesystem::path(options_.model_dir).filename().string();
  config.model.vocab_size = static_cast<int32_t>(model_config_.vocab_size);
  config.model.max_model_len = static_cast<int32_t>(options_.max_model_len);
  config.model.draft_len = speculative_.draft_len;
  config.model.simulated_acceptance = speculative_.simulated_acceptance;
  config.model.eos_token_ids = model_config_.eos_token_ids;
  config.scheduler.max_num_slots = options_.max_num_seqs;
  config.scheduler.max_model_len = static_cast<int32_t>(options_.max_model_len);
  config.scheduler.max_batched_tokens = options_.max_batched_tokens;
  config.scheduler.max_chunk_tokens = options_.chunk_tokens;
  config.scheduler.max_steps_in_flight = options_.steps_in_flight;
  config.scheduler.enable_prefix_cache = !options_.no_prefix_cache;
  config.scheduler.exact_prefix_reuse = !options_.reuse_output_pages;
  config.scheduler.draft_len = speculative_.draft_len;
  config.scheduler.draft_policy = draft_policy_;
  config.scheduler.decode_batch_sizes = executor.decode_batch_sizes;
  CHECK(executor.max_pages_per_slot == config.scheduler.max_pages_per_slot(),
        executor.max_pages_per_slot);

  const int64_t start_us = monotonic_us();
  ASSIGN_OR_RETURN(executor_,
                   Executor::create(executor, model_config_, weights_, *device_.backend));
  const ExecutorMemory& memory = executor_->memory();
  config.scheduler.num_pages = static_cast<int32_t>(memory.num_pages);
  RETURN_IF_ERROR(config.scheduler.validate());
  log_memory(memory, device_);
  spdlog::info("{} decode graphs; set up in {:.2f} s", executor.decode_batch_sizes.size(),
               static_cast<double>(monotonic_us() - start_us) * 1e-6);
  RETURN_IF_ERROR(make_host_tier());
  engine_ = std::make_unique<Engine>(std::move(config), *executor_, tokenizer(), host_tier_.get());
  return ok_status();
}

}  // namespace deepflight
