// Executor: runs StepPlans on one rank, in order. launch() returns at once. A thread of the
// executor issues each plan to the device without waiting for it, and collect() waits for the
// oldest step, so that the loop plans step n+1 while n runs.
//
// The tokens of a running sequence that are not yet known to the host (what step n samples) are
// read by step n+1 from device state; the host writes that state only as deltas of a plan. What a
// step copies from and to the host lies in a staging block that is the step's until its result has
// been read.
//
//     executor.cpp        threads, launch, collect      executor_setup.cpp   memory, graphs
//     step_issue.cpp      a plan put on the device      step_deltas.h        admissions, grants
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/result.h"
#include "compute/ops/backend.h"
#include "model/deepseek/config.h"
#include "model/deepseek/decoder.h"
#include "model/deepseek/model_weights.h"
#include "model/deepseek/mtp.h"
#include "runtime/executor/executor_memory.h"
#include "runtime/executor/step_buffers.h"
#include "runtime/executor/step_deltas.h"
#include "runtime/request/step_plan.h"
#include "runtime/speculative/speculative_config.h"

namespace deepflight {

struct ExecutorConfig {
  int64_t num_pages = 0;  // 0: what memory_limit_bytes leaves
  int64_t max_num_slots = 0;
  int64_t max_batched_tokens = 0;
  int64_t max_pages_per_slot = 0;
  KvFormat kv_format = KvFormat::kF32;
  std::vector<float> kv_scales;  // of KvFormat::kF8E4M3, a scale a layer; empty: all are 1
  SpeculativeConfig speculative;
  bool captures_without_drafts = false;  // decode steps that neither verify nor make any, too

  // Decode steps of these sizes are captured, ascending: what the scheduler pads to. Empty: none.
  std::vector<int32_t> decode_batch_sizes;
  // Run the largest steps of every kind before anything else, so that the backend has all of its
  // scratch. A backend whose scratch is fixed by a capture needs it.
  bool warm_up = false;

  int64_t memory_limit_bytes = 0;  // of this process on the device, in all; 0: none
  int64_t weights_bytes = 0;       // what it has taken before: weights, the device's context
  int64_t max_num_pages = 0;       // of num_pages == 0: more are of no use; 0: any number

  int64_t delta_block_bytes = int64_t{1} << 20;  // at least; larger deltas go in several rounds
};

// Since the start, for metrics.
struct ExecutorStats {
  int64_t num_steps = 0;        // failed ones too
  int64_t num_graph_steps = 0;  // of these, captured decode steps
  int64_t issue_us_total = 0;   // the executor's thread putting steps on the device
  int64_t wait_us_total = 0;    // collect() waiting for results
};

class Executor {
 public:
  // Staging blocks: two steps in flight, and one whose result is being read.
  static constexpr int kNumStagingBlocks = 3;

  // References must outlive the executor. Throws ExecutorMemoryError if the plan does not fit.
  Executor(const ExecutorConfig& config, const DeepseekConfig& model_config,
           const ModelWeights& weights, Backend& backend);
  // The same with an error in place of the exception: one line, for the user.
  static Result<std::unique_ptr<Executor>> create(const ExecutorConfig& config,
                                                  const DeepseekConfig& model_config,
                                                  const ModelWeights& weights, Backend& backend);
  // Steps that are not yet issued never run.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Bytes of the KV pool of config.num_pages; `activation` is the backend's.
  static int64_t kv_pool_bytes(const ExecutorConfig& config, const DeepseekConfig& model_config,
                               DType activation);

  const ExecutorMemory& memory() const { return memory_; }
  ExecutorStats stats() const;

  // Puts `bytes`, [layer][64][token] in the pool's format, in the place of a page. Only while no
  // step is in flight.
  void overwrite_page(PageId page, std::span<const uint8_t> bytes);

  // A page to host memory, which must be the backend's staging, or from there; beside the steps, of
  // which none in flight may name the page for writing (or, to be loaded, at all). From any thread.
  void save_page(PageId page, void* staging) const;
  void load_page(PageId page, const void* staging) const;

