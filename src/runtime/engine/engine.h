// Engine: the loop of one node behind InferenceService. One thread plans, launches, collects and
// delivers; submit() and cancel() only leave notes for it.
//
//     requests -> scheduler -> StepPlan -> executor -> StepResult -> detokenize, stop -> events
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/engine/inference_service.h"
#include "runtime/engine/text_output.h"
#include "runtime/executor/executor.h"
#include "runtime/scheduler/scheduler.h"
#include "text/tokenizer.h"

namespace deepflight {

struct EngineConfig {
  ModelInfo model;
  SchedulerConfig scheduler;
};

class Engine final : public InferenceService {
 public:
  // `tokenizer` may be null: then requests carry no stop strings and events no text. References
  // must outlive the engine.
  Engine(EngineConfig config, Executor& executor, const Tokenizer* tokenizer,
         PrefixSource* source = nullptr);
  // Aborts what still runs.
  ~Engine() override;

  const ModelInfo& model_info() const override { return config_.model; }
  Status submit(GenerationRequest request, EventCallback on_event) override;
  void cancel(const std::string& request_id) override;
  ServiceStats stats() const override;

  // Takes no more requests from now on.
  void begin_drain();
  // Waits until every accepted request has ended; false if that took longer than timeout_us.
  bool wait_until_idle(int64_t timeout_us);

 private:
  struct Request {
    std::string id;
    std::shared_ptr<const SamplingParams> sampling;
    EventCallback on_event;
    int num_unfinished = 0;
    int64_t arrival_us = 0;
  };
  struct Choice {
    std::shared_ptr<Request> request;
    int choice_idx = 0;
    TextOutput output;
  };
  struct Submission {
    GenerationRequest request;
    EventCallback on_event;
    int64_t arrival_us = 0;
  };

  Status check(const GenerationRequest& request) const;
  void loop();
  bool take_notes();
  void start(Submission submission);
  void abort(const std::string& request_id);
  void launch_steps();
  void collect_step();
  void deliver(SequenceUpdate update);
  void finish_choice(uint64_t sequence_id, GenerationEvent event);
  void publish_stats();

  const EngineConfig config_;
  Executor& executor_;
  const Tokenizer* tokenizer_;

  // Of the loop thread.
  Scheduler scheduler_;
  std::unordered_map<uint64_t, Choice> choices_;                      // by sequence id
  std::unordered_map<std::string, std::vector<uint64_t>> sequences_;  // by request id
  std::deque<uint64_t> launched_steps_;
  DraftStats drafts_;
  uint64_t next_sequence_id_ = 1;
  std::mt19937_64 seeds_;

  // Shared with callers.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::deque<Submission> submissions_;
  std::vector<std::string> cancellations_;
  std::unordered_map<std::string, int> live_ids_;  // accepted and not yet ended
  ServiceStats stats_;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace deepflight
