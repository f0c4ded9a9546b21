// The e4m3 kernel's weights: a warpgroup scores pages and turns scores into weights, and a warp
// makes these known to the products that sum, a pair's other block's too. Included by attend_fp8.cu
// alone.
#pragma once

#include "compute/cuda/kernels/attention/mla_decode/tile_fp8.cuh"

namespace deepflight::cuda_mla_decode {

// What the weighing warpgroup carries along.
struct Weighing {
  const Fp8Params& p;
  const Fp8Shared& shared;
  const Fp8Shared& other;   // of a pair's other block
  const Fp8Operands pages;  // of place 0
  const WeightMatrix ones;
  const uint32_t warp;
  Stage stage{};             // of the page that is weighed next
  bool has_come;             // the page that is scored next
  uint32_t read_parity = 0;  // of rope_read()
  Turn turn;                 // of the segment
  uint32_t odd = 0;          // it is the second, the fourth, ...
  // Of the segment: pages of which all rows see all keys, and the first key; of this thread's two
  // rows what makes scores of products, offsets, and of one of them the sum of its weights.
  int first_plain, num_plain, first_key;
  float scale[2];
  RowOffsets state;
  float sum;
  HeldQueries held;
  Counts counts;

  __device__ Weighing(const Fp8Params& params, const Fp8Shared& memory, const Fp8Shared& others)
      : p(params),
        shared(memory),
        other(others),
        pages(memory.page(0)),
        ones(memory.ones()),
        warp(uniform(threadIdx.x / 32 % 4)) {}

  // Of this thread, its first row and the first of its keys: asked for anew where they are seldom
  // wanted, as registers are few.
  __device__ static int row() { return this_thread() / 32 * 16 + this_thread() % 32 / 4; }
  __device__ static int key() { return this_thread() % 4 * 2; }

  // Begins the next segment; returns the number of its pages, 0 if there is none.
  __device__ int begin() {
    barrier_wait(shared.told(turn.index), turn.parity);
    const Fp8Shared::Told told = shared.told_of(turn.index);
    const int num_pages = static_cast<int>(uniform(told.num_pages));
    if (num_pages == 0) return 0;
    first_key = static_cast<int>(uniform(told.first_key));
    first_plain = (max(first_key, 0) + kPageTokens - 1) / kPageTokens;
    num_plain = static_cast<int>(uniform(told.least)) / kPageTokens - first_plain;
    const uint32_t scales = shared.query_scales(odd) + row() * 4;
    scale[0] = p.in.score_scale * load_shared(scales);
    scale[1] = p.in.score_scale * load_shared(scales + 32);
    state = RowOffsets();
    sum = 0.0f;
#pragma unroll
    for (uint32_t& weights : counts.weights) weights = 0;
    has_come = false;
    barrier_wait(shared.query_full(), odd);
    hold_queries(held, shared.query());
    return num_pages;
  }

  __device__ void await(const Stage& page) const {
    if (!has_come) barrier_wait(shared.full(page.index), page.parity);
  }
  // Half of a page's scores. `queries`: anew for each page, or the compiler keeps all their
  // descriptors over the loop.
  template <int kPart>
  __device__ void issue(float (&s)[32], const Fp8Operands& queries, const Stage& page) const {
    issue_scores<kPart>(s, held, queries, pages, page.index);
  }

  // Waits for a page's scores and starts to sum the weights of the one before.
  template <bool kPair>
  __device__ void take_scores(float (&s)[32]) {
    wgmma_wait<0>();
    pin(s);
    if (elect_lane()) {
      barrier_arrive(shared.rope_read());
      if (kPair) cluster_barrier_arrive(other.room(stage.index));
    }
    counts.issue(ones);
  }
  // All rows see all keys of a page.
  __device__ bool is_plain(int page_idx) const {
    return page_idx >= first_plain && page_idx - first_plain < num_plain;
  }
  // Scores of keys that rows do not see become -inf.
  __device__ void mask(float (&s)[32], int begin) const {
    const uint32_t limits = shared.limits(odd) + row() * 4;
    const int first = begin + key();
    const int end[2] = {static_cast<int>(load_shared_word(limits)) - first,
                        static_cast<int>(load_shared_word(limits + 32)) - first};
    mask_scores(s, first_key - first, end);
  }
  // Masks a page's scores and lets offsets follow them; true if they have moved. What is seldom to
  // be done stands behind one branch, as what is jumped over has to be fetched.
  __device__ bool follow(float (&s)[32], int page_idx) {
    const bool plain = is_plain(page_idx);
    if (!state.rises(s, scale) & plain) [[likely]]
      return false;
    if (!plain) mask(s, page_idx * kPageTokens);
    float factor[2];
    if (!state.move(s, scale, factor)) return false;
    sum *= counts.own(factor[0], factor[1]);
    if (key() == 0) {
      const uint32_t factors = shared.factors(stage.index) + row() * 4;
      store_shared(factors, factor[0]);
      store_shared(factors + 32, factor[1]);
    }
    return true;
  }
  // Scores to weights, in the place of the page's rope. `is_read`: all warps have taken scores.
  __device__ void leave_weights(const float (&s)[32], bool moved, bool is_read) {
    round_weights(s, scale, state, counts.weights);
    if (!is_read) barrier_wait(shared.rope_read(), read_parity);
    read_parity ^= 1;
    __syncwarp();
    store_weights(counts.weights, shared.weights(stage.index));
    if (elect_lane()) {
      store_shared_byte(shared.moved_of(shared.factors(stage.index)) + warp, moved ? 1 : 0);
    }
    __syncwarp();
    if (elect_lane()) barrier_arrive(shared.stored(stage.index));
    stage = stage.next();
  }

