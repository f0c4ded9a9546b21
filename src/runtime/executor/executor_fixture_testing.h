// What tests of the executor over a late device share: one tiny model, a small configuration, and a
// step taken alone.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "runtime/executor/deferred_backend_testing.h"
#include "runtime/executor/executor.h"
#include "runtime/executor/executor_testing.h"

namespace deepflight {

inline ExecutorConfig small_executor_config() {
  ExecutorConfig config;
  config.num_pages = 24;
  config.max_num_slots = 4;
  config.max_batched_tokens = 256;
  config.max_pages_per_slot = 5;
  return config;
}

class DeferredExecutorTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model_ = new TinyModel; }
  static void TearDownTestSuite() { delete model_; }

  std::unique_ptr<Executor> make(const ExecutorConfig& config) {
    return std::make_unique<Executor>(config, model_->config, model_->weights, device_);
  }
  static StepResult run(Executor& executor, StepPlan plan) {
    executor.launch(std::move(plan));
    return executor.collect();
  }

  static inline TinyModel* model_ = nullptr;
  DeferredBackend device_{model_->backend};
};

}  // namespace deepflight
