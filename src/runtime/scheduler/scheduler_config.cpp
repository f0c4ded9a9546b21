// Ranges of SchedulerConfig and what follows from its fields.
#include "runtime/scheduler/scheduler_config.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace deepflight {
namespace {

Status check_at_least(const char* field, int64_t value, int64_t low) {
  if (value >= low) return ok_status();
  return invalid_argument("{} is {}, must be at least {}", field, value, low);
}

}  // namespace

Status SchedulerConfig::validate() const {
  RETURN_IF_ERROR(check_at_least("max_num_slots", max_num_slots, 1));
  RETURN_IF_ERROR(check_at_least("num_pages", num_pages, 1));
  RETURN_IF_ERROR(check_at_least("max_model_len", max_model_len, 2));
  RETURN_IF_ERROR(check_at_least("draft_len", draft_len, 0));
  RETURN_IF_ERROR(check_at_least("draft_policy.max_rows", draft_policy.max_rows, 0));
  RETURN_IF_ERROR(check_at_least("max_chunk_tokens", max_chunk_tokens, 1));
  RETURN_IF_ERROR(check_at_least("max_batched_tokens", max_batched_tokens,
                                 int64_t{max_num_slots} * (1 + draft_len)));
  RETURN_IF_ERROR(check_at_least("ageing_us_per_token", ageing_us_per_token, 0));
  RETURN_IF_ERROR(check_at_least("max_overtake_us", max_overtake_us, 0));
  RETURN_IF_ERROR(check_at_least("priority_us", priority_us, 0));
  if (max_steps_in_flight != 1 && max_steps_in_flight != 2) {
    return invalid_argument("max_steps_in_flight is {}, must be 1 or 2", max_steps_in_flight);
  }
  if (!(watermark >= 0 && watermark < 1)) {
    return invalid_argument("watermark is {}, must be in [0, 1)", watermark);
  }
  const bool ascending = std::ranges::adjacent_find(decode_batch_sizes, std::greater_equal<>()) ==
                         decode_batch_sizes.end();
  if (!ascending || (!decode_batch_sizes.empty() && decode_batch_sizes.front() < 1)) {
    return invalid_argument("decode_batch_sizes must be positive and ascending");
  }
  return ok_status();
}

int32_t SchedulerConfig::watermark_pages() const {
  return static_cast<int32_t>(std::ceil(watermark * num_pages));
}

int32_t SchedulerConfig::padded_decode_rows(int32_t num_rows) const {
  if (num_rows == 0) return 0;
  const auto size = std::ranges::lower_bound(decode_batch_sizes, num_rows);
  return size == decode_batch_sizes.end() ? num_rows : *size;
}

}  // namespace deepflight
