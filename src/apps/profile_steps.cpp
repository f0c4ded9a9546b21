// Plans without a scheduler.
#include "apps/profile_steps.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "compute/ops/kv_token.h"

namespace deepflight {
namespace {

// Tokens of normal values, one after the other.
std::vector<uint8_t> random_tokens(const KvPool& pool, int64_t num_tokens) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> bytes(num_tokens * pool.token_bytes());
  std::vector<float> values(pool.token_dim);
  for (int64_t token = 0; token < num_tokens; ++token) {
    for (float& value : values) value = normal(engine);
    store_kv_token(pool, 0, values.data(), bytes.data() + token * pool.token_bytes());
  }
  return bytes;
}

int64_t pages_of_sequence(const StepShape& shape, int64_t num_steps) {
  const int64_t tokens = shape.decode_rows > 0
                             ? shape.decode_context + num_steps * (1 + shape.draft_len)
                             : shape.prefill_prefix + shape.prefill_tokens;
  return pages_for(tokens + 2 * shape.draft_len);
}

}  // namespace

ProfileSteps::ProfileSteps(Executor& executor, const DeepseekConfig& model_config,
                           const ExecutorConfig& config)
    : executor_(executor), model_config_(model_config), config_(config) {
  pages_.resize(executor.memory().num_pages);
  std::iota(pages_.begin(), pages_.end(), 0);
  std::shuffle(pages_.begin(), pages_.end(), std::mt19937(2));  // as after hours of serving
}

int64_t ProfileSteps::num_pages(const StepShape& shape, int64_t num_steps) {
  return std::max<int64_t>(1, shape.decode_rows) * pages_of_sequence(shape, num_steps);
}

void ProfileSteps::fill_pages(int64_t num_pages) {
  CHECK(num_pages <= static_cast<int64_t>(pages_.size()), num_pages, pages_.size());
  if (num_pages <= num_filled_) return;
  const int64_t num_layers = model_config_.num_layers + config_.speculative.num_modules();
  const KvPool pool{.format = config_.kv_format,
                    .token_dim = model_config_.kv_token_dim(),
                    .rope_dim = model_config_.qk_rope_head_dim};
  auto bytes = random_tokens(pool, num_layers * kPageTokens);
  bytes.resize(executor_.memory().page_bytes);  // states at the page's end: zeros
  for (; num_filled_ < num_pages; ++num_filled_) {
    executor_.overwrite_page(pages_[num_filled_], bytes);
  }
}

void ProfileSteps::prepare(const StepShape& shape, int64_t num_steps) {
  shape_ = shape;
  fill_pages(num_pages(shape, num_steps));
  if (shape.decode_rows == 0) return;
  // Each sequence computes the last token before the first decode step's.
  const int64_t num_tokens = std::max<int64_t>(1, shape.decode_context - 1);
  const auto num_rows = static_cast<SlotId>(shape.decode_rows);
  StepPlan plan;
  for (SlotId slot = 0; slot < num_rows; ++slot) {
    admit(slot, num_tokens, num_tokens - 1, pages_of_sequence(shape, num_steps), &plan);
    plan.prefill_chunks.push_back(
        {slot, ChunkKind::kPrompt, static_cast<int32_t>(num_tokens - 1), 1, true});
  }
  plan.next_draft_len = static_cast<int32_t>(shape.draft_len);
  launch(std::move(plan));
  executor_.collect();
  num_in_flight_ = 0;
}

void ProfileSteps::admit(SlotId slot, int64_t num_tokens, int64_t num_cached, int64_t num_pages,
                         StepPlan* plan) {
  std::vector<int32_t> tokens(num_tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * 7919 + slot) % model_config_.vocab_size);
  }
  plan->retired_slots.push_back(slot);
  plan->admissions.push_back({slot, std::make_shared<SamplingParams>(), 1, std::move(tokens),
                              static_cast<int32_t>(num_tokens), static_cast<int32_t>(num_cached)});
  const auto first = pages_.begin() + slot * num_pages;
  plan->page_grants.push_back({slot, 0, {first, first + num_pages}});
}

StepPlan ProfileSteps::decode_plan(int64_t padded_rows) {
  StepPlan plan;
  for (SlotId slot = 0; slot < shape_.decode_rows; ++slot) plan.decode_rows.push_back({slot});
  plan.padded_num_decode_rows = static_cast<int32_t>(padded_rows);
  plan.draft_len = plan.next_draft_len = static_cast<int32_t>(shape_.draft_len);
  return plan;
}

StepPlan ProfileSteps::prefill_plan() {
  StepPlan plan;
  const int64_t num_tokens = shape_.prefill_prefix + shape_.prefill_tokens;
  admit(0, num_tokens, shape_.prefill_prefix, pages_of_sequence(shape_, 0), &plan);
  plan.prefill_chunks.push_back({0, ChunkKind::kPrompt, static_cast<int32_t>(shape_.prefill_prefix),
                                 static_cast<int32_t>(shape_.prefill_tokens), true});
  return plan;
}

void ProfileSteps::launch(StepPlan plan) {
  plan.step_id = next_step_id_++;
  executor_.launch(std::move(plan));
  ++num_in_flight_;
}

void ProfileSteps::run(int64_t num_steps, int64_t padded_rows) {
  for (int64_t step = 0; step < num_steps; ++step) {
    launch(shape_.decode_rows > 0 ? decode_plan(padded_rows) : prefill_plan());
    if (num_in_flight_ < 2) continue;
    executor_.collect();
    --num_in_flight_;
  }
  for (; num_in_flight_ > 0; --num_in_flight_) executor_.collect();
}

}  // namespace deepflight
