// MtpDrafter: the checkpoint's MTP modules, which draft the tokens that the next step verifies. A
// module is a decoder layer that reads, at the position of token t[i], the token and the state s
// that the model had before it, and guesses the token after it:
//
//     x = projection [norm(embed(t[i])), norm(s[i - 1])];   m[i] = norm(layer(x))
//     t[i + 1] ~ lm_head(m[i])
//
// s is what the model has after its final norm. The published description puts this entry at
// position i - 1; here it lies at i, so that what a page holds follows from the page's own tokens
// and those before it, whatever comes next, and a page found in the prefix cache is as good as one
// computed anew. Rope sees differences of positions only. Position 0, which has no state before it,
// has no entry in the published order: what lies there is made with zeros and is never seen as a
// key (MlaCall::first_key; one position more for each further module). The state before a page's or
// a chunk's first token comes from where Backend::keep_states left it.
//
// A module's KV is one more layer of the pages. An entry depends on its own input alone, so tokens
// that draft nothing (prompts; all but the last accepted one of a decode row) only write it.
//
// Eagle: one module drafts them all. For the second draft it reads the first one and its own m, and
// so on; entries of drafts are overwritten when the tokens that really came are known.
//
// Vanilla: module k makes draft k. It reads the m of module k - 1 where that one reads s, so it
// runs over every token, and what keep_states keeps is a state for each module.
#pragma once

#include <cstdint>

#include "model/deepseek/decoder.h"

namespace deepflight {

class MtpDrafter {
 public:
  // References must outlive the drafter; the workspace is the decoder's, with MTP. The first
  // num_modules modules take part: 1 is eagle.
  MtpDrafter(const ModelWeights& weights, Backend& backend, DecoderWorkspace& workspace,
             Decoder& decoder, int64_t num_modules);

  // What a page carries at its end, and a slot, for `num_modules` modules. 0 without modules.
  static int64_t states_width(const DeepseekConfig& config, int64_t num_modules);

  // After Decoder::forward: the modules' KV of the step's prefill chunks, and the states to go on
  // from.
  void follow_chunks(const StepState& state, const StepInputs& inputs, const KvPool& pool);

  // After Backend::update_state and begin_drafts: the modules' KV of the sampled rows, then
  // num_drafts drafts for each sequence.
  void draft(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
             const KvPool& pool);

 private:
  // Token and state joined: the layer's input, in the workspace's residual.
  void join(const MtpWeights& module, const StepInputs& inputs, const TensorView& states);
  // Layer and final norm behind join. Returns the module's states, in the workspace.
  TensorView finish(int64_t module, const LayerContext& step);
  void draft_by_one(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
                    const KvPool& pool);
  void draft_by_each(const StepState& state, const DraftInputs& drafts, int64_t num_drafts,
                     const KvPool& pool);

  const ModelWeights& weights_;
  Backend& backend_;
  DecoderWorkspace& workspace_;
  Decoder& decoder_;
  const int64_t num_modules_;
};

}  // namespace deepflight
