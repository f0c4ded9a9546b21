// Finding places in the order of a row's tokens (most likely first, ties to the lower id) without
// sorting the row. Tokens are counted and weighed by bins of their distance from the best; a place
// lies in one bin, whose few tokens are then collected and sorted. Crowded bins are split again by
// the bits of the logits.
//
// Weights are integers (2^46 is the best token's), so that sums do not depend on their order.
#pragma once

#include "compute/cuda/kernels/sample_verify/rows.cuh"

namespace deepflight::cuda_sample_verify {

inline constexpr int kLogBins = 11;
inline constexpr int kNumBins = 1 << kLogBins;
inline constexpr int kMaxListed = 4096;
inline constexpr double kUnitMass = 0x1p46;
inline constexpr float kMaxDistance = 34.0f;  // past it a weight rounds to zero
inline constexpr float kBinsPerUnit = 62.0f;  // of distance

// Temperature scaling. All of it is monotone in the logit, so that bins never mix up the order.
struct Weigher {
  float best;
  float inverse_float;
  double inverse;  // of the temperature

  __device__ Weigher(float best_logit, float temperature)
      : best(best_logit),
        inverse_float(1.0f / temperature),
        inverse(1.0 / static_cast<double>(temperature)) {}

  // NaN for an infinite factor times nothing: the best itself.
  __device__ float distance(float logit) const {
    const float difference = best - logit;
    return difference > 0.0f ? difference * inverse_float : 0.0f;
  }
  __device__ static int bin(float distance) {
    return min(static_cast<int>(distance * kBinsPerUnit), kNumBins - 1);
  }
  // Far tokens weigh too little for float's rounding to matter.
  __device__ uint64_t mass(float logit, float distance, float min_weight, bool& passes) const {
    if (distance < 16.0f) {
      const double weight = exp((static_cast<double>(logit) - static_cast<double>(best)) * inverse);
      passes = weight >= static_cast<double>(min_weight);
      return __double2ull_rn(weight * kUnitMass);
    }
    const float weight = expf(-distance);
    passes = weight >= min_weight;
    return __float2uint_rn(weight * static_cast<float>(kUnitMass));
  }
  __device__ uint64_t mass(float logit) const {
    const float d = distance(logit);
    bool passes;
    return d < kMaxDistance ? mass(logit, d, 0.0f, passes) : 0;
  }
};

// While it is filled: 64-bit sums as two words. After finish(): sums over the bins up to each.
struct Histogram {
  union {
    struct {
      uint32_t low[kNumBins], high[kNumBins];
    } words;
    uint64_t mass[kNumBins];
  };
  uint32_t count[kNumBins];

  __device__ void clear() {
    for (int i = threadIdx.x; i < kNumBins; i += blockDim.x) {
      words.low[i] = words.high[i] = count[i] = 0;
    }
    __syncthreads();
  }
  // Two native atomics in place of a loop of compare-and-swap.
  __device__ void add(int bin, uint64_t value, bool counted) {
    const auto low = static_cast<uint32_t>(value);
    auto high = static_cast<uint32_t>(value >> 32);
    const uint32_t old = atomicAdd(&words.low[bin], low);
    high += old + low < old;
    if (high != 0) atomicAdd(&words.high[bin], high);
    if (counted) atomicAdd(&count[bin], 1u);
  }
  template <int kThreads>
  __device__ void finish(uint64_t* scratch) {
    constexpr int kPerThread = (kNumBins + kThreads - 1) / kThreads;
    const int first = static_cast<int>(threadIdx.x) * kPerThread;
    uint64_t masses[kPerThread];
    uint64_t mass_sum = 0;
    uint32_t count_sum = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      if (first + i < kNumBins) {
        mass_sum += uint64_t{words.high[first + i]} << 32 | words.low[first + i];
        count_sum += count[first + i];
      }
      masses[i] = mass_sum;
    }
    const uint64_t mass_below = block_exclusive_sum(mass_sum, scratch);  // has a barrier
    __syncthreads();
    auto count_below = static_cast<uint32_t>(block_exclusive_sum(count_sum, scratch));
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      if (first + i >= kNumBins) break;
      mass[first + i] = mass_below + masses[i];
      count_below += count[first + i];
      count[first + i] = count_below;
    }
    __syncthreads();
  }
};

