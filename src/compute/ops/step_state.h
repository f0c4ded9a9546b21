// What lives on the device from step to step, indexed by slot, and the inputs of one step that are
// derived from it. The host only sends deltas, so a step can be launched before the last one's
// tokens are known.
#pragma once

#include <cstdint>

#include "compute/ops/slot_sampling.h"
#include "tensor/tensor_view.h"

namespace deepflight {

inline constexpr int kKvPageTokens = 64;  // tokens of a KV page

// Arrays indexed by slot. The last three are empty without drafts.
struct StepState {
  TensorView last_tokens;            // I32 [num_slots]: sampled, KV not yet written
  TensorView kv_lens;                // I32 [num_slots]: tokens whose KV is in the pages
  TensorView num_outputs;            // I32 [num_slots]: output tokens sampled so far
  TensorView page_table;             // I32 [num_slots, max_pages_per_slot]
  TensorView output_counts;          // I32 [num_slots, vocab_size]: occurrences in the output
  TensorView prompt_seen;            // U8 [num_slots, vocab_size]: 1 if in the prompt
  TensorView bias_ids;               // I32 [num_slots, max_biases]
  TensorView bias_values;            // F32 [num_slots, max_biases]
  TensorView banned_ids;             // I32 [num_slots, max_banned]
  TensorView token_masks;            // I32 [num_slots, mask_words]: a bit a token, 1: may come
  SlotSampling* sampling = nullptr;  // [num_slots]
  // Guesses for the tokens after last_tokens, which the next step verifies; -1: no guess.
  TensorView draft_tokens;    // I32 [num_slots, max draft_len]
  TensorView thinking;        // I32 [num_slots]: 1 between SlotSampling::think_start and think_end
  TensorView carried_states;  // [num_slots, levels * hidden]: see Backend::shift_states
};

// What the host changes in the state before a step's work, in one staging copy: sequences that take
// a slot, token masks, and pages that are added to page table rows. Arrays are flat; SlotDelta says
// which part of them is a slot's. A slot that is admitted and gets a mask has one mode in both.
struct StepDeltas {
  int64_t num_admissions = 0;
  const SlotDelta* admissions = nullptr;  // [num_admissions]
  TensorView tokens;                      // I32 [..]
  TensorView bias_ids;                    // I32 [..]
  TensorView bias_values;                 // F32 [..]
  TensorView banned_ids;                  // I32 [..]
  int64_t num_page_grants = 0;
  TensorView grant_slots;     // I32 [num_page_grants]
  TensorView grant_page_idx;  // I32 [num_page_grants]: column of the page table row
  TensorView grant_pages;     // I32 [num_page_grants]
  int64_t num_masks = 0;
  TensorView mask_slots;  // I32 [num_masks]
  TensorView mask_modes;  // I32 [num_masks]: SlotSampling::mask from now on
  TensorView masks;       // I32 [num_masks, mask_words]
};

// How a token's latent and rope values lie in a page. kF8E4M3 has one scale for all of a layer:
// stored value = e4m3(value / scale). kF8Group keeps e4m3 latents, then an F32 scale for each 128
// of them, then rope as BF16: 512 + 16 + 128 bytes at DeepSeek's widths (compute/ops/kv_token.h).
enum class KvFormat : uint8_t { kF32, kBF16, kF8E4M3, kF8Group };

inline constexpr int kKvGroup = 128;  // latents under one scale of kF8Group

// The KV pool: one page holds its tokens for all layers, [page][layer][64][token], and after them,
// where drafts are made, the states of its last token ([levels * hidden], activation dtype): what
// an MTP module needs to go on behind the page (Backend::shift_states).
struct KvPool {
  void* base = nullptr;
  KvFormat format = KvFormat::kF32;
  int64_t num_pages = 0;
  int64_t num_layers = 0;
  int64_t token_dim = 0;   // latent + rope elements
  int64_t tail_bytes = 0;  // of the states; a multiple of 16
  int64_t rope_dim = 0;    // kF8Group must know
  // Of kF8E4M3, on the host: a scale a layer; null: all are 1.
  const float* scales = nullptr;
  float scale(int64_t layer) const { return scales == nullptr ? 1.0f : scales[layer]; }
  // Of a token of kF8Group: latents, then these.
  int64_t num_groups() const { return (token_dim - rope_dim + kKvGroup - 1) / kKvGroup; }
  int64_t scales_offset_bytes() const { return (token_dim - rope_dim + 3) / 4 * 4; }
  int64_t rope_offset_bytes() const { return scales_offset_bytes() + 4 * num_groups(); }
  int64_t token_bytes() const {
    switch (format) {
      case KvFormat::kF32:
        return 4 * token_dim;
      case KvFormat::kBF16:
        return 2 * token_dim;
      case KvFormat::kF8E4M3:
        return token_dim;
      case KvFormat::kF8Group:
        return (rope_offset_bytes() + 2 * rope_dim + 3) / 4 * 4;
    }
    return 0;
  }
  int64_t layer_stride_bytes() const { return kKvPageTokens * token_bytes(); }
  int64_t tail_offset_bytes() const { return num_layers * layer_stride_bytes(); }
  int64_t page_stride_bytes() const { return tail_offset_bytes() + tail_bytes; }
  int64_t size_bytes() const { return num_pages * page_stride_bytes(); }
};

// Sequences that take part in one attention call. Queries of sequence s are the tokens
// [query_offsets[s], query_offsets[s + 1]) of the call; they are the last tokens of its kv_lens[s].
struct AttentionBatch {
  int64_t num_sequences = 0;
  TensorView query_offsets;  // I32 [num_sequences + 1]
  TensorView kv_lens;        // I32 [num_sequences], this step's tokens included
  TensorView slots;          // I32 [num_sequences]: rows of StepState::page_table
  // The same numbers on the host, where it knows them: always in StepInputs::expanded.
  const int32_t* host_query_offsets = nullptr;
  const int32_t* host_kv_lens = nullptr;
};

// What a step computes on. A token whose slot is negative is padding of a captured decode step: it
// is computed like any other, from token 0 at position 0 with no KV, writes no KV, samples token 0
// and changes no state.
//
// Decode rows come first (a slot's last token, then its draft_len drafts), then chunks whose tokens
// attend in the absorbed form, then chunks that attend in the expanded form. Sampled rows are all
// tokens of the decode rows, then the last tokens of chunks that sample.
struct StepInputs {
  int64_t num_decode_rows = 0;
  int64_t draft_len = 0;  // drafts of a decode row
  int64_t num_tokens = 0;
  int64_t num_absorbed_tokens = 0;  // decode rows included
  TensorView token_ids;             // I32 [num_tokens]
  TensorView positions;             // I32 [num_tokens]
  TensorView token_slots;           // I32 [num_tokens]: slot of each token
  AttentionBatch absorbed;
  AttentionBatch expanded;  // query_offsets count from num_absorbed_tokens
  int64_t num_sampled_rows = 0;
  TensorView sampled_token_idx;  // I32 [num_sampled_rows]: token whose logits are wanted
  TensorView sampled_slots;      // I32 [num_sampled_rows]
  // Query offsets of the absorbed sequences behind the decode rows, counted from their first token.
  TensorView replay_query_offsets;  // I32 [absorbed.num_sequences - num_decode_rows + 1]

