// When requests come and how long they are: a function of the seed and the request's index alone,
// so that two runs, or two trials at different rates, see the same load. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace deepflight {

// Random numbers of one (seed, stream, index), the same on every machine.
class SeededRandom {
 public:
  SeededRandom(uint64_t seed, uint64_t stream, uint64_t index);

  uint64_t next();
  double unit();                               // in [0, 1)
  int64_t between(int64_t low, int64_t high);  // both ends included

 private:
  uint64_t state_;
};

// A number of tokens, fixed or uniform: "1024" or "512:1536".
struct LengthRange {
  int64_t min = 0;
  int64_t max = 0;

  int64_t sample(SeededRandom& random) const { return random.between(min, max); }
};

// `flag` begins the error message.
Result<LengthRange> parse_length_range(std::string_view flag, const std::string& text);

// Arrivals of an open loop: a Poisson process. The gaps of one seed are the same at every rate but
// for their scale.
class PoissonArrivals {
 public:
  PoissonArrivals(double rate, uint64_t seed) : rate_(rate), seed_(seed) {}

  // Microseconds from the begin to the next arrival; the first one is at 0.
  int64_t next_us();

 private:
  double rate_;  // requests/s
  uint64_t seed_;
  uint64_t index_ = 0;
  double time_s_ = 0;
};

// How many requests a load sends, and how fast.
struct LoadPlan {
  double rate = 0;           // requests/s of an open loop; 0: closed loop
  int max_concurrency = 0;   // requests in flight; 0: no limit
  int64_t num_requests = 0;  // 0: as many as come in the duration
  int64_t duration_us = 0;   // time in which requests are sent; 0: no limit
  uint64_t seed = 0;

  // The number of requests, if that is known before.
  int64_t num_planned() const;
};

}  // namespace deepflight