// What is looked for: the first token at which the count or the mass reaches `threshold` (at least
// 1 and at most the whole).
struct Threshold {
  bool by_count;
  uint64_t value;
};

struct Place {
  uint64_t mass;  // up to and with the token
  int token;
};

struct Bin {
  int index;
  uint32_t size;  // where tokens are counted
  uint64_t mass_before;
  uint64_t count_before;
};

// The tokens of a crowded bin that are still in question: those with keys [low, high]. In shared
// memory to spare registers.
struct Crowd {
  Threshold threshold;
  uint64_t mass_before;
  uint64_t count_before;
  int bin;
  uint32_t low, high;
};

struct SelectShared {
  Histogram bins;
  uint64_t list[kMaxListed];  // the tokens of the first bins, once they are few
  union {
    uint64_t sorted[kMaxListed];  // one bin
    Histogram fine;               // of a crowded bin
  };
  uint64_t scratch[32];
  Bin bin;
  Crowd crowd;
  Place place;
  int num_listed;
  int num_sorted;
};

// One row's search; the whole block calls each function alike.
template <int kThreads, bool kAdjusted>
struct Selector {
  const float* row;
  int vocab_size;
  const Adjustment& adjust;
  Weigher weigher;
  SelectShared& shared;
  bool listed = false;  // shared.list holds all that can matter

  template <int kUnroll = kAdjusted ? 1 : 4, typename Visit>
  __device__ void for_each_live(const Visit& visit) const {
    for_each_logit<kThreads, kUnroll>(row, 0, vocab_size, [&](int id, float raw) {
      const float logit = kAdjusted ? adjust(id, raw) : raw;
      const float distance = weigher.distance(logit);
      if (distance < kMaxDistance) visit(id, logit, distance);
    });
  }

  // Fills the bins. Returns the mass of the tokens whose weight is at least min_weight.
  __device__ uint64_t weigh(bool counted, float min_weight) {
    shared.bins.clear();
    uint64_t passed = 0;
    for_each_live([&](int, float logit, float distance) {
      bool passes;
      const uint64_t mass = weigher.mass(logit, distance, min_weight, passes);
      if (passes) passed += mass;
      if (mass != 0) shared.bins.add(Weigher::bin(distance), mass, counted);
    });
    shared.bins.finish<kThreads>(shared.scratch);
    const uint64_t sum = block_sum_of(passed, shared.scratch);
    __syncthreads();
    return sum;
  }

  // The bin of a histogram in which the threshold, less what lies before, is reached.
  __device__ Bin find_bin(const Histogram& histogram, const Threshold& threshold,
                          uint64_t mass_before, uint64_t count_before) {
    const uint64_t wanted = threshold.value - (threshold.by_count ? count_before : mass_before);
    for (int i = threadIdx.x; i < kNumBins; i += kThreads) {
      const uint64_t mass_below = i > 0 ? histogram.mass[i - 1] : 0;
      const uint32_t count_below = i > 0 ? histogram.count[i - 1] : 0;
      const bool found = threshold.by_count ? count_below < wanted && wanted <= histogram.count[i]
                                            : mass_below < wanted && wanted <= histogram.mass[i];
      if (found) {
        shared.bin = {i, histogram.count[i] - count_below, mass_before + mass_below,
                      count_before + count_below};
      }
    }
    __syncthreads();
    const Bin bin = shared.bin;
    __syncthreads();
    return bin;
  }

