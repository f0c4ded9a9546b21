// Steps of a wanted shape, made by hand and run on an executor: what `profile` times. Sequences
// start with pages full of random KV in place of a computed past.
#pragma once

#include <cstdint>
#include <vector>

#include "model/deepseek/config.h"
#include "model/deepseek/step_costs.h"
#include "runtime/executor/executor.h"

namespace deepflight {

class ProfileSteps {
 public:
  // The executor must run nothing else. Its pool is filled with random values at first use.
  ProfileSteps(Executor& executor, const DeepseekConfig& model_config,
               const ExecutorConfig& config);

  // Pages that run() will need for the shape and so many steps, with every draft accepted.
  static int64_t num_pages(const StepShape& shape, int64_t num_steps);

  // Puts the sequences of a decode shape in place, for at most num_steps steps; nothing to do for
  // a prefill shape. Contexts then grow by the tokens that a step accepts.
  void prepare(const StepShape& shape, int64_t num_steps);

  // Runs steps of the prepared shape, two in flight as in serving; returns when all are done.
  // padded_rows: batch size of the decode graph, 0: op by op.
  void run(int64_t num_steps, int64_t padded_rows);

 private:
  StepPlan decode_plan(int64_t padded_rows);
  StepPlan prefill_plan();
  void fill_pages(int64_t num_pages);
  void launch(StepPlan plan);
  void admit(SlotId slot, int64_t num_tokens, int64_t num_cached, int64_t num_pages,
             StepPlan* plan);

  Executor& executor_;
  const DeepseekConfig& model_config_;
  const ExecutorConfig& config_;
  StepShape shape_;
  std::vector<PageId> pages_;  // filled ones, in the order in which sequences take them
  int64_t num_filled_ = 0;
  uint64_t next_step_id_ = 1;
  int num_in_flight_ = 0;
};

}  // namespace deepflight
