#include "compute/cuda/kernels/attention/mla_prefill/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace deepflight::cuda_mla_prefill {
namespace {

// Every (query, token it sees) pair comes exactly once, in order of position.
TEST(MlaPrefillPlan, CoversWhatQueriesSee) {
  const std::vector<int32_t> lens = {1, 0, 65, 300, 128, 7};
  const std::vector<int32_t> kv_lens = {1, 5, 700, 300, 1000, 129};
  std::vector<int32_t> offsets = {0};
  for (const int32_t len : lens) offsets.push_back(offsets.back() + len);
  for (const int64_t chunk_tokens : {128, 256, 384, 4096}) {
    MlaPrefillProblem problem;
    problem.num_sequences = static_cast<int64_t>(lens.size());
    problem.host_query_offsets = offsets.data();
    problem.host_kv_lens = kv_lens.data();
    problem.kv_chunk_tokens = chunk_tokens;
    std::vector<int32_t> seen(offsets.back());
    ChunkPlanner planner(problem, kQueryTile);
    Chunk chunk;
    while (planner.next(chunk)) {
      ASSERT_LE(chunk.num_rows, chunk_tokens);
      int rows = 0, tiles = 0;
      for (int i = 0; i < chunk.num_pieces; ++i) {
        const Piece& piece = chunk.pieces[i];
        ASSERT_EQ(piece.first_key, rows);
        ASSERT_EQ(piece.first_tile, tiles);
        ASSERT_EQ(piece.kv_begin % chunk_tokens, 0);
        ASSERT_GE(piece.diagonal, 0);
        ASSERT_GT(piece.num_queries, 0);
        rows += (piece.num_keys + kKeyTile - 1) / kKeyTile * kKeyTile;
        tiles += (piece.num_queries + kQueryTile - 1) / kQueryTile;
        for (int q = 0; q < piece.num_queries; ++q) {
          ASSERT_EQ(seen[piece.first_query + q], piece.kv_begin);
          seen[piece.first_query + q] += std::min(piece.diagonal + q, piece.num_keys - 1) + 1;
        }
      }
      ASSERT_EQ(chunk.num_rows, rows);
      ASSERT_EQ(chunk.num_tiles, tiles);
    }
    for (size_t s = 0; s < lens.size(); ++s) {
      for (int q = 0; q < lens[s]; ++q) {
        ASSERT_EQ(seen[offsets[s] + q], kv_lens[s] - lens[s] + q + 1) << chunk_tokens;
      }
    }
  }
}

TEST(MlaPrefillPlan, ManySequencesNeedSeveralChunks) {
  std::vector<int32_t> offsets = {0}, kv_lens;
  for (int i = 0; i < 150; ++i) {
    offsets.push_back(offsets.back() + 3);
    kv_lens.push_back(3);
  }
  MlaPrefillProblem problem;
  problem.num_sequences = 150;
  problem.host_query_offsets = offsets.data();
  problem.host_kv_lens = kv_lens.data();
  problem.kv_chunk_tokens = 1 << 20;
  ChunkPlanner planner(problem, 1);
  Chunk chunk;
  int pieces = 0, chunks = 0;
  for (; planner.next(chunk); ++chunks) pieces += chunk.num_pieces;
  EXPECT_EQ(pieces, 150);
  EXPECT_EQ(chunks, 3);
}

}  // namespace
}  // namespace deepflight::cuda_mla_prefill