  // `compact`: more searches will follow, none of them further down.
  __device__ Place find(const Threshold& threshold, bool compact) {
    const Bin bin = find_bin(shared.bins, threshold, 0, 0);
    if (threadIdx.x == 0) {
      shared.num_sorted = 0;
      if (!listed) shared.num_listed = 0;
      shared.place = {threshold.value, 0};
    }
    __syncthreads();
    const bool from_list = listed;
    if (from_list) {
      for (int i = threadIdx.x; i < shared.num_listed; i += kThreads) {
        const uint64_t packed = shared.list[i];
        const float distance = weigher.distance(packed_value(packed));
        if (Weigher::bin(distance) == bin.index) push(shared.sorted, shared.num_sorted, packed);
      }
    } else {
      for_each_live([&](int id, float logit, float distance) {
        const int index = Weigher::bin(distance);
        if (index > bin.index) return;
        const uint64_t packed = pack(order_key(logit), id);
        if (compact) push(shared.list, shared.num_listed, packed);
        if (index == bin.index) push(shared.sorted, shared.num_sorted, packed);
      });
    }
    __syncthreads();
    if (!from_list) listed = compact && shared.num_listed <= kMaxListed;
    const bool crowded = shared.num_sorted > kMaxListed;
    __syncthreads();  // before anyone counts anew
    if (crowded) return find_in_crowd(threshold, bin);
    return find_in_sorted(threshold, bin.mass_before, bin.count_before);
  }

  // What does not fit is not stored; the count then tells that there was more.
  __device__ static void push(uint64_t* list, int& count, uint64_t packed) {
    if (*const_cast<const volatile int*>(&count) > kMaxListed) return;  // spares a busy address
    const int index = atomicAdd(&count, 1);
    if (index < kMaxListed) list[index] = packed;
  }

