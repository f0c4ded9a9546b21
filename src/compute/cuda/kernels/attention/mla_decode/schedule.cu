// Makes a step's schedule out of the lengths on the device: one block, once a step. Two warps try
// 32 payloads each, a lane each, with whole groups and with cut ones; the least that fits is taken.
#include "compute/cuda/kernels/attention/mla_decode/kernels.h"
#include "compute/cuda/primitives/warp.cuh"

namespace deepflight::cuda_mla_decode {
namespace {

constexpr int kThreads = 256;
constexpr int kSharedGroups = 8192;  // whose pages are kept in shared memory

struct Inputs {
  const int32_t* query_offsets;
  const int32_t* kv_lens;
  const int32_t* slots;
  int num_sequences;
  int num_heads;
  int num_sms;
  int group_cost;
  bool whole;  // groups are not cut
};

__device__ int block_min(int value, int* scratch) {
  value = __reduce_min_sync(0xffffffffu, value);
  if (threadIdx.x % device::kWarpSize == 0) scratch[threadIdx.x / device::kWarpSize] = value;
  __syncthreads();
  int smallest = scratch[0];
  for (int i = 1; i < kThreads / device::kWarpSize; ++i) smallest = min(smallest, scratch[i]);
  __syncthreads();
  return smallest;
}
__device__ int block_max(int value, int* scratch) { return -block_min(-value, scratch); }

// Sum of the values of the threads before this one; `total` of all.
__device__ int block_prefix(int value, int* scratch, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % device::kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / device::kWarpSize;
  int sum = value;
  for (int offset = 1; offset < device::kWarpSize; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == device::kWarpSize - 1) scratch[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int i = 0; i < kThreads / device::kWarpSize; ++i) {
    if (i < warp) before += scratch[i];
    total += scratch[i];
  }
  __syncthreads();
  return before + sum - value;
}

// A sequence's groups, from number `first` on; adds to their costs.
__device__ void write_groups(const Inputs& in, int sequence, int num_tiles, int num_lanes,
                             int first, Group* groups, int32_t* pages, Costs& costs) {
  Group group = {};
  group.slot = in.slots[sequence];
  group.first_token = in.query_offsets[sequence];
  group.num_queries = in.query_offsets[sequence + 1] - group.first_token;
  group.kv_len = group.slot < 0 ? 0 : in.kv_lens[sequence];
  for (int i = 0; i * num_lanes < num_tiles; ++i) {
    group.first_tile = i * num_lanes;
    group.num_tiles = min(num_lanes, num_tiles - group.first_tile);
    group.num_pages = visible_pages(group.kv_len, group.num_queries, in.num_heads,
                                    group.first_tile + group.num_tiles - 1);
    groups[first + i] = group;
    if (first + i < kSharedGroups) pages[first + i] = group.num_pages;
    costs.add(cost_of(group.num_pages, in.group_cost));
  }
}

struct Part {
  int first_group, first_page, last_group, end_page;
};

// One thread: the parts, and each group's share of them.
__device__ void write_parts(const Filling& f, Part* parts, Group* groups, const int32_t* pages) {
  const auto pages_of = [&](int group) {
    return group < kSharedGroups ? pages[group] : groups[group].num_pages;
  };
  for (int p = 0; p < f.max_parts; ++p) parts[p] = {0, 0, -1, 0};
  int open_part = -1, open_group = -1, first_part = 0;
  const auto emit = [&](int p, int group, int first, int end) {
    if (group != open_group) {
      open_group = group;
      first_part = p;
      groups[group].first_part = p;
      groups[group].begins_part = p != open_part;
    }
    if (p != open_part) {
      open_part = p;
      parts[p].first_group = group;
      parts[p].first_page = first;
    }
    parts[p].last_group = group;
    parts[p].end_page = end;
    groups[group].num_splits = p - first_part + 1;
  };
  fill_parts(f, pages_of, emit);
}

__global__ void __launch_bounds__(kThreads)
    schedule_kernel(const Inputs in, Schedule* schedule, Group* groups) {
  __shared__ int32_t pages[kSharedGroups];
  __shared__ int scratch[kThreads / device::kWarpSize];
  __shared__ Part parts[kMaxParts];
  __shared__ int payloads[2];  // of whole groups, and of those that may be cut
  const int thread = static_cast<int>(threadIdx.x);
  const auto queries_of = [&](int s) { return in.query_offsets[s + 1] - in.query_offsets[s]; };

  int min_tiles = 1 << 30, tile_rows = 0;
  for (int s = thread; s < in.num_sequences; s += kThreads) {
    const int tiles = tiles_of(queries_of(s), in.num_heads);
    if (tiles > 0) min_tiles = min(min_tiles, tiles);
    tile_rows = max(tile_rows, min(queries_of(s) * in.num_heads, kTileRows));
  }
  min_tiles = block_min(min_tiles, scratch);
  tile_rows = block_max(tile_rows, scratch);
  const int num_lanes = min(lanes_of(min_tiles == 1 << 30 ? 1 : min_tiles), in.num_sms);
  const int num_parts = min(in.num_sms / num_lanes, kMaxParts);

  int num_groups = 0;
  Costs costs;
  for (int base = 0; base < in.num_sequences; base += kThreads) {
    const int s = base + thread;
    const int tiles = s < in.num_sequences ? tiles_of(queries_of(s), in.num_heads) : 0;
    int added;
    const int before = block_prefix((tiles + num_lanes - 1) / num_lanes, scratch, added);
    if (tiles > 0) {
      write_groups(in, s, tiles, num_lanes, num_groups + before, groups, pages, costs);
    }
    num_groups += added;
  }
  costs.largest = block_max(costs.largest, scratch);
  block_prefix(costs.total, scratch, costs.total);  // and orders the pages before their use

  // Two warps: the least payload of whole groups, and of groups that may be cut.
  static_assert(kTrials == device::kWarpSize);
  const bool whole = in.whole || thread < device::kWarpSize;
  if (thread < 2 * device::kWarpSize) {
    const auto pages_of = [&](int group) {
      return group < kSharedGroups ? pages[group] : groups[group].num_pages;
    };
    const int payload = trial_payload(costs, num_parts, in.group_cost, whole, thread % kTrials);
    const int used = fill_parts({num_groups, num_parts, in.group_cost, payload, whole}, pages_of,
                                [](int, int, int, int) {});
    const unsigned fits = __ballot_sync(0xffffffffu, used <= num_parts);
    // NOTE: the last lane's payload always fits (schedule_test.cpp).
    const int winner = fits == 0 ? kTrials - 1 : __ffs(static_cast<int>(fits)) - 1;
    if (thread % kTrials == winner) payloads[thread / kTrials] = payload;
  }
  __syncthreads();
  if (thread == 0) {
    const bool stays = in.whole || stays_whole(payloads[1], payloads[0]);
    write_parts({num_groups, num_parts, in.group_cost, payloads[stays ? 0 : 1], stays}, parts,
                groups, pages);
  }
  __syncthreads();

  for (int block = thread; block < in.num_sms; block += kThreads) {
    const int p = block / num_lanes;
    Share share = {0, 0, -1, 0, block % num_lanes};
    if (p < num_parts && parts[p].last_group >= parts[p].first_group) {
      share.first_group = parts[p].first_group;
      share.first_page = parts[p].first_page;
      share.last_group = parts[p].last_group;
      share.end_page = parts[p].end_page;
      share.group = groups[share.first_group];
    }
    schedule->shares[block] = share;
  }
  // A part ends in at most one group that goes on in the next.
  int num_split = 0;
  for (int base = 0; base < num_parts; base += kThreads) {
    const int p = base + thread;
    bool begins_split = false;
    Group group = {};
    if (p < num_parts && parts[p].last_group >= parts[p].first_group) {
      group = groups[parts[p].last_group];
      begins_split = group.num_splits > 1 && group.first_part == p;
    }
    int added;
    const int before = block_prefix(begins_split ? 1 : 0, scratch, added);
    if (begins_split) schedule->split_groups[num_split + before] = group;
    num_split += added;
  }
  if (thread == 0) {
    schedule->num_groups = num_groups;
    schedule->num_lanes = num_lanes;
    schedule->num_parts = num_parts;
    schedule->num_split_groups = num_split;
    schedule->tile_rows = tile_rows;
  }
}

}  // namespace

void launch_schedule(const MlaDecodeProblem& p, int num_sms, void* metadata, cudaStream_t stream) {
  const Inputs in = {p.query_offsets,
                     p.kv_lens,
                     p.slots,
                     static_cast<int>(p.num_sequences),
                     static_cast<int>(p.num_heads),
                     num_sms,
                     group_cost(p.format),
                     p.batch_invariant};
  auto* schedule = static_cast<Schedule*>(metadata);
  schedule_kernel<<<1, kThreads, 0, stream>>>(in, schedule, reinterpret_cast<Group*>(schedule + 1));
}

}  // namespace deepflight::cuda_mla_decode
