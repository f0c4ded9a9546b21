// InferenceService: what the server (and later the coordinator's clients) see of an engine. One
// request in, a stream of events out, exactly one of which is terminal.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "grammar/constraint.h"
#include "runtime/request/sampling_params.h"
#include "runtime/speculative/draft_stats.h"

namespace deepflight {

enum class FinishReason : uint8_t {
  kStop,    // end of sequence, a stop string or a stop token
  kLength,  // max_tokens or the model's context
  kAbort,   // cancelled by the client or by a drain that ran out of time
  kError,   // the step failed; `error` says how
};

struct OutputLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;
  std::vector<std::pair<int32_t, float>> top;  // token id, logprob; most likely first
};

// New output of one choice. Text is whole UTF-8; text that may yet turn into a stop string is
// withheld until it is decided.
struct GenerationEvent {
  int choice_idx = 0;
  std::string text;
  std::vector<int32_t> token_ids;       // newly accepted, the end-of-sequence token among them
  std::vector<OutputLogprob> logprobs;  // one a token id where asked for
  std::optional<FinishReason> finish_reason;  // set on the choice's last event
  std::string matched_stop;                   // the stop string that ended it, if one did
  int num_cached_tokens = 0;                  // prompt tokens served by the prefix cache
  int num_drafts = 0;                         // verified in this event's step
  int num_accepted_drafts = 0;
  int64_t queued_us = 0;       // from the request's arrival to its first step
  int64_t elapsed_us = 0;      // from the request's arrival to this event
  std::optional<Error> error;  // with kError
};

struct GenerationRequest {
  std::string request_id;
  std::vector<int32_t> prompt_token_ids;
  SamplingParams sampling;
  std::string cache_salt;       // separates tenants in the prefix cache; empty: shared
  OutputConstraint constraint;  // of every choice
};

struct ModelInfo {
  std::string name;
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;  // prompt and output tokens together
  std::vector<int32_t> eos_token_ids;
  int32_t draft_len = 0;  // drafts per sequence and step; 0: none
  // Not negative: drafts are accepted with this probability, and speed is simulated.
  float simulated_acceptance = -1.0f;
};

// The device's bytes by use, as planned at the start.
struct DeviceMemory {
  int64_t weights_bytes = 0;
  int64_t state_bytes = 0;      // by slot: lengths, page tables, sampling
  int64_t workspace_bytes = 0;  // activations and inputs of a step
  int64_t scratch_bytes = 0;    // of ops
  int64_t graph_bytes = 0;      // captured steps
  int64_t kv_pool_bytes = 0;
};

// Pages in the host's memory behind the KV pool.
struct HostTierStats {
  int64_t num_pages = 0;  // 0: there is no such tier
  int64_t num_used_pages = 0;
  int64_t num_saved_pages = 0;   // copied to it since the start
  int64_t num_loaded_pages = 0;  // and from it
};

struct ServiceStats {
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_pages = 0;
  int64_t num_free_pages = 0;    // evictable cached pages included
  int64_t num_cached_pages = 0;  // of the free ones, those kept as prefix cache
  int64_t num_preemptions = 0;
  int64_t prefix_query_tokens = 0;
  int64_t prefix_hit_tokens = 0;
  HostTierStats host_tier;
  int64_t num_steps = 0;        // issued to the device
  int64_t num_graph_steps = 0;  // of these, captured decode steps
  int64_t issue_us_total = 0;   // host time that putting them on the device took
  int64_t wait_us_total = 0;    // host time spent waiting for their results
  DraftStats drafts;
  float simulated_acceptance = -1.0f;  // as in ModelInfo
  DeviceMemory memory;
};

// Called on the service's own thread, in order, never concurrently for one request; must be quick
// and must not throw. Each choice gets exactly one event with a finish_reason.
using EventCallback = std::function<void(GenerationEvent)>;

class InferenceService {
 public:
  virtual ~InferenceService() = default;

  virtual const ModelInfo& model_info() const = 0;

  // Takes a request or says at once what is wrong with it (range of a field, prompt too long,
  // draining). After an error no event comes. Thread-safe.
  virtual Status submit(GenerationRequest request, EventCallback on_event) = 0;

  // Ends a request's unfinished choices with kAbort. Unknown ids are ignored. Thread-safe.
  virtual void cancel(const std::string& request_id) = 0;

  virtual ServiceStats stats() const = 0;
};

}  // namespace deepflight
