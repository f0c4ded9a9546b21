// Counters and histograms live in a registry; the engine's own numbers are read when asked for.
#include "server/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

namespace deepflight {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::array<const char*, 4> kReasons = {"stop", "length", "abort", "error"};

// Steps of about 1.5 from 1 ms on: a limit on the time per token is told apart from half of it.
const std::vector<double> kTokenSeconds = {0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
                                           0.03,  0.04,  0.05,  0.075, 0.1,    0.15, 0.2,   0.3,
                                           0.5,   0.75,  1,     2,     5,      10,   30,    60};
const std::vector<double> kRequestSeconds = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75,
                                             1,     1.5,  2,    3,    5,   7.5, 10,  15,  20,
                                             30,    45,   60,   90,   120, 240, 480, 960, 1920};
const std::vector<double> kTokens = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                     1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

Histogram& histogram(prometheus::Registry& registry, const prometheus::Labels& labels,
                     const char* name, const char* help, const std::vector<double>& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, buckets);
}

prometheus::Counter& counter(prometheus::Registry& registry, const prometheus::Labels& labels,
                             const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

double seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

ClientMetric metric(const prometheus::Labels& labels, MetricType type, double value) {
  ClientMetric metric;
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

// Numbers that the engine keeps itself.
class Snapshot {
 public:
  explicit Snapshot(prometheus::Labels labels) : labels_(std::move(labels)) {}

  void gauge(const char* name, const char* help, double value) {
    add(name, help, MetricType::Gauge, value);
  }
  void count(const char* name, const char* help, int64_t value) {
    add(name, help, MetricType::Counter, static_cast<double>(value));
  }
  // One more value of the last one, under another label.
  void add_labelled(const char* label, const char* text, double value) {
    prometheus::Labels labels = labels_;
    labels[label] = text;
    families.back().metric.push_back(metric(labels, families.back().type, value));
  }
  void family(const char* name, const char* help, MetricType type) {
    families.push_back({name, help, type, {}});
  }

  std::vector<MetricFamily> families;

 private:
  void add(const char* name, const char* help, MetricType type, double value) {
    family(name, help, type);
    families.back().metric.push_back(metric(labels_, type, value));
  }

  const prometheus::Labels labels_;
};

void add_memory(const DeviceMemory& memory, Snapshot* snapshot) {
  snapshot->family("deepflight:device_memory_bytes",
                   "The device's memory by use, as planned at start.", MetricType::Gauge);
  for (const auto& [use, bytes] :
       {std::pair("weights", memory.weights_bytes), std::pair("state", memory.state_bytes),
        std::pair("workspace", memory.workspace_bytes), std::pair("scratch", memory.scratch_bytes),
        std::pair("graphs", memory.graph_bytes), std::pair("kv_cache", memory.kv_pool_bytes)}) {
    snapshot->add_labelled("use", use, static_cast<double>(bytes));
  }
}

void add_drafts(const ServiceStats& stats, Snapshot* snapshot) {
  const DraftStats& drafts = stats.drafts;
  snapshot->count("vllm:spec_decode_num_drafts_total", "Decode rows with drafts to verify.",
                  drafts.num_rows);
  snapshot->count("vllm:spec_decode_num_draft_tokens_total", "Draft tokens verified.",
                  drafts.num_draft_tokens);
  snapshot->count("vllm:spec_decode_num_accepted_tokens_total", "Of these, accepted.",
                  drafts.num_accepted);
  snapshot->family("vllm:spec_decode_num_accepted_tokens_per_pos_total",
                   "Draft tokens accepted, by their place behind the row's last token.",
                   MetricType::Counter);
  for (size_t i = 0; i < drafts.num_accepted_at.size(); ++i) {
    snapshot->add_labelled("position", std::to_string(i).c_str(),
                           static_cast<double>(drafts.num_accepted_at[i]));
  }
  snapshot->gauge("deepflight:simulated_acceptance",
                  "Probability with which drafts are accepted whatever the model says "
                  "(--mtp-simulate-acceptance); -1: they are verified.",
                  stats.simulated_acceptance);
}

}  // namespace

ServerMetrics::ServerMetrics(const std::string& model_name)
    : prompt_tokens_(counter(registry_, {{"model_name", model_name}}, "vllm:prompt_tokens_total",
                             "Prompt tokens of accepted requests, cached ones among them.")),
      output_tokens_(counter(registry_, {{"model_name", model_name}},
                             "vllm:generation_tokens_total", "Output tokens.")),
      first_token_s_(
          histogram(registry_, {{"model_name", model_name}}, "vllm:time_to_first_token_seconds",
                    "From a request's arrival to a choice's first token.", kTokenSeconds)),
      inter_token_s_(histogram(registry_, {{"model_name", model_name}},
                               "vllm:inter_token_latency_seconds",
                               "Between the steps that gave a choice tokens.", kTokenSeconds)),
      per_token_s_(histogram(
          registry_, {{"model_name", model_name}}, "vllm:request_time_per_output_token_seconds",
          "A choice's mean time per output token after the first.", kTokenSeconds)),
      request_s_(histogram(registry_, {{"model_name", model_name}},
                           "vllm:e2e_request_latency_seconds",
                           "From a request's arrival to a choice's end.", kRequestSeconds)),
      queue_s_(histogram(registry_, {{"model_name", model_name}}, "vllm:request_queue_time_seconds",
                         "From a request's arrival to a choice's first step.", kRequestSeconds)),
      prefill_s_(histogram(registry_, {{"model_name", model_name}},
                           "vllm:request_prefill_time_seconds",
                           "From a choice's first step to its first token.", kRequestSeconds)),
      decode_s_(histogram(registry_, {{"model_name", model_name}},
                          "vllm:request_decode_time_seconds",
                          "From a choice's first token to its last.", kRequestSeconds)),
      prompt_len_(histogram(registry_, {{"model_name", model_name}}, "vllm:request_prompt_tokens",
                            "Tokens of a prompt.", kTokens)),
      output_len_(histogram(registry_, {{"model_name", model_name}},
                            "vllm:request_generation_tokens", "Output tokens of a choice.",
                            kTokens)),
      labels_({{"model_name", model_name}}) {
  auto& finished = prometheus::BuildCounter()
                       .Name("vllm:request_success_total")
                       .Help("Choices that ended, by how.")
                       .Register(registry_);
  for (size_t i = 0; i < kReasons.size(); ++i) {
    finished_[i] = &finished.Add({{"model_name", model_name}, {"finished_reason", kReasons[i]}});
  }
}

void ServerMetrics::take_prompt(int64_t num_tokens) {
  prompt_tokens_.Increment(static_cast<double>(num_tokens));
  prompt_len_.Observe(static_cast<double>(num_tokens));
}

void ServerMetrics::take(const GenerationEvent& event, Choice* choice) {
  if (const auto count = static_cast<int64_t>(event.token_ids.size()); count > 0) {
    output_tokens_.Increment(static_cast<double>(count));
    if (choice->num_tokens == 0) {
      choice->first_token_us = event.elapsed_us;
      choice->queued_us = event.queued_us;
      first_token_s_.Observe(seconds(event.elapsed_us));
    } else {
      inter_token_s_.Observe(seconds(event.elapsed_us - choice->last_token_us));
    }
    choice->num_tokens += count;
    choice->last_token_us = event.elapsed_us;
  }
  if (!event.finish_reason) return;
  finished_[static_cast<size_t>(*event.finish_reason)]->Increment();
  output_len_.Observe(static_cast<double>(choice->num_tokens));
  request_s_.Observe(seconds(event.elapsed_us));
  if (choice->num_tokens == 0) return;
  queue_s_.Observe(seconds(choice->queued_us));
  prefill_s_.Observe(seconds(choice->first_token_us - choice->queued_us));
  const double decode_s = seconds(choice->last_token_us - choice->first_token_us);
  decode_s_.Observe(decode_s);
  if (choice->num_tokens > 1) {
    per_token_s_.Observe(decode_s / static_cast<double>(choice->num_tokens - 1));
  }
}

std::string ServerMetrics::text(const ServiceStats& stats, int64_t num_in_flight) const {
  Snapshot now(labels_);
  const int64_t num_used = stats.num_pages - stats.num_free_pages;
  now.gauge("vllm:num_requests_running", "Sequences that have a slot.",
            static_cast<double>(stats.num_running));
  now.gauge("vllm:num_requests_waiting", "Sequences that wait for a slot.",
            static_cast<double>(stats.num_waiting));
  now.gauge(
      "vllm:kv_cache_usage_perc", "Share of the KV pages that running sequences hold, 0 to 1.",
      stats.num_pages > 0 ? static_cast<double>(num_used) / static_cast<double>(stats.num_pages)
                          : 0.0);
  now.count("vllm:num_preemptions_total", "Sequences put back for want of KV pages.",
            stats.num_preemptions);
  now.count("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
            stats.prefix_query_tokens);
  now.count("vllm:prefix_cache_hits_total", "Prompt tokens that the prefix cache had.",
            stats.prefix_hit_tokens);
  now.gauge("deepflight:num_requests_in_flight", "Requests accepted and not yet answered.",
            static_cast<double>(num_in_flight));
  now.gauge("deepflight:kv_pages", "Pages of the KV cache.", static_cast<double>(stats.num_pages));
  now.gauge("deepflight:kv_pages_used", "KV pages that running sequences hold.",
            static_cast<double>(num_used));
  now.gauge("deepflight:kv_pages_cached", "KV pages that nothing holds, kept as prefix cache.",
            static_cast<double>(stats.num_cached_pages));
  add_drafts(stats, &now);
  add_memory(stats.memory, &now);
  now.count("deepflight:steps_total", "Steps issued to the device.", stats.num_steps);
  now.count("deepflight:graph_steps_total", "Of these, captured decode steps.",
            stats.num_graph_steps);
  now.count("deepflight:step_issue_us_total", "Host time that putting steps on the device took.",
            stats.issue_us_total);
  now.gauge("deepflight:host_kv_pages", "Pages that the host's memory can keep.",
            static_cast<double>(stats.host_tier.num_pages));
  now.gauge("deepflight:host_kv_pages_used", "Pages that it keeps.",
            static_cast<double>(stats.host_tier.num_used_pages));
  now.count("deepflight:host_kv_saved_pages_total", "Pages copied to the host's memory.",
            stats.host_tier.num_saved_pages);
  now.count("deepflight:host_kv_loaded_pages_total", "Pages copied from it.",
            stats.host_tier.num_loaded_pages);
  now.count("deepflight:step_wait_us_total", "Host time spent waiting for results.",
            stats.wait_us_total);
  for (MetricFamily& family : registry_.Collect()) now.families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(now.families);
}

}  // namespace deepflight
