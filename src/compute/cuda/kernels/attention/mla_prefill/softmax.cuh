// Scores of a warpgroup's 64 query rows and 128 keys to weights, as the accumulators hold them.
#pragma once

#include "compute/cuda/primitives/math.cuh"
#include "compute/cuda/primitives/quad.cuh"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_prefill {

using namespace device;  // NOLINT: headers of this kernel

// Running softmax of a thread's two rows (8 apart), of which three neighbours hold other columns.
// Weights are exp2(scale * score - offset). Any offset will do with which weights and sums are far
// from what a float cannot hold: it is the maximum of the first block of keys in which the row sees
// any, and changes only when weights come to more than kLargest. Maxima of other blocks are not
// looked for. Each row decides by itself: results must not depend on the rows that share a tile.
struct RowState {
  static constexpr float kLargest = 0x1p80f;
  float offset[2] = {0.0f, 0.0f};
  float sum[2] = {0.0f, 0.0f};  // of this thread's columns
  bool unseen = true;           // some row of the warp has seen no key

  // Scores of a tile's first block to weights, in pairs as the left operand of the outputs'
  // product. `scale`: softmax scale times log2(e).
  __device__ void start(const float (&s)[64], float scale, uint32_t (&weights)[32]) {
    const float none[2] = {0.0f, 0.0f};
    float factor[2];
    move(s, scale, none, factor);
    weigh(s, scale, weights, sum);
  }

  // Those of further blocks. True if older outputs are to be multiplied by `factor`, the same for
  // the whole warp.
  __device__ bool update(const float (&s)[64], float scale, uint32_t (&weights)[32],
                         float (&factor)[2]) {
    float total[2];
    weigh(s, scale, weights, total);
    const bool moves =
        __any_sync(0xffffffffu, unseen || total[0] > kLargest || total[1] > kLargest);
    if (moves) {
      move(s, scale, total, factor);
      weigh(s, scale, weights, total);
    }
    sum[0] += total[0];
    sum[1] += total[1];
    return moves;
  }

 private:
  __device__ void weigh(const float (&s)[64], float scale, uint32_t (&weights)[32],
                        float (&total)[2]) const {
    float totals[2][2] = {};  // several, so that additions need not wait for each other
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int r = i % 2;
      const float a = exp2_fast(fmaf(s[2 * i], scale, -offset[r]));
      const float b = exp2_fast(fmaf(s[2 * i + 1], scale, -offset[r]));
      totals[r][0] += a;
      totals[r][1] += b;
      weights[i] = pack_bf16(a, b);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) total[r] = totals[r][0] + totals[r][1];
  }

  // Rows whose weights are too large, and such as see keys for the first time, get new offsets;
  // older sums follow.
  __device__ void move(const float (&s)[64], float scale, const float (&total)[2],
                       float (&factor)[2]) {
    bool no_key = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = s[2 * r];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        largest = fmaxf(largest, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
      }
      largest = warp_max<4>(largest) * scale;
      const bool sees = largest != -INFINITY;
      const bool first =
          warp_sum<4>(sum[r]) == 0.0f;  // a row that has seen keys comes to 1 or more
      const bool too_large = warp_max<4>(total[r]) > kLargest;
      factor[r] = too_large ? exp2_fast(offset[r] - largest) : 1.0f;
      if (too_large || (first && sees)) offset[r] = largest;
      sum[r] *= factor[r];
      no_key |= first && !sees;
    }
    unseen = __any_sync(0xffffffffu, no_key);
  }
};

// Scores become -inf for the keys after last[r] of a thread's two rows; its own first key is 0.
__device__ inline void mask_scores(float (&s)[64], const int (&last)[2]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    if (i / 4 * 8 + i % 2 > last[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// And those of keys before `first`.
__device__ inline void mask_first_scores(float (&s)[64], int first) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    if (i / 4 * 8 + i % 2 < first) s[i] = -INFINITY;
  }
}

}  // namespace deepflight::cuda_mla_prefill
