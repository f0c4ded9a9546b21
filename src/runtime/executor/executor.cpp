// The two sides of a step: the queue to the executor's thread, and results out of staging.
#include "runtime/executor/executor.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace deepflight {

Result<std::unique_ptr<Executor>> Executor::create(const ExecutorConfig& config,
                                                   const DeepseekConfig& model_config,
                                                   const ModelWeights& weights, Backend& backend) {
  try {
    return std::make_unique<Executor>(config, model_config, weights, backend);
  } catch (const ExecutorMemoryError& error) {
    return invalid_argument("{}", error.what());
  }
}

Executor::~Executor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Executor::overwrite_page(PageId page, std::span<const uint8_t> bytes) {
  CHECK(static_cast<int64_t>(bytes.size()) == pool_.page_stride_bytes(), bytes.size(),
        pool_.page_stride_bytes());
  backend_.attach_thread();
  backend_.copy_in(page_address(page), bytes.data(), pool_.page_stride_bytes());
}

char* Executor::page_address(PageId page) const {
  CHECK(page >= 0 && page < pool_.num_pages, page, pool_.num_pages);
  return static_cast<char*>(pool_.base) + page * pool_.page_stride_bytes();
}

void Executor::save_page(PageId page, void* staging) const {
  backend_.copy_out_beside(staging, page_address(page), pool_.page_stride_bytes());
}

void Executor::load_page(PageId page, const void* staging) const {
  backend_.copy_in_beside(page_address(page), staging, pool_.page_stride_bytes());
}

void Executor::launch(StepPlan plan) {
  {
    std::lock_guard lock(mutex_);
    launched_.push_back(std::move(plan));
  }
  changed_.notify_all();
}

StepResult Executor::collect() {
  const int64_t start_us = monotonic_us();
  IssuedStep step;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !issued_.empty(); });
    step = std::move(issued_.front());
    issued_.pop_front();
  }
  // However the step ends, its staging is the next one's.
  struct Return {
    ~Return() {
      {
        std::lock_guard lock(executor->mutex_);
        executor->free_staging_.push_back(staging);
        executor->stats_.wait_us_total += wait_us;
      }
      executor->changed_.notify_all();
    }
    Executor* executor;
    Staging* staging;
    int64_t wait_us = 0;
  } on_return{this, step.staging};

  if (step.failure) std::rethrow_exception(step.failure);
  backend_.wait(step.event);
  const int64_t end_us = monotonic_us();
  on_return.wait_us = end_us - start_us;
  StepResult result = read_result(step);
  result.duration_us = end_us - step.start_us;
  return result;
}

ExecutorStats Executor::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Executor::thread_loop() {
  try {
    backend_.attach_thread();
    set_up();
  } catch (...) {
    setup_failure_ = std::current_exception();
  }
  const bool failed = setup_failure_ != nullptr;
  {
    std::lock_guard lock(mutex_);
    ready_ = true;
  }
  changed_.notify_all();
  if (!failed) issue_launched_steps();
  synchronize_quietly();  // the device's work ends before the memory that it uses
}

void Executor::issue_launched_steps() {
  while (true) {
    StepPlan plan;
    Staging* staging = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock,
                    [this] { return stopping_ || (!launched_.empty() && !free_staging_.empty()); });
      if (stopping_) return;
      plan = std::move(launched_.front());
      launched_.pop_front();
      staging = free_staging_.back();
      free_staging_.pop_back();
    }
    IssuedStep step = issue(std::move(plan), staging);
    {
      std::lock_guard lock(mutex_);
      issued_.push_back(std::move(step));
    }
    changed_.notify_all();
  }
}

// After a failure: staging is about to be used again, and whatever is wrong has been told already.
void Executor::synchronize_quietly() {
  try {
    backend_.synchronize();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

StepResult Executor::read_result(const IssuedStep& step) const {
  StepResult result;
  result.step_id = step.step_id;
  const StepCounts& counts = step.counts;
  if (counts.num_sampled_rows == 0) return result;
  Carver carver(step.staging->sampled.data());
  const SampledTokens sampled =
      carve_sampled(counts.num_sampled_rows, counts.num_results(), carver);
  const int32_t first_bad_row = *sampled.first_bad_row.data<int32_t>();
  CHECK(first_bad_row < 0, first_bad_row, "the row's logits are not finite: broken weights?");
  result.rows.reserve(step.rows.size());
  // Padding comes between the decode rows and the chunks.
  const int64_t num_chunks = counts.num_results() - counts.num_decode_rows;
  const int64_t num_decode_rows = static_cast<int64_t>(step.rows.size()) - num_chunks;
  for (int64_t i = 0; i < static_cast<int64_t>(step.rows.size()); ++i) {
    const bool is_chunk = i >= num_decode_rows;
    const int64_t at = is_chunk ? i - num_decode_rows + counts.num_decode_rows : i;
    const int64_t first_row =
        is_chunk ? at + counts.num_decode_rows * counts.draft_len : at * (1 + counts.draft_len);
    const int32_t num_accepted = sampled.num_accepted.data<int32_t>()[at];
    CHECK(num_accepted >= 1 && num_accepted <= 1 + counts.draft_len, num_accepted);
    RowResult& out = result.rows.emplace_back();
    out.slot = step.rows[i].slot;
    out.num_drafts = step.rows[i].num_drafts;
    const int32_t* tokens = sampled.tokens.data<int32_t>() + first_row;
    out.tokens.assign(tokens, tokens + num_accepted);
    if (step.rows[i].num_logprobs < 0) continue;
    for (int64_t row = first_row; row < first_row + num_accepted; ++row) {
      out.logprobs.push_back(read_logprobs(sampled, row, step.rows[i].num_logprobs));
    }
  }
  return result;
}

TokenLogprobs Executor::read_logprobs(const SampledTokens& sampled, int64_t row,
                                      int num_logprobs) const {
  TokenLogprobs entry{.logprob = sampled.logprobs.data<float>()[row]};
  const int64_t count = std::min<int64_t>(num_logprobs, model_config_.vocab_size);
  for (int64_t i = 0; i < count; ++i) {
    entry.top.emplace_back(sampled.top_ids.row<int32_t>(row)[i],
                           sampled.top_logprobs.row<float>(row)[i]);
  }
  return entry;
}

}  // namespace deepflight
