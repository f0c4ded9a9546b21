// LocalEngine: a model directory turned into a running engine on this machine, in the order of the
// memory plan: config, tokenizer, weights, KV pool, executor, engine. What serve, generate and
// bench have in common.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/devices.h"
#include "apps/mtp_options.h"
#include "base/result.h"
#include "model/deepseek/config.h"
#include "model/deepseek/model_weights.h"
#include "runtime/engine/engine.h"
#include "runtime/executor/executor.h"
#include "runtime/kvcache/host_tier.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace CLI {
class App;
}

namespace deepflight {

struct EngineOptions {
  std::string model_dir;
  std::string load_format = "auto";  // auto: the directory's safetensors; dummy: random weights
  DeviceOptions device;
  std::string kv_cache_dtype = "auto";  // auto: f32 on the CPU, bf16 on a GPU
  int max_num_seqs = 0;                 // 0: 64 on the CPU, 256 on a GPU
  int max_batched_tokens = 0;           // 0: 1024, 8192
  int chunk_tokens = 0;                 // 0: 512, max_batched_tokens
  int64_t max_model_len = 0;            // 0: the model's max_position_embeddings
  int64_t host_kv_cache_mib = 0;        // host memory behind it; 0: none
  int64_t kv_cache_mib = 0;  // 0: CPU, a quarter of the memory; GPU, what the memory plan leaves
  double gpu_memory_fraction = 0.9;  // of the GPU's memory, for everything
  bool no_graphs = false;            // GPU: run decode steps op by op
  int steps_in_flight = 2;
  bool no_prefix_cache = false;
  bool reuse_output_pages = false;
  MtpOptions mtp;
  int64_t num_layers = 0;  // only the first ones; 0: all
  uint64_t dummy_seed = 0;
  double dummy_zipf = 0.0;  // skew of the experts' load; 0: even
  bool show_progress = true;
};

// The flags of EngineOptions, the same in every subcommand.
void add_engine_options(CLI::App* app, EngineOptions* options);

class LocalEngine {
 public:
  // Errors name the file or flag. A directory without tokenizer.json gives an engine without text,
  // or with one of bytes (text/byte_tokenizer.h) where the weights are dummy too.
  static Result<std::unique_ptr<LocalEngine>> start(const EngineOptions& options);

  // The same without an engine: what `profile` runs steps of its own making on.
  static Result<std::unique_ptr<LocalEngine>> load(const EngineOptions& options);
  // Limits, formats and memory of an executor for the options on the loaded model's device.
  // num_pages is 0 where the memory plan decides.
  Result<ExecutorConfig> executor_config() const;

  Engine& engine() { return *engine_; }
  const EngineOptions& options() const { return options_; }  // with the device's defaults
  const Device& device() const { return device_; }
  const ModelWeights& weights() const { return weights_; }
  const DeepseekConfig& model_config() const { return model_config_; }
  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  const TokenizerConfig& tokenizer_config() const { return tokenizer_config_; }

 private:
  LocalEngine() = default;
  void set_defaults();
  Status load_text();
  Status use_byte_tokenizer();
  Status load_weights();
  // Modules that --mtp needs; an error if the checkpoint has fewer.
  Result<int> count_mtp_modules(int num_there) const;
  // Tokens of a sequence past --max-model-len that drafts may write.
  int64_t draft_overshoot() const;
  Status make_host_tier();
  Status start_engine();

  // Members are destroyed from the last to the first: users before what they use.
  EngineOptions options_;
  DeepseekConfig model_config_;
  TokenizerConfig tokenizer_config_;
  std::optional<Tokenizer> tokenizer_;
  SpeculativeConfig speculative_;
  DraftPolicyConfig draft_policy_;
  Device device_;
  ModelWeights weights_;
  KvFormat kv_format_ = KvFormat::kF32;
  std::vector<float> kv_scales_;  // of an e4m3 KV cache, a scale a layer; empty: all are 1
  std::unique_ptr<Executor> executor_;
  Buffer host_kv_memory_;
  std::unique_ptr<HostTier> host_tier_;  // null: none
  std::unique_ptr<Engine> engine_;
};

}  // namespace deepflight