  // Sorts shared.sorted, best first, with zeros behind up to a power of two; returns that.
  __device__ int sort() {
    uint64_t* values = shared.sorted;
    const int count = shared.num_sorted;
    int size = 1;
    while (size < count) size *= 2;
    for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) values[i] = 0;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2) {
      for (int gap = run / 2; gap > 0; gap /= 2) {
        for (int i = threadIdx.x; i < size / 2; i += kThreads) {
          const int low = 2 * i - (i & (gap - 1));
          const int high = low + gap;
          const uint64_t a = values[low];
          const uint64_t b = values[high];
          if (((low & run) == 0) == (a < b)) {
            values[low] = b;
            values[high] = a;
          }
        }
        __syncthreads();
      }
    }
    return size;
  }

  __device__ Place find_in_sorted(const Threshold& threshold, uint64_t mass_before,
                                  uint64_t count_before) {
    const int size = sort();
    const int per_thread = (size + kThreads - 1) / kThreads;
    const int first = min(static_cast<int>(threadIdx.x) * per_thread, size);
    const int last = min(first + per_thread, size);
    uint64_t mass = 0;
    for (int i = first; i < last; ++i) {
      if (shared.sorted[i] != 0) mass += weigher.mass(packed_value(shared.sorted[i]));
    }
    mass = mass_before + block_exclusive_sum(mass, shared.scratch);
    for (int i = first; i < last; ++i) {
      const uint64_t packed = shared.sorted[i];
      if (packed == 0) break;
      const uint64_t below = mass;
      mass += weigher.mass(packed_value(packed));
      const bool found = threshold.by_count ? count_before + i + 1 == threshold.value
                                            : below < threshold.value && threshold.value <= mass;
      if (found) shared.place = {mass, packed_id(packed)};
    }
    __syncthreads();
    const Place place = shared.place;
    __syncthreads();
    return place;
  }

  __device__ bool in_crowd(uint32_t key, float distance) const {
    const Crowd& crowd = shared.crowd;
    return Weigher::bin(distance) == crowd.bin && crowd.low <= key && key <= crowd.high;
  }

  // A bin of more than kMaxListed tokens: narrows the range of keys until it holds fewer.
  __device__ Place find_in_crowd(const Threshold& threshold, const Bin& bin) {
    Crowd& crowd = shared.crowd;
    if (threadIdx.x == 0) {
      crowd = {threshold, bin.mass_before, bin.count_before, bin.index, 0, 0xffffffffu};
      shared.num_sorted = 0;
    }
    __syncthreads();
    do {
      tighten_crowd();
      if (crowd.low == crowd.high) return find_in_tie();
    } while (narrow_crowd() > kMaxListed);
    for_each_live<1>([&](int id, float logit, float distance) {
      const uint32_t key = order_key(logit);
      if (in_crowd(key, distance) && weigher.mass(logit) != 0) {
        push(shared.sorted, shared.num_sorted, pack(key, id));
      }
    });
    __syncthreads();
    return find_in_sorted(crowd.threshold, crowd.mass_before, crowd.count_before);
  }

  // To the keys that there are.
  __device__ void tighten_crowd() {
    uint32_t largest = 0;
    uint32_t smallest = 0xffffffffu;
    for_each_live<1>([&](int, float logit, float distance) {
      const uint32_t key = order_key(logit);
      if (!in_crowd(key, distance)) return;
      largest = max(largest, key);
      smallest = min(smallest, key);
    });
    __syncthreads();
    largest = static_cast<uint32_t>(block_max(largest, shared.scratch));
    __syncthreads();
    smallest = ~static_cast<uint32_t>(block_max(uint32_t{~smallest}, shared.scratch));
    if (threadIdx.x == 0) {
      shared.crowd.low = smallest;
      shared.crowd.high = largest;
    }
    __syncthreads();
  }

  // To one of up to kNumBins equal parts. Returns how many tokens it has.
  __device__ uint32_t narrow_crowd() {
    Crowd& crowd = shared.crowd;
    const uint32_t high = crowd.high;
    const int shift = max(0, 32 - __clz(static_cast<int>(high - crowd.low)) - kLogBins);
    shared.fine.clear();
    for_each_live<1>([&](int, float logit, float distance) {
      const uint32_t key = order_key(logit);
      if (!in_crowd(key, distance)) return;
      const uint64_t mass = weigher.mass(logit);
      if (mass != 0) shared.fine.add(static_cast<int>((high - key) >> shift), mass, true);
    });
    shared.fine.template finish<kThreads>(shared.scratch);
    const Bin part = find_bin(shared.fine, crowd.threshold, crowd.mass_before, crowd.count_before);
    if (threadIdx.x == 0) {
      crowd.mass_before = part.mass_before;
      crowd.count_before = part.count_before;
      crowd.high = high - (static_cast<uint32_t>(part.index) << shift);
      const uint32_t span = (1u << shift) - 1;
      crowd.low = crowd.high - crowd.low > span ? crowd.high - span : crowd.low;
    }
    __syncthreads();
    return part.size;
  }

  // Many tokens of one logit: the right one of them, by id.
  __device__ Place find_in_tie() {
    const Crowd& crowd = shared.crowd;
    const uint32_t key = crowd.low;
    const uint64_t mass = weigher.mass(value_of_key(key));
    const Threshold& threshold = crowd.threshold;
    const uint64_t wanted = threshold.by_count
                                ? threshold.value - crowd.count_before
                                : (threshold.value - crowd.mass_before + mass - 1) / mass;
    uint64_t below = 0;
    for (int base = 0; base < vocab_size; base += kThreads) {
      const int id = base + static_cast<int>(threadIdx.x);
      bool equal = false;
      if (id < vocab_size) {
        const float logit = kAdjusted ? adjust(id, row[id]) : row[id];
        equal = order_key(logit) == key;
      }
      const auto count = static_cast<uint64_t>(__syncthreads_count(equal));
      if (below + count >= wanted) {
        const uint64_t rank = below + block_exclusive_sum(equal ? 1 : 0, shared.scratch) + 1;
        if (equal && rank == wanted) shared.place = {crowd.mass_before + wanted * mass, id};
        break;
      }
      below += count;
    }
    __syncthreads();
    const Place place = shared.place;
    __syncthreads();
    return place;
  }
};

}  // namespace deepflight::cuda_sample_verify