  // The segment has all its weights: what becomes of its rows' sums.
  template <bool kPair>
  __device__ void end() {
    counts.issue(ones);
    counts.add_to(sum);
    if (key() < 4) {
      const uint32_t at = (row() + (counts.is_odd ? 8 : 0)) * 4;
      const float factor = sum > 0.0f ? __fdividef(p.in.output_scale, sum) : 0.0f;
      store_shared(shared.result_factors(turn.index) + at, factor);
      if (kPair) {
        send_to_block(other.result_factors(turn.index, true) + at, factor,
                      other.other_counted(turn.index));
      }
      store_shared(
          shared.lses(odd) + at,
          sum > 0.0f ? counts.own(state.offset[0], state.offset[1]) + log2f(sum) : -INFINITY);
    }
    __syncwarp();
    if (elect_lane()) {
      barrier_arrive(shared.counted(turn.index));
      if (kPair && warp == 0) {
        barrier_arrive_expect(shared.other_counted(turn.index), Fp8Shared::kRowBytes);
      }
    }
    turn = turn.next();
    odd ^= 1;
  }
};

// Page `i` of the segment, whose scores are under way, while the tensor cores score the next: half
// of it beside the search for maxima, half beside exponentials.
template <bool kPair>
__device__ __forceinline__ void weigh_page(Weighing& w, int i, float (&s)[32], float (&next)[32]) {
  const Fp8Operands queries(w.shared.query());
  w.take_scores<kPair>(s);
  w.await(w.stage.next());
  w.counts.add_to(w.sum);
  w.issue<0>(next, queries, w.stage.next());
  const bool moved = w.follow(s, i);
  w.issue<1>(next, queries, w.stage.next());
  const Stage coming = w.stage.next(2);
  w.has_come = barrier_test(w.shared.full(coming.index), coming.parity);
  w.leave_weights(s, moved, barrier_test(w.shared.rope_read(), w.read_parity));
}
template <bool kPair>
__device__ __forceinline__ void weigh_last_page(Weighing& w, int i, float (&s)[32]) {
  w.take_scores<kPair>(s);
  if (elect_lane()) barrier_arrive(w.shared.query_read());
  w.counts.add_to(w.sum);
  const bool moved = w.follow(s, i);
  w.leave_weights(s, moved, false);
}

// One warpgroup: scores and weights of all pages.
template <bool kPair>
__device__ void weigh_pages(const Fp8Params& p, const Fp8Shared& shared, const Fp8Shared& other) {
  Weighing w(p, shared, other);
  float s[2][32];
  while (const int num_pages = w.begin()) {
    const Fp8Operands queries(shared.query());
    w.await(w.stage);
    w.issue<0>(s[0], queries, w.stage);
    w.issue<1>(s[0], queries, w.stage);
    int i = 0;
#pragma unroll 1
    for (; i + 2 < num_pages; i += 2) {
      weigh_page<kPair>(w, i, s[0], s[1]);
      weigh_page<kPair>(w, i + 1, s[1], s[0]);
    }
    if (i + 2 == num_pages) {
      weigh_page<kPair>(w, i++, s[0], s[1]);
      wgmma_wait<0>();
      pin(s[1]);
#pragma unroll
      for (int k = 0; k < 32; ++k) s[0][k] = s[1][k];
    }
    weigh_last_page<kPair>(w, i, s[0]);
    w.end<kPair>();
  }
}

// One warp: makes weights known to products, as the fence would hold up those who weigh. (It may
// stand anywhere on the way from the stores to the products: PTX ISA, memory consistency model.) To
// a pair's other block it copies them, with the rows' factors, as soon as that has room.
template <bool kPair>
__device__ void publish_weights(const Fp8Shared& shared, const Fp8Shared& other, int rank) {
  Stage stage;
#pragma unroll 1
  for (Turn turn;; turn = turn.next()) {
    barrier_sleep(shared.told(turn.index), turn.parity);
    const int num_pages = shared.told_of(turn.index).num_pages;
    if (num_pages == 0) break;
#pragma unroll 1
    for (int rest = num_pages; rest > 0; --rest, stage = stage.next()) {
      barrier_sleep(shared.stored(stage.index), stage.parity);
      async_proxy_fence();
      if (elect_lane()) {
        barrier_arrive(shared.weighed(stage.index));
        if (kPair) {
          barrier_arrive_expect(shared.come(stage.index), Fp8Shared::kIncomingBytes);
          barrier_sleep(shared.room(stage.index), stage.parity);
          const uint32_t target = other.incoming(stage.index, rank ^ 1);
          const uint32_t come = other.come(stage.index);
          copy_to_block(target, shared.weights(stage.index), Fp8Shared::kWeightBytes, come);
          copy_to_block(target + Fp8Shared::kWeightBytes, shared.factors(stage.index),
                        Fp8Shared::kFactorBytes, come);
        }
      }
      __syncwarp();
    }
  }
}

}  // namespace deepflight::cuda_mla_decode
