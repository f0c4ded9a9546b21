// The golden fixtures: what transformers computed, and the forward pass over any backend.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "model/deepseek/config.h"
#include "model/deepseek/decoder.h"
#include "model/deepseek/model_weights.h"
#include "model/weights/safetensors.h"
#include "runtime/executor/step_buffers.h"
#include "tensor/float_formats.h"

namespace deepflight {

inline constexpr int64_t kMaxPositions = 256;

struct Golden {
  std::vector<int32_t> token_ids;
  std::vector<float> logits;  // [token_ids.size(), vocab]
  std::vector<int32_t> greedy_ids;
};

inline std::vector<float> read_floats(const SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.view(*file.find(name)).value();
  std::vector<float> values(tensor.num_elements());
  to_f32(tensor, values.data());
  return values;
}

inline std::vector<int32_t> read_ids(const SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.view(*file.find(name)).value();
  std::vector<int32_t> values(tensor.num_elements());
  std::memcpy(values.data(), tensor.raw(), values.size() * sizeof(int32_t));
  return values;
}

inline std::vector<Golden> read_goldens(const std::filesystem::path& dir) {
  const auto file = SafetensorsFile::open(dir / "golden.safetensors").value();
  std::vector<Golden> goldens;
  while (true) {
    const std::string prefix = "prompt_" + std::to_string(goldens.size());
    if (file.find(prefix + ".token_ids") == nullptr) return goldens;
    goldens.push_back({read_ids(file, prefix + ".token_ids"), read_floats(file, prefix + ".logits"),
                       read_ids(file, prefix + ".greedy_ids")});
  }
}

// Largest difference relative to the largest magnitude.
inline double relative_error(const float* got, const std::vector<float>& want) {
  double largest = 0;
  double error = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::fabs(double{want[i]}));
    error = std::max(error, std::fabs(double{got[i]} - want[i]));
    if (std::isnan(got[i])) return INFINITY;
  }
  return error / largest;
}

// The median over positions of a position's largest difference, relative to the largest magnitude.
inline double median_row_error(const std::vector<float>& got, const std::vector<float>& want,
                               int64_t vocab_size) {
  double largest = 0;
  for (const float value : want) largest = std::max(largest, std::fabs(double{value}));
  std::vector<double> errors;
  for (size_t row = 0; row < want.size(); row += vocab_size) {
    double error = 0;
    for (int64_t i = 0; i < vocab_size; ++i) {
      error = std::max(error, std::fabs(double{got[row + i]} - want[row + i]));
    }
    errors.push_back(error / largest);
  }
  std::nth_element(errors.begin(), errors.begin() + errors.size() / 2, errors.end());
  return errors[errors.size() / 2];
}

// A model directory and the forward pass of its model.
class ModelFixture {
 public:
  explicit ModelFixture(const std::filesystem::path& dir)
      : dir_(dir), config_(DeepseekConfig::load(dir_).value()) {}

  const DeepseekConfig& config() const { return config_; }
  bool is_fp8() const { return config_.quantization == WeightQuantization::kFp8Block128; }

  ModelWeights load_weights(Backend& backend) const {
    const auto checkpoint = Checkpoint::open(dir_).value();
    return load_model_weights(config_, checkpoint, kMaxPositions, backend, {}).value();
  }