  // Queues a step. The plan must follow from the ones before it (the scheduler's business).
  void launch(StepPlan plan);

  // The result of the oldest step that was launched and not collected; blocks until it is there.
  // Throws what the step threw: CheckFailure concerns that step alone, anything else is the
  // device's failure.
  StepResult collect();

 private:
  struct Slot {
    std::vector<int32_t> tokens;  // as admitted: prompt and replayed output; empty: no sequence
    int num_logprobs = -1;
    int32_t max_drafts = 0;
    int64_t admitted_in = 0;  // number of the step
  };
  char* page_address(PageId page) const;
  struct ResultRow {
    SlotId slot = 0;
    int num_logprobs = -1;
    int32_t num_drafts = 0;
  };
  // Host memory of one step.
  struct Staging {
    Buffer inputs;
    Buffer deltas;
    Buffer sampled;
  };
  struct IssuedStep {
    uint64_t step_id = 0;
    int64_t start_us = 0;
    Staging* staging = nullptr;
    StepCounts counts;            // padding included
    std::vector<ResultRow> rows;  // without padding
    StepEvent event;
    std::exception_ptr failure;
  };
  // The arrays of one step on the device, and what of drafts it makes.
  struct StepViews {
    StepInputs inputs;
    SampledTokens sampled;
    DraftInputs drafts;
    int64_t next_draft_len = 0;
  };
  // A captured decode step. Its ops refer to these views.
  struct DecodeGraph {
    StepViews views;
    StepGraph graph;
  };
  // Rows, drafts verified, drafts made.
  using GraphKey = std::array<int64_t, 3>;

  void thread_loop();
  void issue_launched_steps();
  StepResult read_result(const IssuedStep& step) const;
  TokenLogprobs read_logprobs(const SampledTokens& sampled, int64_t row, int num_logprobs) const;
  void synchronize_quietly();

  // Of the thread, step_issue.cpp.
  IssuedStep issue(StepPlan plan, Staging* staging);
  Slot& slot_at(SlotId slot);
  Slot& running_slot(SlotId slot);
  void take_deltas(StepPlan* plan);
  void take_admission(SlotAdmission* admission);
  void check_grant(const PageGrant& grant);
  void check_mask(const TokenMaskUpdate& update);
  void upload_deltas(const StepPlan& plan, Staging* staging);
  StepCounts count_work(const StepPlan& plan);
  StepInputs upload_inputs(const StepPlan& plan, const StepCounts& counts, Staging* staging);
  void list_result_rows(const StepPlan& plan, IssuedStep* step) const;
  StepViews device_views(const StepInputs& inputs, int64_t next_draft_len) const;
  void run_step(const StepViews& views);
  void copy_results(const IssuedStep& step);

  // Of the thread, executor_setup.cpp.
  void set_up();
  void use_pool(int64_t num_pages);
  void warm_up();
  std::vector<StepPlan> warm_up_plans() const;
  std::unique_ptr<DecodeGraph> capture_decode_step(const GraphKey& key);
  std::vector<GraphKey> graph_keys() const;
  void capture_decode_steps();
  int64_t measure_graph_bytes();
  int64_t available_bytes() const;

  const ExecutorConfig config_;
  const StepLimits limits_;
  const DeepseekConfig& model_config_;
  const ModelWeights& weights_;
  Backend& backend_;
  ExecutorMemory memory_;
  StateBuffers state_;
  Buffer inputs_memory_;
  Buffer sampled_memory_;
  Buffer drafts_memory_;
  Buffer deltas_memory_;
  DecoderWorkspace workspace_;
  Decoder decoder_;
  MtpDrafter drafter_;
  Buffer pool_memory_;
  KvPool pool_;
  std::vector<Slot> slots_;
  DeltaRounds deltas_;
  std::map<GraphKey, std::unique_ptr<DecodeGraph>> graphs_;
  int64_t num_issued_ = 0;
  std::vector<Staging> staging_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StepPlan> launched_;
  std::deque<IssuedStep> issued_;
  std::vector<Staging*> free_staging_;
  ExecutorStats stats_;
  bool ready_ = false;
  std::exception_ptr setup_failure_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace deepflight
