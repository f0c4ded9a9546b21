// /metrics: Prometheus' text format, and the names that the page reads, newest first. A server
// reports some of them; what it does not is null here.

const kNames = {
  inFlight: ["deepflight:num_requests_in_flight"],
  running: ["vllm:num_requests_running", "deepflight:num_requests_running"],
  waiting: ["vllm:num_requests_waiting", "deepflight:num_requests_waiting"],
  kvUsage: ["vllm:kv_cache_usage_perc"],
  kvPages: ["deepflight:kv_pages"],
  kvPagesUsed: ["deepflight:kv_pages_used"],
  kvPagesCached: ["deepflight:kv_pages_cached"],
  prefixQueries: ["vllm:prefix_cache_queries_total", "deepflight:prefix_cache_queries_total"],
  prefixHits: ["vllm:prefix_cache_hits_total", "deepflight:prefix_cache_hits_total"],
  promptTokens: ["vllm:prompt_tokens_total", "deepflight:prompt_tokens_total",
                 "deepflight:prefix_cache_queries_total"],
  outputTokens: ["vllm:generation_tokens_total", "deepflight:generation_tokens_total"],
  draftRows: ["vllm:spec_decode_num_drafts_total"],
  drafts: ["vllm:spec_decode_num_draft_tokens_total"],
  acceptedDrafts: ["vllm:spec_decode_num_accepted_tokens_total"],
  preemptions: ["vllm:num_preemptions_total", "deepflight:num_preemptions_total"],
  steps: ["deepflight:steps_total"],
  ttftSum: ["vllm:time_to_first_token_seconds_sum"],
  ttftCount: ["vllm:time_to_first_token_seconds_count"],
  itlSum: ["vllm:inter_token_latency_seconds_sum"],
  itlCount: ["vllm:inter_token_latency_seconds_count"],
};
const kMeans = new Set(["kvUsage"]);  // over the engines behind one server; the rest are sums

// {name: {sum, num}} over the label sets of each name.
function parse(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const match = line.match(/^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)/);
    const value = match ? Number(match[2]) : NaN;
    if (!Number.isFinite(value)) continue;
    const metric = metrics.get(match[1]) ?? { sum: 0, num: 0 };
    metric.sum += value;
    metric.num += 1;
    metrics.set(match[1], metric);
  }
  return metrics;
}

// A value or null for each key of kNames.
export function readMetrics(text) {
  const metrics = parse(text);
  const values = {};
  for (const [key, names] of Object.entries(kNames)) {
    const metric = names.map((name) => metrics.get(name)).find(Boolean);
    values[key] = metric ? metric.sum / (kMeans.has(key) ? metric.num : 1) : null;
  }
  if (values.kvUsage === null && values.kvPages) {
    values.kvUsage = values.kvPagesUsed / values.kvPages;
  }
  return values;
}

// The samples of the last two minutes.
export class History {
  samples = [];  // {time, ...values}, time in ms

  add(sample) {
    const last = this.last;
    // A counter that fell: the server is another one now.
    if (last && sample.steps < last.steps) this.samples = [];
    if (last && sample.promptTokens < last.promptTokens) this.samples = [];
    this.samples.push(sample);
    while (this.samples[0].time < sample.time - 120_000) this.samples.shift();
  }

  get last() {
    return this.samples.at(-1);
  }

  // What a counter grew by over the last `ms` (by as much as there is), and in which time.
  #growth(key, ms) {
    const last = this.last;
    const first = this.samples.find((sample) => sample.time >= last.time - ms - 200);
    if (first === last || last[key] === null || first[key] === null) return null;
    return { by: last[key] - first[key], ms: last.time - first.time };
  }

  perSecond(key, ms) {
    const growth = this.#growth(key, ms);
    return growth && (growth.by / growth.ms) * 1000;
  }

  // Growth of one counter over that of another; null where the other stood still.
  ratio(key, over, ms) {
    const part = this.#growth(key, ms);
    const whole = this.#growth(over, ms);
    return part && whole && whole.by > 0 ? part.by / whole.by : null;
  }
}
