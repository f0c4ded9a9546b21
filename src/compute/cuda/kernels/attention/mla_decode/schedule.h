// How a step's attention is cut into equal shares of work. Rows of a sequence's queries, packed as
// (token, head), form tiles of 64. Up to `num_lanes` tiles of a sequence form a group; the blocks
// of a part walk a group's pages side by side, a tile each, so that a page leaves device memory
// once. A part is a run of pages out of the groups laid end to end; where its ends cut a group, the
// group is split and its partial results are combined. Built on the device (schedule.cu); the
// arithmetic compiles for the host too.
#pragma once

#include <cstdint>

#include "compute/cuda/kernels/attention/mla_decode/problem.h"

namespace deepflight::cuda_mla_decode {

inline constexpr int kTileRows = 64;
inline constexpr int kMaxLanes = 12;
inline constexpr int kMaxParts = 160;  // a part has at least one SM
inline constexpr int kEmptyGroupCost = 2;

struct Group {
  int32_t slot;  // < 0: padding
  int32_t kv_len;
  int32_t first_token;  // of the sequence
  int32_t num_queries;  // of the sequence
  int32_t first_tile;   // of this group in the sequence
  int32_t num_tiles;
  int32_t num_pages;   // that its last query sees
  int32_t num_splits;  // parts that work on it, which follow each other
  int32_t first_part;
  int32_t begins_part;  // 1 if it is the first of its first part
  int32_t unused[2];
};

// What a block does: pages first_page .. of first_group to end_page of last_group, of each group
// the tile of its lane. Nothing if last_group < first_group.
struct Share {
  int32_t first_group;
  int32_t first_page;
  int32_t last_group;
  int32_t end_page;
  int32_t lane;
  int32_t unused[3];
  Group group;  // the first one
};

// At the head of the metadata; groups follow.
struct Schedule {
  int32_t num_groups;
  int32_t num_lanes;
  int32_t num_parts;
  int32_t num_split_groups;
  int32_t tile_rows;              // of the fullest tile
  Share shares[kMaxParts];        // of the blocks
  Group split_groups[kMaxParts];  // copies
};

DF_HOST_DEVICE inline int tiles_of(int num_queries, int num_heads) {
  return (num_queries * num_heads + kTileRows - 1) / kTileRows;
}

// Lanes of a step whose smallest sequence has `min_tiles`; larger ones get several groups.
DF_HOST_DEVICE inline int lanes_of(int min_tiles) {
  return min_tiles < 1 ? 1 : min_tiles < kMaxLanes ? min_tiles : kMaxLanes;
}

// What beginning and ending a group costs, in pages, of which an e4m3 one takes half as long; also
// what a split costs more.
inline int group_cost(PageFormat format) { return format == PageFormat::kF8E4M3 ? 6 : 3; }

DF_HOST_DEVICE inline int cost_of(int num_pages, int group_cost) {
  return num_pages > 0 ? num_pages + group_cost : kEmptyGroupCost;
}

// Tokens that query `query` of a sequence sees, itself included.
DF_HOST_DEVICE inline int visible_tokens(int kv_len, int num_queries, int query) {
  const int visible = kv_len - (num_queries - 1 - query);
  return visible > 0 ? visible : 0;
}

// Pages that the rows up to the end of `tile` see.
DF_HOST_DEVICE inline int visible_pages(int kv_len, int num_queries, int num_heads, int tile) {
  const int last = ((tile + 1) * kTileRows - 1) / num_heads;
  const int query = last < num_queries ? last : num_queries - 1;
  return (visible_tokens(kv_len, num_queries, query) + kPageTokens - 1) / kPageTokens;
}

// How groups are laid end to end into parts of at most `payload` (>= group_cost + 2) each; a group
// is cut after an even number of its pages, which is how blocks take them, or (`whole`) not at all.
struct Filling {
  int num_groups;
  int max_parts;
  int group_cost;
  int payload;
  bool whole;
};

// Calls emit(part, group, first_page, end_page); returns the number of parts, max_parts + 1 if
// more are needed.
template <typename PagesOf, typename Emit>
DF_HOST_DEVICE inline int fill_parts(const Filling& f, const PagesOf& pages_of, const Emit& emit) {
  int part = 0, rest = f.payload, group = 0, page = 0;
  int left = pages_of(0);
  // Without branches but for emit(): lanes that try several payloads must stay together.
  for (int step = 0; step < f.num_groups + f.max_parts; ++step) {
    const int next = pages_of(group + 1 < f.num_groups ? group + 1 : 0);
    const bool active = group < f.num_groups && part < f.max_parts;
    const int cost = cost_of(left, f.group_cost);
    const bool fits = cost <= rest;
    const int room = !f.whole && left > 0 && rest > f.group_cost ? (rest - f.group_cost) & ~1 : 0;
    const int taken = fits ? left : room;
    if (active && (fits || taken > 0)) emit(part, group, page, page + taken);
    rest = fits ? rest - cost : f.payload;
    page = fits ? 0 : page + taken;
    left = fits ? next : left - taken;
    group += active && fits ? 1 : 0;
    part += active && !fits ? 1 : 0;
  }
  return group < f.num_groups ? f.max_parts + 1 : part + 1;
}

// What all groups cost together, and the largest.
struct Costs {
  int total = 0;
  int largest = 0;
  DF_HOST_DEVICE void add(int cost) {
    total += cost;
    largest = cost > largest ? cost : largest;
  }
};

// The payload number `trial` of kTrials to try, of which the last always does. Cut groups: a part
// leaves less than twice a group's cost and two pages empty. Whole ones: a part that is closed
// holds more than the payload less the next group, so the largest cost above the even share is
// enough.
inline constexpr int kTrials = 32;
DF_HOST_DEVICE inline int trial_payload(const Costs& costs, int num_parts, int group_cost,
                                        bool whole, int trial) {
  const int even = (costs.total + num_parts - 1) / num_parts;
  const int least = even > group_cost + 2 ? even : group_cost + 2;
  if (!whole) return least + trial;
  return least + static_cast<int>(int64_t{costs.largest} * trial / (kTrials - 1));
}

// Whether to cut no group, given the least payloads that do with cuts and without: for 5 % of
// balance it does not pay, as partial results of long groups leave the L2 before they are combined
// (128 sequences of 128 pages, 4 tiles each: 5 % of the step).
DF_HOST_DEVICE inline bool stays_whole(int cut_payload, int whole_payload) {
  return whole_payload - cut_payload <= cut_payload / 20;
}

// Groups that a step can have at most.
inline int64_t max_groups(int64_t num_sequences, int64_t num_tokens, int64_t num_heads) {
  return num_sequences + (num_tokens * num_heads + kTileRows - 1) / kTileRows;
}

}  // namespace deepflight::cuda_mla_decode
