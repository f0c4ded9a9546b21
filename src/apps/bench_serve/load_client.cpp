// The clock is read as soon as an event is there, before it is parsed.
#include "apps/bench_serve/load_client.h"

#include <memory>
#include <utility>

#include "apps/bench_serve/stream_timer.h"
#include "base/clock.h"

namespace deepflight {

void LoadClient::send(const LoadRequest& request, int64_t due_us, int64_t origin_us,
                      DoneFn on_done) {
  RequestRecord record;
  record.planned_us = due_us - origin_us;
  record.asked_prompt_tokens = request.asked_prompt_tokens;
  record.asked_output_tokens = request.asked_output_tokens;
  record.sent_us = monotonic_us() - origin_us;
  auto timer = std::make_shared<StreamTimer>(request.endpoint, std::move(record));
  http_.post_stream(
      request.path(), request.body,
      {[timer, origin_us](std::string_view data) {
         return timer->on_event(data, monotonic_us() - origin_us);
       },
       [timer, origin_us, on_done = std::move(on_done)](const Result<HttpResponse>& response) {
         on_done(timer->finish(response, monotonic_us() - origin_us));
       }});
}

}  // namespace deepflight