  int64_t num_decode_tokens() const { return num_decode_rows * (1 + draft_len); }
  // Decode rows and sampling chunks: each gives one token or more.
  int64_t num_results() const { return num_decode_rows + num_sampled_rows - num_decode_tokens(); }
  // A sampled row's place among its decode row's tokens: so many drafts precede its output.
  int64_t draft_idx(int64_t row) const {
    return row < num_decode_tokens() ? row % (1 + draft_len) : 0;
  }
  int64_t first_row(int64_t result) const {
    return result < num_decode_rows ? result * (1 + draft_len)
                                    : num_decode_tokens() + result - num_decode_rows;
  }
};

// What the drafts for the next step are computed on; sequences are the results of the step.
struct DraftInputs {
  // The sampled rows of each result, one place on: row r is the token that r sampled, at the
  // position where the next step will feed it; then num_extra rows a result, at the positions
  // behind them, for drafts. Rows past a result's last accepted token and drafts are filled in too
  // and mean nothing; what they leave in the pages is overwritten by later steps before it is read.
  // token_ids, positions, token_slots; with extra rows absorbed, too. [num_sampled_rows +
  // num_extra * num_results]
  StepInputs verified;
  int64_t num_extra = 0;
  TensorView source_rows;  // with extra rows, I32: the sampled row of each (extra ones: any)
  TensorView draft_rows;   // with extra rows, I32 [num_results]: the row that makes the next draft
  // One token a sequence: at first its last accepted one, then (without extra rows) one draft after
  // the other. All of absorbed, token_ids, positions, token_slots [num_results].
  StepInputs chain;
  TensorView last_rows;  // I32 [num_results]: the verified row of the last accepted token
};

// Where sampling writes. Logprob arrays are filled for slots that ask for them.
struct SampledTokens {
  int64_t max_logprobs = 0;
  TensorView tokens;         // I32 [num_rows]
  TensorView logprobs;       // F32 [num_rows]: of the sampled token, before temperature
  TensorView top_ids;        // I32 [num_rows, max_logprobs]
  TensorView top_logprobs;   // F32 [num_rows, max_logprobs]
  TensorView first_bad_row;  // I32 [1]: -1, or a row whose logits were not finite
  // Set by update_state; may be empty where there are no drafts.
  TensorView num_accepted;  // I32 [num_results]: leading sampled tokens of a result that are output
};

}  // namespace deepflight
