// A counter-based generator (the mixing steps of splitmix64) and what is drawn from it.
#include "apps/bench_serve/load_schedule.h"

#include <charconv>
#include <cmath>

namespace deepflight {
namespace {

constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;
constexpr uint64_t kArrivalStream = 0xa441;
constexpr int64_t kMaxLength = 1 << 24;

uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

bool parse_length(std::string_view text, int64_t* length) {
  const char* const end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, *length);
  return error == std::errc() && next == end && *length >= 1 && *length <= kMaxLength;
}

}  // namespace

SeededRandom::SeededRandom(uint64_t seed, uint64_t stream, uint64_t index)
    : state_(mix(mix(mix(seed + kGoldenRatio) + stream) + index)) {}

uint64_t SeededRandom::next() { return mix(state_ += kGoldenRatio); }

double SeededRandom::unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

int64_t SeededRandom::between(int64_t low, int64_t high) {
  // The bias of the remainder is below 2^-39 for ranges up to kMaxLength.
  return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
}

Result<LengthRange> parse_length_range(std::string_view flag, const std::string& text) {
  LengthRange range;
  const size_t colon = text.find(':');
  const std::string_view whole = text;
  const bool valid = colon == std::string::npos
                         ? parse_length(whole, &range.min)
                         : parse_length(whole.substr(0, colon), &range.min) &&
                               parse_length(whole.substr(colon + 1), &range.max);
  if (colon == std::string::npos) range.max = range.min;
  if (!valid || range.max < range.min) {
    return invalid_argument("{} '{}': want a number of tokens, or a range like 512:1536", flag,
                            text);
  }
  return range;
}

int64_t PoissonArrivals::next_us() {
  if (index_ > 0) {
    SeededRandom random(seed_, kArrivalStream, index_);
    time_s_ -= std::log1p(-random.unit()) / rate_;
  }
  ++index_;
  return static_cast<int64_t>(time_s_ * 1e6);
}

int64_t LoadPlan::num_planned() const {
  if (rate <= 0 || duration_us == 0) return num_requests;
  PoissonArrivals arrivals(rate, seed);
  int64_t count = 0;
  while (arrivals.next_us() < duration_us && (num_requests == 0 || count < num_requests)) ++count;
  return count;
}

}  // namespace deepflight