  // Logits of all positions of a prompt, computed in chunks, by the absorbed or expanded road.
  std::vector<float> all_logits(Backend& backend, const ModelWeights& weights, KvFormat kv_format,
                                const std::vector<int32_t>& tokens, int64_t chunk,
                                bool absorbed) const {
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    const int64_t num_pages = (kMaxPositions + kKvPageTokens - 1) / kKvPageTokens;
    const StepLimits limits{num_tokens, num_pages, num_tokens, config_.vocab_size};
    StateBuffers state(limits, backend);
    const int64_t max_inputs = max_inputs_bytes(limits);
    const Buffer staging = backend.allocate_staging(max_inputs);
    const Buffer inputs_memory = backend.allocate(max_inputs);
    DecoderWorkspace workspace(config_, num_tokens, num_tokens, backend);
    Decoder decoder(config_, weights, backend, workspace);
    KvPool pool{nullptr, kv_format, num_pages, config_.num_layers, config_.kv_token_dim()};
    const Buffer memory = backend.allocate(pool.size_bytes());
    pool.base = memory.data();
    // What no token has written must not be read.
    const std::vector<uint8_t> poison(pool.size_bytes(), 0xff);  // NaN in every format
    backend.copy_in(pool.base, poison.data(), pool.size_bytes());
    std::vector<int32_t> pages;  // in an order of their own
    for (int64_t i = 0; i < num_pages; ++i) {
      pages.push_back(static_cast<int32_t>((i * 3 + 1) % num_pages));
    }
    backend.copy_in(state.state.page_table.raw(), pages.data(), num_pages * 4);
    std::vector<float> logits;
    for (int64_t start = 0; start < num_tokens; start += chunk) {
      const int64_t length = std::min(chunk, num_tokens - start);
      const StepCounts counts{.num_tokens = length,
                              .num_absorbed_tokens = absorbed ? length : 0,
                              .num_absorbed_sequences = absorbed ? 1 : 0,
                              .num_expanded_sequences = absorbed ? 0 : 1,
                              .num_sampled_rows = length};
      Carver host_carver(staging.data());
      StepInputs host = carve_inputs(counts, host_carver);
      host.absorbed.query_offsets.data<int32_t>()[0] = 0;
      host.expanded.query_offsets.data<int32_t>()[0] = 0;
      AttentionBatch& batch = absorbed ? host.absorbed : host.expanded;
      batch.query_offsets.data<int32_t>()[0] = 0;
      batch.query_offsets.data<int32_t>()[1] = static_cast<int32_t>(length);
      batch.kv_lens.data<int32_t>()[0] = static_cast<int32_t>(start + length);
      batch.slots.data<int32_t>()[0] = 0;
      for (int64_t i = 0; i < length; ++i) {
        host.token_ids.data<int32_t>()[i] = tokens[start + i];
        host.positions.data<int32_t>()[i] = static_cast<int32_t>(start + i);
        host.token_slots.data<int32_t>()[i] = 0;
        host.sampled_token_idx.data<int32_t>()[i] = static_cast<int32_t>(i);
        host.sampled_slots.data<int32_t>()[i] = 0;
      }
      backend.copy_in(inputs_memory.data(), staging.data(), host_carver.used_bytes());
      Carver device_carver(inputs_memory.data());
      StepInputs device_inputs = carve_inputs(counts, device_carver);
      device_inputs.expanded.host_query_offsets = host.expanded.query_offsets.data<int32_t>();
      device_inputs.expanded.host_kv_lens = host.expanded.kv_lens.data<int32_t>();
      backend.prepare_step(state.state, device_inputs);
      const auto view = decoder.forward(state.state, device_inputs, pool);
      logits.resize(logits.size() + view.num_elements());
      backend.copy_out(logits.data() + logits.size() - view.num_elements(), view.raw(),
                       view.num_elements() * 4);
    }
    return logits;
  }

 private:
  std::filesystem::path dir_;
  DeepseekConfig config_;
};

// One fixture directory.
class GoldenFixture : public ModelFixture {
 public:
  explicit GoldenFixture(const std::string& name)
      : ModelFixture(std::filesystem::path("tests/golden") / name),
        goldens_(read_goldens(std::filesystem::path("tests/golden") / name)) {
    CHECK(goldens_.size() >= 2, name);
  }

  const std::vector<Golden>& goldens() const { return goldens_; }

 private:
  std::vector<Golden> goldens_;
};

inline std::vector<std::string> golden_fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden")) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace deepflight
